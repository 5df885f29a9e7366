"""Gaussian noise (Abadi et al. 2016, arXiv 1607.00133); after `Clip`, the Gaussian mechanism.

u <- u + std * z,   z ~ N(0, I)
"""

from dataclasses import dataclass

import numpy as np

from shoal.core import Context
from shoal.errors import positive
from shoal.tensors import Tensors


@dataclass(frozen=True)
class Noise:
    """Add independent Gaussian noise to every trainable value.

    Attributes:
        std: standard deviation, in the values' units.
        draw: name of the draw; two noises in one chain need different ones to be independent.
    """

    std: float
    draw: str = "noise"

    def __post_init__(self) -> None:
        """Check the deviation."""
        positive("std", self.std, zero=True)

    def init(self, model: Tensors) -> None:
        """No state."""

    def apply(self, value: Tensors, state: None, ctx: Context) -> tuple[Tensors, None]:
        """The noisy value."""
        if self.std == 0:
            return value, None
        flat = value.dense
        wide = flat.dtype == np.float64
        rng = ctx.rng(self.draw)
        noise = rng.standard_normal(flat.size, dtype=np.float64 if wide else np.float32)
        noise *= self.std
        noise += flat
        return value.with_flat(noise.astype(flat.dtype, copy=False)), None
