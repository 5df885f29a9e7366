"""The point of least total distance to the updates, RFA (Pillutla et al. 2022, arXiv 1912.13445).

b_i = 1 / max(nu, |v - u_i|)      v <- sum of b_i u_i / sum of b_i      (smoothed Weiszfeld)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shoal.encoded import Array
from shoal.errors import ConfigError, positive
from shoal.members import Members, Row, blocks, empty, middle, per_coordinate, result
from shoal.tensors import Tensors


@dataclass(frozen=True)
class GeometricMedian:
    """Geometric median from the coordinate median on; weights are ignored.

    Attributes:
        passes: over the updates.
        nu: smallest distance that counts, in the updates' units.
    """

    passes: int = 4
    nu: float = 1e-6
    scope: ClassVar[str] = "update"

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive("nu", self.nu)
        if self.passes < 1:
            raise ConfigError("passes", f"must be at least 1, got {self.passes!r}")

    def init(self, model: Tensors) -> Members:
        """No updates yet."""
        return empty(model.layout)

    def fold(self, acc: Members, value: Tensors, weight: float, client: str) -> Members:
        """Keep one update, dense or encoded.

        Raises:
            UpdateError: if it covers only a part of the model.
        """
        return acc.add(value, weight, client, parts=False)

    def merge(self, a: Members, b: Members) -> Members:
        """Two sets as one."""
        return a.join(b)

    def finish(self, acc: Members) -> tuple[Tensors, Members]:
        """The geometric median, and the empty set."""
        layout = acc.like.layout
        point = per_coordinate(acc, middle, np.result_type(layout.dtype, np.float32))
        if rows := acc.rows():
            for _ in range(self.passes):
                self._closer(point, rows, acc.work)
        return result(point, layout), acc.cleared()

    def clear(self, acc: Members) -> Members:
        """The empty set."""
        return acc.cleared()

    def _closer(self, point: Array, rows: Sequence[Row], work: int) -> None:
        """Move the point, in place: it may be as large as all that memory has left."""
        squared = np.zeros(len(rows))
        for where, block in blocks(rows, work):
            block -= point[where]
            squared += np.einsum("ij,ij->i", block, block)
        near = 1.0 / np.maximum(self.nu, np.sqrt(squared))
        near /= near.sum()
        for where, block in blocks(rows, work):
            # Relative to the point, so that equal updates give exactly themselves.
            block -= point[where]
            point[where] += near @ block
