"""A model as contiguous buffers with named, shaped views.

`Tensors` is an immutable mapping from names to arrays. All trainable values lie in one flat buffer,
so that folding, clipping, the wire and checkpoints touch one array. Names with a prefix carry
meaning and form groups, each a `Tensors` of its own:

    private/...  never leaves the client        control/...  rides along with the model
    buffer/...   non-trainable, averaged plainly    counter/...  integers, the maximum wins
    clip/... mask/... momentum/...  belong to the methods of those names

Arrays are taken over, not copied: whoever hands a buffer to `Tensors` gives it away and must not
write to it afterwards. `Tensors` itself only holds a read-only view.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from shoal import kernels
from shoal.encoded import Encoded
from shoal.errors import ModelError

Array = NDArray[Any]
Leaf = Array | Encoded
LARGE = 1 << 16  # values for which two threads are faster than one
PREFIXES = ("buffer/", "clip/", "control/", "counter/", "mask/", "momentum/", "private/")


@dataclass(frozen=True)
class Layout:
    """Names, shapes and one dtype, packed in order into a flat buffer of `size` elements."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes) or len(set(self.names)) != len(self.names):
            different = len(set(self.names))
            raise ModelError(
                f"{len(self.names)} names, {different} different, for {len(self.shapes)} shapes"
            )

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what is cached: the hashes of strings are another process's no more.
        return Layout, (self.names, self.shapes, self.dtype)

    @cached_property
    def _hash(self) -> int:
        return hash((self.names, self.shapes, self.dtype))

    @cached_property
    def slices(self) -> Mapping[str, tuple[slice, tuple[int, ...]]]:
        """Each name's range in the flat buffer, and its shape."""
        found, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = start + prod(shape)
            found[name] = (slice(start, stop), shape)
            start = stop
        return found

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return sum(prod(shape) for shape in self.shapes)

    def part(self, names: Sequence[str]) -> "Layout":
        """The layout of some of the names, in this layout's order."""
        keep = set(names)
        chosen = [(n, s) for n, s in zip(self.names, self.shapes, strict=True) if n in keep]
        return Layout(tuple(n for n, _ in chosen), tuple(s for _, s in chosen), self.dtype)


EMPTY = Layout((), (), np.dtype(np.float32))


class Tensors(Mapping[str, Array]):
    """An immutable model, delta or state.

    `flat` is taken over: its owner must not write to it any more.

    Attributes:
        layout: names and shapes of the trainable values.
        flat: their one buffer, read-only, 1-D, in the layout's dtype, or an `Encoded` for it.
        groups: the prefixed parts, each under its names without the prefix.

    Raises:
        ModelError: if the buffer does not fit the layout, or a group is none of `PREFIXES`.
    """

    __slots__ = ("flat", "groups", "layout")
    layout: Final[Layout]
    flat: Final[Leaf]
    groups: Final[Mapping[str, "Tensors"]]

    def __init__(
        self, layout: Layout, flat: Leaf, groups: Mapping[str, "Tensors"] | None = None
    ) -> None:
        if flat.size != layout.size:
            raise ModelError(f"buffer of {flat.size} values for a layout of {layout.size}")
        if isinstance(flat, np.ndarray):
            if flat.ndim != 1 or flat.dtype != layout.dtype:
                raise ModelError(
                    f"buffer of shape {flat.shape} and dtype {flat.dtype} for a layout of"
                    f" {layout.size} values of {layout.dtype}: flatten and cast it first"
                )
            flat = flat.view()
            flat.flags.writeable = False
        self.layout = layout
        self.flat = flat
        self.groups = _checked(groups) if groups else {}

    @classmethod
    def of(cls, values: Mapping[str, ArrayLike], dtype: DTypeLike | None = None) -> Self:
        """Pack copies of named arrays, sorting prefixed names into groups.

        Args:
            values: numbers or arrays of any shape, () included.
            dtype: of the trainable values; groups keep their own.

        Raises:
            ModelError: if values are not numbers, or one group mixes dtypes and no `dtype` says
                what to make of them.
        """
        parts: dict[str, dict[str, Array]] = {"": {}}
        for name, value in values.items():
            prefix = prefix_of(name)
            parts.setdefault(prefix, {})[name.removeprefix(prefix)] = np.asarray(value)
        main = pack(parts.pop(""), dtype)
        groups = {prefix: Tensors(*pack(parts[prefix])) for prefix in sorted(parts)}
        return cls(*main, groups)

    def __getitem__(self, name: str) -> Array:
        # Encoded values are decoded on each look: take `dense` once to see many.
        prefix = prefix_of(name)
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

    def __eq__(self, other: object) -> bool:
        return equal(self, other) if isinstance(other, Tensors) else NotImplemented

    def __reduce__(self) -> tuple[Any, ...]:
        return Tensors, (self.layout, self.flat, self.groups)

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
        if group is None and prefix not in self.groups:
            return self
        groups = {p: g for p, g in self.groups.items() if p != prefix}
        if group is not None:
            groups[prefix] = group
        return Tensors(self.layout, self.flat, dict(sorted(groups.items())))

    def select(self, names: Sequence[str]) -> "Tensors":
        """The trainable values of some names only, in this layout's order; groups are kept.

        Raises:
            ModelError: for a name that is not there.
        """
        if names == self.layout.names:
            return self
        layout = self.layout.part(names)
        missing = set(names) - set(layout.names)
        if missing:
            raise ModelError(f"no such names in the model: {', '.join(sorted(missing))}")
        if layout == self.layout:
            return self
        flat, values = np.empty(layout.size, layout.dtype), self.dense
        for name, (where, _) in layout.slices.items():
            flat[where] = values[self.layout.slices[name][0]]
        return Tensors(layout, flat, self.groups)

    def finite(self) -> bool:
        """Whether every value is finite; one pass at memory speed."""
        own = self.flat.finite() if isinstance(self.flat, Encoded) else all_finite(self.flat)
        return own and (not self.groups or all(group.finite() for group in self.groups.values()))


