"""What can be folded as it was received: plain float arrays, and values in more compact forms.

They mirror the codecs of `shoal.encoded`, without their methods: kernels stand below everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """Floats of 16 bits.

    Attributes:
        bits: uint16, shape (size,).
        kind: "f16" (IEEE half precision) or "bf16" (the upper half of a float32).
    """

    bits: Array
    kind: Literal["f16", "bf16"]


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Integer codes in blocks with one scale each: value = code * scale of its block.

    Attributes:
        codes: int8, shape (size,).
        scales: float32 or float64, shape (ceil(size / block),).
        block: codes for each scale.
    """

    codes: Array
    scales: Array
    block: int


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Values at strictly rising indices; nothing is added elsewhere.

    Attributes:
        indices: integers, shape (k,).
        values: floats, shape (k,).
    """

    indices: Array
    values: Array


Source = Array | Half | Codes | Pairs


class Overflow(OverflowError):
    """A fixed-point sum could overflow, or a value is not finite; nothing was added.

    Attributes:
        peaks: the largest magnitude of each source, or NaN.
    """

    def __init__(self, peaks: Sequence[float]) -> None:
        super().__init__(f"the sum of values up to {max(peaks)} does not fit 64-bit fixed point")
        self.peaks = list(peaks)


def bound(peaks: Sequence[float], scales: Sequence[float], room: int) -> int:
    """What the sum of rint(scale * value) may reach in magnitude.

    Raises:
        Overflow: if that is more than `room`, or not a number.
    """
    most = [peak * abs(scale) for peak, scale in zip(peaks, scales, strict=True)]
    if not all(x < 2.0**63 for x in most) or (total := sum(map(round, most))) > room:
        raise Overflow(peaks)
    return total


def check(source: Source, size: int) -> None:
    """Raise ValueError unless there are `size` values, IndexError for bad indices."""
    if isinstance(source, Pairs):
        index = source.indices
        if index.shape != source.values.shape:
            raise ValueError(f"{index.size} indices for {source.values.size} values")
        if index.size and not (index[0] >= 0 and index[-1] < size and (np.diff(index) > 0).all()):
            raise IndexError(f"indices must rise strictly within 0..{size - 1}")
        return
    array = source if isinstance(source, np.ndarray) else _main(source)
    if array.shape != (size,):
        raise ValueError(f"a source of shape {array.shape} for {size} values")
    if isinstance(source, Codes) and source.scales.size != -(-size // source.block):
        raise ValueError(f"{source.scales.size} scales for {size} codes in blocks {source.block}")


def decoded(source: Source, size: int) -> Array:
    """The values of a checked source as floats, decoded in its own precision: shape (size,)."""
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, Pairs):
        values = np.zeros(size, source.values.dtype)
        values[source.indices] = source.values
        return values
    if isinstance(source, Half):
        if source.kind == "f16":
            return source.bits.view(np.float16).astype(np.float32)
        return (source.bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    values = source.codes.astype(source.scales.dtype)
    whole = size // source.block * source.block
    with np.errstate(all="ignore"):
        parts = values[:whole].reshape(-1, source.block)
        parts *= source.scales[: whole // source.block, None]
        values[whole:] *= source.scales[-1:]
    return values


def _main(source: Half | Codes) -> Array:
    return source.bits if isinstance(source, Half) else source.codes
