"""Server momentum, FedAvgM (Hsu, Qi and Brown 2019, arXiv 1909.06335).

m <- beta * m + d
x <- x + lr * m                   d: the aggregated delta, which points downhill
"""

from dataclasses import dataclass

from shoal.core import Context
from shoal.errors import fraction, positive
from shoal.tensors import Tensors, zeros


@dataclass(frozen=True)
class Momentum:
    """Momentum without a factor 1 - beta; beta = 0 and lr = 1 is plain FedAvg.

    Attributes:
        beta: momentum, in [0, 1).
        lr: server learning rate.
    """

    beta: float = 0.9
    lr: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        fraction("beta", self.beta, one=False)
        positive("lr", self.lr)

    def init(self, model: Tensors) -> Tensors:
        """m = 0."""
        return zeros(model.layout)

    def apply(self, value: Tensors, state: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """The step lr * m, and m."""
        m = self.beta * state.dense + value.dense
        return value.with_flat(self.lr * m), Tensors(state.layout, m)
