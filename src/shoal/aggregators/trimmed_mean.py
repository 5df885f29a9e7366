"""The mean of each coordinate without its extremes (Yin et al. 2018, arXiv 1803.01498).

out_j = mean of the sorted u_ij without the f smallest and the f largest; needs n > 2 f
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shoal.encoded import Array
from shoal.errors import ConfigError
from shoal.members import Members, empty, per_coordinate, result
from shoal.tensors import Tensors


@dataclass(frozen=True)
class TrimmedMean:
    """Coordinate-wise trimmed mean; weights are ignored, for a client could choose its own.

    Attributes:
        fraction: of the updates to drop at each end, below 0.5, rounded down; or
        f: how many to drop at each end. A coordinate that 2 f or fewer updates cover gives 0.
    """

    fraction: float | None = None
    f: int | None = None
    scope: ClassVar[str] = "coordinate"

    def __post_init__(self) -> None:
        """Check that one of the two is given."""
        if (self.fraction is None) == (self.f is None):
            raise ConfigError("fraction", "give either fraction or f")
        if self.fraction is not None and not 0 <= self.fraction < 0.5:
            raise ConfigError("fraction", f"must lie in [0, 0.5), got {self.fraction!r}")
        if self.f is not None and self.f < 0:
            raise ConfigError("f", f"must be at least 0, got {self.f!r}")

    def init(self, model: Tensors) -> Members:
        """No updates yet."""
        return empty(model.layout)

    def fold(self, acc: Members, value: Tensors, weight: float, client: str) -> Members:
        """Keep one update, dense, encoded or partial."""
        return acc.add(value, weight, client, parts=True)

    def merge(self, a: Members, b: Members) -> Members:
        """Two sets as one."""
        return a.join(b)

    def finish(self, acc: Members) -> tuple[Tensors, Members]:
        """The trimmed mean, and the empty set.

        Raises:
            ConfigError: if there are updates, but no more than 2 f.
        """
        n = len(acc.members)
        if self.f is not None and 0 < n <= 2 * self.f:
            raise ConfigError(
                "f", f"{self.f} needs more than {2 * self.f} updates in a commit, got {n}: "
                "lower f, raise the quorum, or give a fraction",
            )  # fmt: skip
        return result(per_coordinate(acc, self._trimmed), acc.like.layout), acc.cleared()

    def clear(self, acc: Members) -> Members:
        """The empty set."""
        return acc.cleared()

    def _trimmed(self, block: Array, counts: Array) -> Array:
        drop = np.floor(counts * (self.fraction or 0.0)) if self.f is None else self.f
        rank = np.arange(len(block))[:, None]
        kept = (rank >= drop) & (rank < counts - drop)
        total: Array = np.where(kept, block, 0.0).sum(axis=0) / np.maximum(kept.sum(axis=0), 1)
        return total
