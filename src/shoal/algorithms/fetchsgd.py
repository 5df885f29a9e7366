"""FetchSGD: clients send count sketches; momentum and error live in sketches, at the server.

Rothchild et al., FetchSGD: Communication-efficient federated learning with sketching, 2020, arXiv
2007.07682.
    S_u <- beta S_u + mean S_i;   S_e <- S_e + S_u;   d = top-k(U(S_e));   S_e <- S_e - S(d)
Clients keep nothing, so it does not matter how seldom one takes part; sketches may be masked.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from shoal.algorithms.fedavg import FedAvg, schedule
from shoal.codecs import Sketch
from shoal.codecs.select import largest
from shoal.codecs.sketch import estimates, sketched
from shoal.core import Algorithm, Chain, Trainer, Transform
from shoal.encoded import Array
from shoal.errors import ConfigError, UpdateError, fraction, positive
from shoal.parts import blank
from shoal.tensors import Tensors
from shoal.transforms import CountSketch

HALF = 1 << 31


@dataclass(frozen=True, eq=False)
class Sketches:
    """What is added up of a round, and what the server keeps; all of shape (rows * width,).

    Attributes:
        total: int32, of this round.
        momentum, error: float64, in steps.
        step, key: of the sketches; a step of 0 as long as there were none.
    """

    like: Tensors
    total: Array
    momentum: Array
    error: Array
    step: float = 0.0
    key: int = 0
    count: int = 0

    def emptied(self) -> "Sketches":
        """Nothing added up."""
        return replace(self, total=np.zeros_like(self.total), count=0)


@dataclass(frozen=True)
class Unsketch:
    """The largest estimates of what sketches add up to; what is left out comes later.

    Attributes:
        codec: that the clients use.
        count: values of a step.
        beta: of the momentum.
    """

    codec: CountSketch
    count: int
    beta: float = 0.9
    scope: ClassVar[str] = "update"

    def __post_init__(self) -> None:
        """Check the fields."""
        positive("count", self.count)
        fraction("beta", self.beta, one=False)

    def init(self, model: Tensors) -> Sketches:
        """Empty sketches."""
        cells = self.codec.rows * self.codec.width
        total = np.zeros(cells, np.int32)
        return Sketches(blank(model.layout), total, np.zeros(cells), np.zeros(cells))

    def fold(self, acc: Sketches, value: Tensors, weight: float, client: str) -> Sketches:
        """Add a sketch; UpdateError for another form, size, step or key."""
        leaf, rows = value.flat, self.codec.rows
        if not isinstance(leaf, Sketch) or (leaf.rows, leaf.cells.size) != (rows, acc.total.size):
            raise UpdateError(f"client {client!r} sent no sketch of {rows} x {self.codec.width}")
        one = replace(acc.emptied(), total=leaf.cells, step=leaf.step, key=leaf.key, count=1)
        return self.merge(acc, one)

    def merge(self, a: Sketches, b: Sketches) -> Sketches:
        """Two sums as one; UpdateError if they cannot be added."""
        if a.step and b.step and (a.step, a.key) != (b.step, b.key):
            raise UpdateError("sketches of different steps or keys cannot be added")
        known = a if a.step else b
        total, count = a.total + b.total, a.count + b.count
        return replace(a, total=total, step=known.step, key=known.key, count=count)

    def finish(self, acc: Sketches) -> tuple[Tensors, Sketches]:
        """The step, and the sketches to go on with."""
        layout, size = acc.like.layout, acc.like.layout.size
        if not acc.count:
            return Tensors(layout, np.zeros(size, layout.dtype)), acc
        momentum = self.beta * acc.momentum + acc.total / acc.count
        error = acc.error + momentum
        found = estimates(error, size, self.codec.rows, acc.key)
        chosen = largest(found, self.count) if self.count < size else np.arange(size)
        steps = np.clip(np.rint(found[chosen]), 1 - HALF, HALF - 1).astype(np.int32)
        error -= sketched(steps, chosen, self.codec.rows, self.codec.width, acc.key)
        flat = np.zeros(size, layout.dtype)
        flat[chosen] = (steps * acc.step).astype(layout.dtype)
        return Tensors(layout, flat), replace(acc.emptied(), momentum=momentum, error=error)

    def clear(self, acc: Sketches) -> Sketches:
        """Nothing added up; momentum and error stay."""
        return acc.emptied()


def fetchsgd(
    cohort: int | None = None, *, codec: CountSketch, count: int, beta: float = 0.9,
    trainer: Trainer[Any], rounds: FedAvg = FedAvg(), optimizer: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedAvg with equal weights on sketches of updates.

    Args:
        cohort: clients per round; None for everyone present.
        codec: the sketch; a tenth of the model's values is a good width for the first try.
        count: values of the model that a round changes: fewer than the width, or estimates are
            noise.
        beta: of the momentum at the server; the learning rate grows by 1 / (1 - beta) with it.
    """
    if count > codec.width:
        raise ConfigError("count", f"{count} values from rows of {codec.width} cells: take fewer")
    planned = replace(schedule(cohort, rounds), weighting="equal")
    return Algorithm(planned, trainer, Unsketch(codec, count, beta), codec, optimizer, "fetchsgd")