def all_finite(values: Array) -> bool:
    """Whether a 1-D array is free of NaN and infinity."""
    if values.dtype.kind != "f":
        return True
    if values.size > LARGE and values.dtype.itemsize >= 4:
        return kernels.all_finite(values)
    if values.size > 4096:
        with np.errstate(over="ignore", invalid="ignore"):
            # The dot product, at memory speed, is finite only if all values are; large finite
            # values may overflow it.
            if np.isfinite(np.dot(values, values)):
                return True
    return bool(np.isfinite(values).all())


def zeros(layout: Layout) -> Tensors:
    """Zeros in the given layout."""
    return Tensors(layout, np.zeros(layout.size, layout.dtype))


def equal(a: Tensors, b: Tensors) -> bool:
    """Whether two tensors have the same names, shapes, dtypes and (decoded) bits."""
    if a is b:
        return True
    if a.layout != b.layout or set(a.groups) != set(b.groups):
        return False
    return _same_bits(a.dense, b.dense) and all(equal(a.groups[p], b.groups[p]) for p in a.groups)


def difference(model: Tensors, base: Tensors) -> Tensors:
    """The delta `model - base`; buffers and counters are values, so they stay the model's.

    Raises:
        ModelError: if names, shapes or dtypes differ.
    """
    groups = {
        prefix: group
        if prefix in ("buffer/", "counter/")
        else group.with_flat(_minus(group, base.groups.get(prefix), prefix))
        for prefix, group in model.groups.items()
    }
    return Tensors(model.layout, _minus(model, base), groups)


def added(base: Tensors, delta: Tensors) -> Tensors:
    """`base + delta`, dense; buffers and counters are values already, so they stay the delta's.

    Raises:
        ModelError: if the base lacks a group of the delta, or their sizes differ.
    """
    groups = {}
    for prefix, group in delta.groups.items():
        if prefix in ("buffer/", "counter/"):
            groups[prefix] = group.with_flat(group.dense)
        elif prefix in base.groups:
            groups[prefix] = added(base.groups[prefix], group)
        else:
            raise ModelError(f"no sum: the base has no values under {prefix!r}")
    if base.layout.size != delta.layout.size:
        raise ModelError(f"no sum of {base!r} and {delta!r}: their layouts differ")
    a, b = base.dense, delta.dense
    flat = a ^ b if base.layout.dtype.kind == "b" else a + b
    return Tensors(delta.layout, flat.astype(base.layout.dtype, copy=False), groups)


def prefix_of(name: str) -> str:
    """The prefix that puts a name into a group; "" for a trainable value."""
    if "/" not in name:
        return ""
    head = name[: name.index("/") + 1]
    return head if head in PREFIXES else ""


def pack(values: Mapping[str, Array], dtype: DTypeLike | None = None) -> tuple[Layout, Array]:
    """Named arrays of one dtype as one new buffer and its layout; prefixes mean nothing here.

    Raises:
        ModelError: if values are not numbers, or mix dtypes and no `dtype` is given.
    """
    dtypes = {v.dtype for v in values.values()} if dtype is None else {np.dtype(dtype)}
    if len(dtypes) > 1:
        kinds = ", ".join(sorted(str(d) for d in dtypes))
        raise ModelError(f"values of several dtypes ({kinds}): give one dtype, or use groups")
    kind = dtypes.pop().newbyteorder("=") if dtypes else EMPTY.dtype
    for name, value in values.items():
        if not (_is_number(value.dtype) and _is_number(kind)):
            raise ModelError(f"{name}: {value.dtype} as {kind} is not a dtype for numbers here")
    layout = Layout(tuple(values), tuple(v.shape for v in values.values()), kind)
    flat = np.empty(layout.size, kind)
    for name, (where, shape) in layout.slices.items():
        flat[where].reshape(shape)[...] = values[name]
    return layout, flat


def _is_number(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fiub" and dtype.itemsize <= 8


def _checked(groups: Mapping[str, Tensors]) -> Mapping[str, Tensors]:
    for prefix, group in groups.items():
        if prefix not in PREFIXES or group.groups:
            raise ModelError(
                f"group {prefix!r}: must be one of {', '.join(PREFIXES)}, without groups of its own"
            )
    return dict(groups)


def _minus(model: Tensors, base: Tensors | None, prefix: str = "") -> Array:
    if base is None or (model.layout is not base.layout and model.layout != base.layout):
        there = "nothing" if base is None else f"another layout ({base!r})"
        raise ModelError(f"no difference of {prefix}{model!r}: the base has {there} there")
    if model.layout.dtype.kind == "b":
        return model.dense ^ base.dense
    return np.subtract(model.dense, base.dense)


def _same_bits(a: Array, b: Array) -> bool:
    if a.dtype != b.dtype:
        return False
    bits = [np.ascontiguousarray(x).view(f"u{x.itemsize}") for x in (a, b)]
    return bool((bits[0] == bits[1]).all())
