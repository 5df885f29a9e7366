"""A bound on the global L2 norm (McMahan et al. 2018, arXiv 1710.06963): one client's most.

u <- u * min(1, norm / |u|)       with 0 / 0 = 0; |u| over all trainable values together
"""

from dataclasses import dataclass

import numpy as np

from shoal.core import Context
from shoal.errors import positive
from shoal.tensors import Tensors


@dataclass(frozen=True)
class Clip:
    """Scale a value down to a norm that it exceeds.

    Attributes:
        norm: the largest L2 norm that passes unchanged.
    """

    norm: float

    def __post_init__(self) -> None:
        """Check the norm."""
        positive("norm", self.norm)

    def init(self, model: Tensors) -> None:
        """No state."""

    def apply(self, value: Tensors, state: None, ctx: Context) -> tuple[Tensors, None]:
        """The value within the norm; the very same one if it is within already."""
        flat = value.dense
        # In float64: the bound is a promise, and a float32 sum over a large model would miss it.
        # Infinity becomes NaN, for the server to reject; what overflows the square becomes 0.
        with np.errstate(over="ignore", invalid="ignore"):
            length = float(np.sqrt(np.sum(np.square(flat, dtype=np.float64))))
            if length <= self.norm:
                return value, None
            return value.with_flat(flat * (self.norm / length)), None
