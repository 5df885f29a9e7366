"""Ranges of coordinates: updates and accumulators cut into shards, and shards joined again.

Shard s of m covers coordinates s * size // m to (s + 1) * size // m of the trainable values, and
of each group likewise. A single shard is the whole, as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from shoal.aggregators.routed import Split
from shoal.encoded import Array, Quantized, Sparse, dense
from shoal.parts import blank
from shoal.tensors import Layout, Leaf, Tensors

WHOLE = "\0"  # an empty name that whole updates have, so that no cut makes a partial one look whole


@dataclass(frozen=True)
class Shard:
    """One of `count` ranges of the coordinates."""

    index: int
    count: int

    def range(self, size: int) -> tuple[int, int]:
        """Where it begins and ends in so many values."""
        return size * self.index // self.count, size * (self.index + 1) // self.count

    def like(self, layouts: Mapping[str, Layout]) -> Tensors:
        """Names and shapes of the model that is cut to it.

        Args:
            layouts: of the trainable values under "", of groups under their prefixes.
        """
        parts = {p: blank(self._layout(layouts[p])) for p in self._inside(layouts)}
        main = parts.pop("")
        return Tensors(main.layout, main.flat, parts)

    def cut(self, value: Tensors, layouts: Mapping[str, Layout]) -> Tensors:
        """What of a model or update lies in it; views where that is possible."""
        main = self._cut(value, layouts[""])
        inside = self._inside(layouts)
        groups = {p: self._cut(g, layouts[p]) for p, g in value.groups.items() if p in inside}
        return Tensors(main.layout, main.flat, groups)

    def cut_accumulator(self, acc: Split, layouts: Mapping[str, Layout]) -> Split:
        """What of an accumulator lies in it."""

        def part(acc: Any, layout: Layout) -> Any:
            begin, end = self.range(layout.size)
            return walk(
                acc,
                lambda array: array[begin:end] if array.shape == (layout.size,) else array,
                lambda tensors: self._cut(tensors, layout),
            )

        if self.count == 1:
            return acc
        inside = self._inside(layouts)
        keep = [i for i, prefix in enumerate(acc.prefixes) if prefix in inside]
        groups = (part(acc.parts[i + 1], layouts[acc.prefixes[i]]) for i in keep)
        return Split(
            tuple(acc.prefixes[i] for i in keep),
            tuple(acc.counts[i] for i in keep),
            (part(acc.parts[0], layouts[""]), *groups),
        )

    def _inside(self, layouts: Mapping[str, Layout]) -> list[str]:
        """Prefixes of the groups that have values here; small ones have not in every shard."""
        if self.count == 1:
            return list(layouts)
        ranges = ((prefix, self.range(layout.size)) for prefix, layout in layouts.items())
        return [prefix for prefix, (begin, end) in ranges if begin < end or not prefix]

    def _layout(self, whole: Layout) -> Layout:
        return whole if self.count == 1 else _piece(whole, *self.range(whole.size))

    def _cut(self, value: Tensors, whole: Layout) -> Tensors:
        if self.count == 1:
            return Tensors(value.layout, value.flat)
        begin, end = self.range(whole.size)
        if value.layout == whole:
            return Tensors(_piece(whole, begin, end), _range(value.flat, begin, end))
        found = pieces(whole, value.layout, begin, end)
        layout = Layout(
            tuple(name for name, _ in found),
            tuple((at.stop - at.start,) for _, at in found),
            whole.dtype,
        )
        return Tensors(layout, _gathered(value.dense, [at for _, at in found]))


def join(shards: Sequence[Tensors], layouts: Mapping[str, Layout], whole: Tensors) -> Tensors:
    """The tensors that were cut.

    Args:
        layouts: of the model.
        whole: names and shapes of the result, groups included.
    """

    def part(prefix: str, like: Tensors) -> Tensors:
        out, size = np.empty(like.layout.size, like.layout.dtype), layouts[prefix].size
        for index, shard in enumerate(shards):
            begin, end = Shard(index, len(shards)).range(size)
            if prefix and prefix not in shard.groups:
                continue  # it has none of its values
            values, at = (shard.groups[prefix] if prefix else shard).dense, 0
            for _, where in pieces(layouts[prefix], like.layout, begin, end):
                length = where.stop - where.start
                out[where] = values[at : at + length]
                at += length
        return Tensors(like.layout, out)

    if len(shards) == 1:
        return shards[0]
    main = part("", whole)
    return Tensors(
        main.layout,
        main.flat,
        {prefix: part(prefix, whole.groups[prefix]) for prefix in whole.groups},
    )


def ghost(value: Tensors, peaks: bool) -> Tensors:
    """Each array of the tensors as one value, the largest magnitude in it, or zero if not `peaks`.

    What a rule would refuse, e.g. a sum that could overflow, it refuses for this too.
    """

    def part(value: Tensors) -> Tensors:
        layout = value.layout
        small = Layout(layout.names, ((1,),) * len(layout.names), layout.dtype)
        out = np.zeros(small.size, layout.dtype)
        if peaks:
            flat = value.dense
            for i, (where, _) in enumerate(layout.slices.values()):
                out[i] = _peak(flat[where])
        return Tensors(small, out)

    main = part(value)
    return Tensors(main.layout, main.flat, {p: part(g) for p, g in value.groups.items()})


def ghost_accumulator(acc: Split, layouts: Mapping[str, Layout]) -> Split:
    """The accumulator that ghosts of the same updates would have made."""

    def part(acc: Any, layout: Layout) -> Any:
        def array(values: Array) -> Array:
            if values.shape != (layout.size,):
                return values
            found = [_peak(values[where]) for where, _ in layout.slices.values()]
            return np.array(found, values.dtype)

        return walk(acc, array, lambda tensors: ghost(tensors, peaks=False))

    names = ("", *acc.prefixes)
    return replace(
        acc, parts=tuple(part(p, layouts[n]) for p, n in zip(acc.parts, names, strict=True))
    )


def walk(value: Any, array: Callable[[Array], Array], tensors: Callable[[Tensors], Tensors]) -> Any:
    """An accumulator with each array and all tensors in it changed."""
    if isinstance(value, np.ndarray):
        return array(value)
    if isinstance(value, Tensors):
        return tensors(value)
    if isinstance(value, tuple):
        return tuple(walk(item, array, tensors) for item in value)
    if isinstance(value, Mapping):
        return {key: walk(item, array, tensors) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        return replace(value, **{n: walk(item, array, tensors) for n, item in inner.items()})
    return value


def layouts_of(model: Tensors) -> dict[str, Layout]:
    """Layouts of the trainable values, under "", and of the groups that leave the client."""
    groups = {p: group.layout for p, group in model.groups.items() if p != "private/"}
    return {"": model.layout, **groups}


def without_values(value: Tensors) -> Tensors:
    """Names and shapes alone."""
    groups = {prefix: blank(group.layout) for prefix, group in value.groups.items()}
    return Tensors(value.layout, blank(value.layout).flat, groups)


def like_of(model: Tensors, parts: Sequence[Tensors]) -> Tensors:
    """The model with those groups only that the shards of an aggregate have."""
    sent = {prefix for part in parts for prefix in part.groups}
    groups = {prefix: group for prefix, group in model.groups.items() if prefix in sent}
    return Tensors(model.layout, model.flat, groups)


def pieces(whole: Layout, part: Layout, begin: int, end: int) -> list[tuple[str, slice]]:
    """Where the values of a part lie that a range of the whole holds: (name, range in the part)."""
    found = []
    for name, (source, _) in part.slices.items():
        at = whole.slices[name][0]
        low, high = max(at.start, begin), min(at.stop, end)
        if low < high:
            shift = source.start - at.start
            found.append((name, slice(low + shift, high + shift)))
    return found


@lru_cache(maxsize=1024)
def _piece(whole: Layout, begin: int, end: int) -> Layout:
    found = pieces(whole, whole, begin, end)
    names, shapes = [n for n, _ in found], [(at.stop - at.start,) for _, at in found]
    return Layout((*names, WHOLE), (*shapes, (0,)), whole.dtype)


def _range(leaf: Leaf, begin: int, end: int) -> Leaf:
    if isinstance(leaf, Sparse):
        low, high = (int(at) for at in np.searchsorted(leaf.indices, (begin, end)))
        return Sparse(end - begin, leaf.indices[low:high] - begin, dense(leaf.values)[low:high])
    if isinstance(leaf, Quantized) and begin % leaf.block == 0 and begin < end:
        scales = leaf.scales[begin // leaf.block : -(-end // leaf.block)]
        return Quantized(leaf.codes[begin:end], scales, leaf.block)
    return dense(leaf)[begin:end]


def _gathered(flat: Array, where: list[slice]) -> Array:
    """Some ranges one after the other: a view if they adjoin."""
    if all(a.stop == b.start for a, b in pairwise(where)):
        return flat[where[0].start : where[-1].stop] if where else flat[:0]
    return np.concatenate([flat[at] for at in where])


def _peak(values: Array) -> Any:
    if not values.size:
        return 0
    largest = max(values.max().item(), -values.min().item())
    return min(largest, np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else largest
