"""Parts of a model: where the values of a smaller layout lie in a larger one."""

from functools import lru_cache

import numpy as np

from shoal.encoded import Array, Sparse
from shoal.errors import UpdateError
from shoal.tensors import Layout, Tensors


@lru_cache(maxsize=256)
def ranges(whole: Layout, part: Layout) -> tuple[tuple[slice, slice], ...]:
    """Pairs of a range in the whole and its range in the part; adjoining ones are joined.

    Raises:
        UpdateError: if the part has a name or shape that the whole has not.
    """
    pairs: list[tuple[slice, slice]] = []
    for name, (source, shape) in part.slices.items():
        target, expected = whole.slices.get(name, (slice(0), None))
        if shape != expected:
            raise UpdateError(f"{name}: shape {shape} where the model has {expected or 'no such'}")
        if pairs and pairs[-1][0].stop == target.start:
            before = pairs.pop()
            target = slice(before[0].start, target.stop)
            source = slice(before[1].start, source.stop)
        pairs.append((target, source))
    return tuple(pairs)


def gather(flat: Array, whole: Layout, part: Layout) -> Array:
    """The values of a part of a flat buffer; the buffer itself if the part is all of it."""
    if whole == part:
        return flat
    chosen = [flat[target] for target, _ in ranges(whole, part)]
    return np.concatenate(chosen) if chosen else flat[:0]


def scatter(flat: Array, whole: Layout, part: Layout, values: Array) -> Array:
    """The flat buffer with the values of a part replaced; the input is not changed."""
    if whole == part:
        return values
    out = flat.copy()
    for target, source in ranges(whole, part):
        out[target] = values[source]
    return out


def blank(layout: Layout) -> Tensors:
    """Zeros that take no memory: names and shapes that go where only tensors can."""
    return Tensors(layout, Sparse(layout.size, np.zeros(0, np.int64), np.zeros(0, layout.dtype)))
