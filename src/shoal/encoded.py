"""Encoded buffers that describe themselves, so that the server keeps no copy of a client's codec.

An `Encoded` stands for a flat buffer of `size` values. It is made of named arrays, which may be
encoded in turn (`Sparse` with quantized values), and of a few plain fields. The wire needs no more
than `parts`, `fields` and the codec's name in `CODECS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Encoded(ABC):
    """A flat buffer in another form; immutable."""

    size: int

    @abstractmethod
    def dense(self) -> Array:
        """The values, decoded: shape (size,)."""

    @abstractmethod
    def parts(self) -> Mapping[str, "Array | Encoded"]:
        """The arrays that make it up, by field name."""

    def fields(self) -> Mapping[str, int | float | str]:
        """The plain fields beside the arrays."""
        return {"size": self.size}

    def add_to(self, out: Array, weight: float) -> None:
        """Add weight times the values to `out`, shape (size,), in place."""
        out += weight * self.dense()

    def finite(self) -> bool:
        """Whether every decoded value is finite."""
        return bool(np.isfinite(self.dense()).all())

    def check(self) -> str:
        """What is wrong with the parts, e.g. an index out of range; empty if nothing is."""
        return ""

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts().values())


@dataclass(frozen=True, eq=False)
class Sparse(Encoded):
    """Values at strictly rising indices of a buffer of `size`; zero elsewhere.

    Attributes:
        indices: int32 or int64, shape (k,).
        values: shape (k,), an array or encoded.
    """

    size: int
    indices: Array
    values: Array | Encoded

    def dense(self) -> Array:
        """The values, decoded: shape (size,)."""
        values = dense(self.values)
        out = np.zeros(self.size, values.dtype)
        out[self.indices] = values
        return out

    def add_to(self, out: Array, weight: float) -> None:
        """Add weight times the values to `out` in place, touching k entries only."""
        out[self.indices] += weight * dense(self.values)

    def parts(self) -> Mapping[str, Array | Encoded]:
        """The arrays that make it up."""
        return {"indices": self.indices, "values": self.values}

    def finite(self) -> bool:
        """Whether every value is finite."""
        return bool(np.isfinite(dense(self.values)).all())

    def check(self) -> str:
        """What is wrong with the indices or values."""
        index = self.indices
        if index.ndim != 1 or index.dtype.kind not in "iu" or index.size != self.values.size:
            return f"{index.size} indices for {self.values.size} values"
        rising = bool((index[1:] > index[:-1]).all())
        if index.size and not (rising and index[0] >= 0 and index[-1] < self.size):
            return f"indices must rise strictly within 0..{self.size - 1}"
        return self.values.check() if isinstance(self.values, Encoded) else ""


@dataclass(frozen=True, eq=False)
class Quantized(Encoded):
    """Integer codes in blocks with one scale each: value = code * scale of its block.

    Attributes:
        codes: int8, shape (size,).
        scales: shape (ceil(size / block),), in the dtype of the decoded values.
    """

    codes: Array
    scales: Array
    block: int

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of values."""
        return int(self.codes.size)

    def dense(self) -> Array:
        """The values, decoded: shape (size,)."""
        out = self.codes.astype(self.scales.dtype)
        whole = out.size // self.block * self.block
        out[:whole].reshape(-1, self.block)[...] *= self.scales[: whole // self.block, None]
        if whole < out.size:
            out[whole:] *= self.scales[-1]
        return out

    def parts(self) -> Mapping[str, Array | Encoded]:
        """The arrays that make it up."""
        return {"codes": self.codes, "scales": self.scales}

    def fields(self) -> Mapping[str, int | float | str]:
        """The block length."""
        return {"block": self.block}

    def finite(self) -> bool:
        """Whether every scale is finite."""
        return bool(np.isfinite(self.scales).all())

    def check(self) -> str:
        """What is wrong with the codes or scales."""
        if self.block < 1 or self.codes.ndim != 1 or self.codes.dtype != np.int8:
            return "codes must be a flat int8 array in blocks of at least 1"
        if self.scales.size != -(-self.codes.size // self.block) or self.scales.dtype.kind != "f":
            return (
                f"{self.scales.size} scales for {self.codes.size} codes in blocks of {self.block}"
            )
        return ""


CODECS: dict[str, type[Encoded]] = {"sparse": Sparse, "quantized": Quantized}


def dense(leaf: Array | Encoded) -> Array:
    """The array itself, or the decoded values."""
    return leaf if isinstance(leaf, np.ndarray) else leaf.dense()
