"""Ranges of the coordinates of a model: cutting updates into shards and joining results."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from shoal.errors import UpdateError
from shoal.tensors import Layout, Tensors


def cut(value: Tensors, like: Tensors, shard: tuple[int, int], units: int) -> Tensors:
    """The part of an update (or model) that lies in a shard of the model `like`.

    Groups are cut too, each by its own size. A partial update gives a partial piece. Names stay;
    what is cut out of an array is one-dimensional.

    Args:
        shard: first and past-the-last of `units` equal ranges of the coordinates.

    Raises:
        UpdateError: for names, shapes or groups that the model has not.
    """
    if shard == (0, units):
        return value
    main = _cut(value, like, shard, units)
    groups = {}
    for prefix, group in value.groups.items():
        if prefix == "private/":
            continue
        if prefix not in like.groups:
            raise UpdateError(f"an update has {prefix!r}, which the model has not")
        groups[prefix] = _cut(group, like.groups[prefix], shard, units)
    return Tensors(main.layout, main.flat, groups)


def join(pieces: Sequence[Tensors], like: Tensors) -> Tensors:
    """The whole from its pieces, in the order of their shards."""
    if len(pieces) == 1:
        return pieces[0]
    flat = np.concatenate([piece.dense for piece in pieces])
    groups = {
        prefix: Tensors(
            like.groups[prefix].layout,
            np.concatenate([piece.groups[prefix].dense for piece in pieces]),
        )
        for prefix in pieces[0].groups
    }
    return Tensors(like.layout, flat, groups)


def _cut(value: Tensors, like: Tensors, shard: tuple[int, int], units: int) -> Tensors:
    whole = like.layout
    begin, end = (at * whole.size // units for at in shard)
    flat = value.dense
    if value.layout == whole:
        return Tensors(_piece(whole, begin, end), flat[begin:end])
    chosen, names, shapes = [], [], []
    for name, (start, stop) in _spans(whole, begin, end):
        if name in value.layout.slices:
            where, shape = value.layout.slices[name]
            if shape != whole.slices[name][1]:
                raise UpdateError(f"{name}: shape {shape}, the model's {whole.slices[name][1]}")
            chosen.append(flat[where.start + start : where.start + stop])
            names.append(name)
            shapes.append((stop - start,))
    for name in value.layout.names:
        if name not in whole.slices:
            raise UpdateError(f"{name}: the model has no such name")
    layout = Layout(tuple(names), tuple(shapes), value.layout.dtype)
    return Tensors(layout, np.concatenate(chosen) if chosen else flat[:0])


@lru_cache(maxsize=4096)
def _piece(whole: Layout, begin: int, end: int) -> Layout:
    spans = _spans(whole, begin, end)
    return Layout(tuple(n for n, _ in spans), tuple((b - a,) for _, (a, b) in spans), whole.dtype)


@lru_cache(maxsize=4096)
def _spans(whole: Layout, begin: int, end: int) -> tuple[tuple[str, tuple[int, int]], ...]:
    """The names that lie in a range, with where it cuts each of them."""
    found = []
    for name, (where, _) in whole.slices.items():
        start, stop = max(begin, where.start), min(end, where.stop)
        if start < stop:
            found.append((name, (start - where.start, stop - where.start)))
    return tuple(found)
