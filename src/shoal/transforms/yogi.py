"""Server Yogi, FedYogi (Reddi et al. 2021, arXiv 2003.00295).

m <- b1 * m + (1 - b1) * d
v <- v - (1 - b2) * d^2 * sign(v - d^2)
x <- x + lr * m / (sqrt(v) + tau)
"""

from dataclasses import dataclass

import numpy as np

from shoal.core import Context
from shoal.errors import fraction, positive
from shoal.tensors import Tensors, zeros


@dataclass(frozen=True, eq=False)
class Slots:
    """Running averages, in the model's dtype: of the delta, and of its square."""

    m: Tensors
    v: Tensors


@dataclass(frozen=True)
class Yogi:
    """Adam whose second average moves towards d^2 by a bounded amount; no bias correction.

    Attributes:
        lr: server learning rate; tune it together with the clients'.
        b1: decay of the first average, in [0, 1).
        b2: decay of the second average, in [0, 1).
        tau: adaptivity; a larger one adapts less.
        v0: initial second average; None for tau^2, below which it should not be.
    """

    lr: float = 0.01
    b1: float = 0.9
    b2: float = 0.99
    tau: float = 1e-3
    v0: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive("lr", self.lr)
        fraction("b1", self.b1, one=False)
        fraction("b2", self.b2, one=False)
        positive("tau", self.tau)
        positive("v0", self.tau if self.v0 is None else self.v0)

    def init(self, model: Tensors) -> Slots:
        """m = 0, v = v0."""
        layout = model.layout
        v0 = self.tau**2 if self.v0 is None else self.v0
        return Slots(zeros(layout), Tensors(layout, np.full(layout.size, v0, layout.dtype)))

    def apply(self, value: Tensors, state: Slots, ctx: Context) -> tuple[Tensors, Slots]:
        """The step lr * m / (sqrt(v) + tau), and the slots."""
        d, old = value.dense, state.v.dense
        m = self.b1 * state.m.dense + (1 - self.b1) * d
        square = np.square(d)
        v = old - (1 - self.b2) * square * np.sign(old - square)
        step = self.lr * m / (np.sqrt(v) + self.tau)
        layout = state.m.layout
        return value.with_flat(step), Slots(Tensors(layout, m), Tensors(layout, v))
