"""A model as contiguous buffers with named, shaped views.

`Tensors` is an immutable mapping from names to arrays. All trainable values lie in one flat buffer,
so that folding, clipping, the wire and checkpoints touch one array. Names with a prefix carry
meaning and form groups, each a `Tensors` of its own:

    private/...  never leaves the client        control/...  rides along with the model
    buffer/...   non-trainable, averaged plainly    counter/...  integers, the maximum wins
    clip/... mask/...  belong to the methods of those names
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from shoal.encoded import Encoded
from shoal.errors import ModelError

Array = NDArray[Any]
Leaf = Array | Encoded
PREFIXES = ("private/", "control/", "buffer/", "counter/", "clip/", "mask/")


@dataclass(frozen=True)
class Layout:
    """Names, shapes and one dtype, packed in order into a flat buffer of `size` elements."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: np.dtype[Any]

    @cached_property
    def slices(self) -> Mapping[str, tuple[slice, tuple[int, ...]]]:
        """Each name's range in the flat buffer, and its shape."""
        found, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = start + int(np.prod(shape, dtype=np.int64))
            found[name] = (slice(start, stop), shape)
            start = stop
        return found

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return sum(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    def part(self, names: Sequence[str]) -> "Layout":
        """The layout of some of the names, in this layout's order."""
        keep = set(names)
        chosen = [(n, s) for n, s in zip(self.names, self.shapes, strict=True) if n in keep]
        return Layout(tuple(n for n, _ in chosen), tuple(s for _, s in chosen), self.dtype)


EMPTY = Layout((), (), np.dtype(np.float32))


class Tensors(Mapping[str, Array]):
    """An immutable model, delta or state.

    Attributes:
        layout: names and shapes of the trainable values.
        flat: their one contiguous buffer, 1-D, or an `Encoded` that stands for it.
        groups: the prefixed parts, each under its names without the prefix.
    """

    __slots__ = ("flat", "groups", "layout")

    def __init__(
        self, layout: Layout, flat: Leaf, groups: Mapping[str, "Tensors"] | None = None
    ) -> None:
        if flat.size != layout.size:
            raise ModelError(f"buffer of {flat.size} values for a layout of {layout.size}")
        if isinstance(flat, np.ndarray):
            flat = flat.view()
            flat.flags.writeable = False
        self.layout = layout
        self.flat: Leaf = flat
        self.groups: Mapping[str, Tensors] = groups or {}

    @classmethod
    def of(cls, values: Mapping[str, ArrayLike], dtype: DTypeLike | None = None) -> Self:
        """Pack named arrays, sorting prefixed names into groups.

        Raises:
            ModelError: if one group mixes dtypes and no `dtype` says what to make of them.
        """
        plain = {k: np.asarray(v) for k, v in values.items() if _prefix(k) == ""}
        groups = {}
        for prefix in PREFIXES:
            part = {
                k.removeprefix(prefix): np.asarray(v)
                for k, v in values.items()
                if k.startswith(prefix)
            }
            if part:
                groups[prefix] = Tensors(*_pack(part, None))
        return cls(*_pack(plain, dtype), groups)

    def __getitem__(self, name: str) -> Array:
        prefix = _prefix(name)
        if prefix:
            if prefix not in self.groups:
                raise KeyError(name)
            return self.groups[prefix][name.removeprefix(prefix)]
        where, shape = self.layout.slices[name]
        return self.dense[where].reshape(shape)

    def __iter__(self) -> Iterator[str]:
        yield from self.layout.names
        for prefix, group in self.groups.items():
            for name in group:
                yield prefix + name

    def __len__(self) -> int:
        return len(self.layout.names) + sum(len(group) for group in self.groups.values())

    def __repr__(self) -> str:
        groups = "".join(f", {p}*{len(g)}" for p, g in self.groups.items())
        kind = "" if isinstance(self.flat, np.ndarray) else f", {type(self.flat).__name__}"
        return f"Tensors({len(self.layout.names)} names, {self.layout.size} values{kind}{groups})"

    @property
    def dense(self) -> Array:
        """The flat buffer, decoded if it is encoded."""
        return self.flat if isinstance(self.flat, np.ndarray) else self.flat.dense()

    @property
    def nbytes(self) -> int:
        """Bytes of all values as they are held, without names."""
        return self.flat.nbytes + sum(group.nbytes for group in self.groups.values())

    def with_flat(self, flat: Leaf) -> "Tensors":
        """The same names and groups over another buffer of trainable values."""
        return Tensors(self.layout, flat, self.groups)

    def with_group(self, prefix: str, group: "Tensors | None") -> "Tensors":
        """The same with one prefixed group replaced, or left out if None."""
        groups = {p: g for p, g in self.groups.items() if p != prefix}
        if group is not None:
            groups[prefix] = group
        return Tensors(self.layout, self.flat, dict(sorted(groups.items())))

    def select(self, names: Sequence[str]) -> "Tensors":
        """The trainable values of some names only; groups are kept."""
        layout = self.layout.part(names)
        if layout == self.layout:
            return self
        missing = set(names) - set(layout.names)
        if missing:
            raise ModelError(f"no such names in the model: {', '.join(sorted(missing))}")
        flat = np.concatenate([self.dense[self.layout.slices[n][0]] for n in layout.names])
        return Tensors(layout, flat, self.groups)

    def finite(self) -> bool:
        """Whether every value is finite; one pass at memory speed."""
        own = self.flat.finite() if isinstance(self.flat, Encoded) else all_finite(self.flat)
        return own and all(group.finite() for group in self.groups.values())


def all_finite(values: Array) -> bool:
    """Whether a 1-D array is free of NaN and infinity."""
    if values.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        # The dot product is finite only if all values are; a large finite value may overflow it.
        quick = bool(np.isfinite(np.dot(values, values)))
    return quick or bool(np.isfinite(values).all())


def zeros(layout: Layout) -> Tensors:
    """Zeros in the given layout."""
    return Tensors(layout, np.zeros(layout.size, layout.dtype))


def equal(a: Tensors, b: Tensors) -> bool:
    """Whether two tensors have the same names, shapes, dtypes and bits."""
    if a.layout != b.layout or set(a.groups) != set(b.groups):
        return False
    same = a.dense.tobytes() == b.dense.tobytes()
    return same and all(equal(a.groups[p], b.groups[p]) for p in a.groups)


def difference(model: Tensors, base: Tensors) -> Tensors:
    """The delta `model - base`; buffers and counters are values, so they stay the model's."""
    groups = {
        prefix: group
        if prefix in ("buffer/", "counter/")
        else group.with_flat(group.dense - base.groups[prefix].dense)
        for prefix, group in model.groups.items()
    }
    return Tensors(model.layout, model.dense - base.dense, groups)


def _prefix(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return prefix
    return ""


def _pack(values: Mapping[str, Array], dtype: DTypeLike | None) -> tuple[Layout, Array]:
    dtypes = {v.dtype for v in values.values()} if dtype is None else {np.dtype(dtype)}
    if len(dtypes) > 1:
        kinds = ", ".join(sorted(str(d) for d in dtypes))
        raise ModelError(f"values of several dtypes ({kinds}): give one dtype, or use groups")
    kind = dtypes.pop() if dtypes else EMPTY.dtype
    layout = Layout(tuple(values), tuple(v.shape for v in values.values()), kind)
    flat = np.empty(layout.size, kind)
    for name, (where, shape) in layout.slices.items():
        flat[where].reshape(shape)[...] = values[name]
    return layout, flat
