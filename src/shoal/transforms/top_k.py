"""The k values of largest magnitude (Aji and Heafield 2017, arXiv 1704.05021), the rest zero.

C(u)_j = u_j if |u_j| is among the k largest, else 0       |C(u) - u|^2 <= (1 - k/d) |u|^2
"""

from dataclasses import dataclass

import numpy as np

from shoal.core import Context
from shoal.encoded import Array, Sparse
from shoal.errors import ConfigError
from shoal.tensors import Tensors, all_finite


@dataclass(frozen=True)
class TopK:
    """Send the largest values only; biased, so put it into `ErrorFeedback`.

    Attributes:
        fraction: of the values to keep, above 0, at least one of them; or
        count: how many to keep.
    """

    fraction: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        """Check that one of the two is given."""
        if (self.fraction is None) == (self.count is None):
            raise ConfigError("fraction", "give either fraction or count")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ConfigError("fraction", f"must lie in (0, 1], got {self.fraction!r}")
        if self.count is not None and self.count < 1:
            raise ConfigError("count", f"must be at least 1, got {self.count!r}")

    def init(self, model: Tensors) -> None:
        """No state."""

    def apply(self, value: Tensors, state: None, ctx: Context) -> tuple[Tensors, None]:
        """The value with a `Sparse` buffer; ties go to the lowest index.

        A value that would keep everything is returned as it is, and so is one with NaN or
        infinity: the server must see those, to reject them.
        """
        flat = value.dense
        k = self.count or max(1, round((self.fraction or 0.0) * flat.size))
        if k >= flat.size or not all_finite(flat):
            return value, None
        indices = _largest(np.abs(flat), k)
        if flat.size <= np.iinfo(np.int32).max:
            indices = indices.astype(np.int32)
        return value.with_flat(Sparse(flat.size, indices, flat[indices])), None


def _largest(magnitude: Array, k: int) -> Array:
    """Rising indices of the k largest; which of several equal ones does not hang on the sort."""
    threshold = np.partition(magnitude, magnitude.size - k)[magnitude.size - k]
    above = np.flatnonzero(magnitude > threshold)
    equal = np.flatnonzero(magnitude == threshold)[: k - above.size]
    indices: Array = np.concatenate([above, equal])
    indices.sort()
    return indices
