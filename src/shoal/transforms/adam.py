"""Server Adam, FedAdam (Reddi et al. 2021, arXiv 2003.00295).

m <- b1 * m + (1 - b1) * d
v <- b2 * v + (1 - b2) * d^2
x <- x + lr * m / (sqrt(v) + tau)
"""

from dataclasses import dataclass

from shoal import adaptive
from shoal.core import Context
from shoal.errors import fraction
from shoal.tensors import Tensors


@dataclass(frozen=True)
class Adam:
    """Adam on aggregated deltas, without bias correction.

    Attributes:
        lr: server learning rate; tune it together with the clients'.
        b1: decay of the first average, in [0, 1).
        b2: decay of the second average, in [0, 1).
        tau: adaptivity; a larger one adapts less.
        v0: initial second average; None for tau^2, below which it should not be.
    """

    lr: float = 0.1
    b1: float = 0.9
    b2: float = 0.99
    tau: float = 1e-3
    v0: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        adaptive.check(self)
        fraction("b2", self.b2, one=False)

    def init(self, model: Tensors) -> adaptive.Slots:
        """m = 0, v = v0."""
        return adaptive.start(self, model)

    def apply(
        self, value: Tensors, state: adaptive.Slots, ctx: Context
    ) -> tuple[Tensors, adaptive.Slots]:
        """The step lr * m / (sqrt(v) + tau), and the slots."""
        return adaptive.step(self, value, state, lambda v, d2: self.b2 * v + (1 - self.b2) * d2)
