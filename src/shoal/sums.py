"""The accumulator of weighted sums: floating point, or fixed point with the same bits in any order.

Fixed point: each weight * value and each weight is rounded to a multiple of 2**-bits and added as
a 64-bit integer, which is associative. Anything that could overflow is refused before it is added.
"""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from shoal.encoded import Array, Encoded
from shoal.errors import ConfigError, positive
from shoal.parts import blank, ranges
from shoal.tensors import Layout, Leaf, Tensors

CHUNK = 1 << 15  # values at a time, so that intermediate results stay in the cache


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """Sum of weight * value, and the weight that went into it. Methods reuse `total`'s memory.

    Attributes:
        like: names and shapes, without values.
        total: shape (size,), floats, or int64 in units of 2**-bits.
        weight: of the updates that cover every coordinate; an integer in the same units.
        coverage: shape (size,), the weight of partial updates; None while there are none.
        bits: fractional bits of fixed point; None for floating point.
        bound: no entry of `total` exceeds it in magnitude (fixed point only).
        covered: the weight of all partial updates together (fixed point only).
    """

    like: Tensors
    total: Array
    weight: int | float
    coverage: Array | None = None
    bits: int | None = None
    bound: int = 0
    covered: int = 0

    def add(self, value: Tensors, weight: float) -> "WeightedSum":
        """With one more update, which may cover a part of the names.

        Raises:
            ConfigError: if the fixed-point sum could overflow.
            UpdateError: if a partial update has names that the model has not.
        """
        unit, bound, scale = weight, self.bound, weight
        if self.bits is not None:
            scale = weight * 2.0**self.bits
            unit = _rounded(abs(scale)) if weight >= 0 else -_rounded(abs(scale))
            bound += _rounded(_peak(value.dense) * abs(scale))
        layout, total = self.like.layout, owned(self.total)
        if value.layout is layout or value.layout == layout:
            new = WeightedSum(
                self.like, total, self.weight + unit, self.coverage, self.bits, bound, self.covered
            )
            new._check()
            accumulate(total, value.flat, scale)
            return new
        where = ranges(layout, value.layout)
        coverage = np.zeros_like(total) if self.coverage is None else owned(self.coverage)
        covered = 0 if self.bits is None else self.covered + abs(int(unit))
        new = WeightedSum(self.like, total, self.weight, coverage, self.bits, bound, covered)
        new._check()
        flat = value.dense
        for target, source in where:
            accumulate(total[target], flat[source], scale)
            coverage[target] += unit
        return new

    def join(self, other: "WeightedSum") -> "WeightedSum":
        """The sum of both.

        Raises:
            ConfigError: if the fixed-point sum could overflow.
        """
        if self.bits != other.bits:
            raise ConfigError("bits", f"{self.bits} and {other.bits} cannot be merged")
        total, coverage = owned(self.total), self.coverage
        if other.coverage is not None:
            coverage = other.coverage if coverage is None else coverage + other.coverage
        new = WeightedSum(
            self.like, total, self.weight + other.weight, coverage, self.bits,
            self.bound + other.bound, self.covered + other.covered,
        )  # fmt: skip
        new._check()
        total += other.total
        return new

    def mean(self) -> Tensors:
        """The sum over the weight that covered each coordinate; 0 where that is 0."""
        layout = self.like.layout
        if self.coverage is not None:
            # One addition before one conversion: integers keep every bit, whatever the order.
            weight = self.coverage + self.weight
            out = np.zeros(layout.size, np.result_type(self.total.dtype, np.float32))
            np.divide(self.total, weight, out=out, where=weight != 0, casting="same_kind")
            return Tensors(layout, out.astype(layout.dtype, copy=False))
        if not self.weight:
            return Tensors(layout, np.zeros(layout.size, layout.dtype))
        return Tensors(layout, np.divide(self.total, self.weight).astype(layout.dtype, copy=False))

    def sum(self) -> Tensors:
        """The sum itself."""
        out = self.total.copy() if self.bits is None else self.total * 2.0**-self.bits
        return Tensors(self.like.layout, out.astype(self.like.layout.dtype, copy=False))

    def cleared(self) -> "WeightedSum":
        """An empty one of the same kind."""
        zero = 0.0 if self.bits is None else 0
        return WeightedSum(self.like, np.zeros_like(self.total), zero, bits=self.bits)

    def _check(self) -> None:
        if self.bits is None:
            return
        most = max(self.bound, abs(int(self.weight)) + self.covered)
        if most >= 1 << 63:
            what = "weight * value" if most == self.bound else "weight"
            raise ConfigError(
                "bits",
                f"the sum of {what} may reach {most / 2**self.bits:.6g}, and {self.bits} fractional"
                f" bits leave room for less than 2**{63 - self.bits}: lower bits, scale the weights"
                " down, or clip updates",
            )


def start(layout: Layout, bits: int | None = None) -> WeightedSum:
    """An empty sum; floats are added in the layout's dtype, but never in less than float32."""
    if bits is not None:
        return WeightedSum(blank(layout), np.zeros(layout.size, np.int64), 0, bits=bits)
    dtype = np.result_type(layout.dtype, np.float32)
    return WeightedSum(blank(layout), np.zeros(layout.size, dtype), 0.0)


def check_bits(bits: int) -> None:
    """Raise `ConfigError` unless 0 < bits < 63."""
    positive("bits", bits)
    if bits > 62:
        raise ConfigError("bits", f"64-bit sums hold at most 62 fractional bits, got {bits}")


def owned(array: Array) -> Array:
    """The array, or a copy where it cannot be written to (as after a checkpoint)."""
    return array if array.flags.writeable else array.copy()


def accumulate(out: Array, leaf: Leaf, scale: float) -> None:
    """Add scale * leaf to `out` in place, rounding each product if `out` holds integers."""
    fixed = out.dtype.kind == "i"
    if isinstance(leaf, Encoded):
        if not fixed:
            leaf.add_to(out, scale)
            return
        leaf = leaf.dense()
    if not fixed and out.size <= CHUNK:
        out += np.multiply(leaf, scale, dtype=out.dtype, casting="same_kind")
        return
    scratch = np.empty(min(CHUNK, out.size), np.float64 if fixed else out.dtype)
    for begin in range(0, out.size, CHUNK):
        target = out[begin : begin + CHUNK]
        product = scratch[: target.size]
        piece = leaf[begin : begin + CHUNK]
        np.multiply(piece, scale, out=product, dtype=product.dtype, casting="same_kind")
        target += np.rint(product, out=product).astype(np.int64) if fixed else product


def _peak(flat: Array) -> float:
    return max(float(flat.max()), -float(flat.min())) if flat.size else 0.0


def _rounded(value: float) -> int:
    if not isfinite(value):
        raise ConfigError("bits", f"a weight or value is {value}: only finite ones can be summed")
    return round(value)
