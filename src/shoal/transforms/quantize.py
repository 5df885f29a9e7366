"""Integers of a few bits by unbiased stochastic rounding (Alistarh et al. 2017, arXiv 1610.02132).

scale = max |u| of a block / L,  L = 2^(bits-1) - 1
code  = floor(u / scale) + [z < frac(u / scale)],  z ~ U(0, 1)         E[code * scale] = u
"""

from dataclasses import dataclass

import numpy as np

from shoal.core import Context
from shoal.encoded import Array, Encoded, Quantized, Sparse
from shoal.errors import ConfigError, positive
from shoal.tensors import Tensors, all_finite


@dataclass(frozen=True)
class Quantize:
    """Send int8 codes with one scale for each block.

    Attributes:
        bits: of a code with its sign, 2 to 8; int8 codes take a byte whatever it is.
        block: values that share a scale.
    """

    bits: int = 8
    block: int = 512

    def __post_init__(self) -> None:
        """Check bits and block."""
        positive("block", self.block)
        if not 2 <= self.bits <= 8:
            raise ConfigError("bits", f"must lie in 2..8, got {self.bits!r}")

    def init(self, model: Tensors) -> None:
        """No state."""

    def apply(self, value: Tensors, state: None, ctx: Context) -> tuple[Tensors, None]:
        """The value with a `Quantized` buffer; of a sparse one, its values are quantized.

        A value with NaN or infinity is returned as it is: the server must see it, to reject it.
        """
        return value.with_flat(self._encoded(value.flat, ctx)), None

    def _encoded(self, leaf: Array | Encoded, ctx: Context) -> Array | Encoded:
        if isinstance(leaf, Sparse):
            return Sparse(leaf.size, leaf.indices, self._encoded(leaf.values, ctx))
        if isinstance(leaf, Encoded) or not all_finite(leaf):
            return leaf
        levels = 2 ** (self.bits - 1) - 1
        starts = np.arange(0, leaf.size, self.block)
        scales = (np.maximum.reduceat(np.abs(leaf), starts) / levels).astype(leaf.dtype)
        safe = np.where(scales > 0, scales, 1).astype(leaf.dtype)
        ratio = leaf / np.repeat(safe, self.block)[: leaf.size]
        low = np.floor(ratio)
        draws = ctx.rng("quantize").random(leaf.size, dtype=np.float32)
        # Rounding may push the largest value's ratio a hair above the last level.
        codes = np.clip(low + (draws < ratio - low), -levels, levels).astype(np.int8)
        return Quantized(codes, scales, self.block)
