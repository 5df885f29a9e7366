"""The median of each coordinate (Yin et al. 2018, arXiv 1803.01498), whatever fewer than half send.

out_j = median of u_ij over the updates i that cover j; the average of the central two if even
"""

from dataclasses import dataclass
from typing import ClassVar

from shoal.members import Members, empty, middle, per_coordinate, result
from shoal.tensors import Tensors


@dataclass(frozen=True)
class Median:
    """Coordinate-wise median; weights are ignored, for a client could choose its own."""

    scope: ClassVar[str] = "coordinate"

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
        """The median, and the empty set; zeros where nothing covers a coordinate."""
        return result(per_coordinate(acc, middle), acc.like.layout), acc.cleared()

    def clear(self, acc: Members) -> Members:
        """The empty set."""
        return acc.cleared()
