"""What the adaptive server optimizers share (Reddi et al. 2021, arXiv 2003.00295).

m <- b1 * m + (1 - b1) * d;    v <- by each method's own rule
x <- x + lr * m / (sqrt(v) + tau)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shoal.encoded import Array
from shoal.errors import fraction, positive
from shoal.tensors import Tensors, zeros


@dataclass(frozen=True, eq=False)
class Slots:
    """Running averages, in the model's dtype: of the delta, and of its square."""

    m: Tensors
    v: Tensors


class Rates(Protocol):
    """The numbers that every adaptive optimizer has."""

    @property
    def lr(self) -> float:
        """Server learning rate."""

    @property
    def b1(self) -> float:
        """Decay of the first average, in [0, 1)."""

    @property
    def tau(self) -> float:
        """Adaptivity; a larger one adapts less."""

    @property
    def v0(self) -> float | None:
        """Initial second average; None for tau^2, below which it should not be."""


def check(rates: Rates) -> None:
    """Raise `ConfigError` for a number out of range."""
    positive("lr", rates.lr)
    fraction("b1", rates.b1, one=False)
    positive("tau", rates.tau)
    positive("v0", rates.tau if rates.v0 is None else rates.v0)


def start(rates: Rates, model: Tensors) -> Slots:
    """m = 0, v = v0."""
    layout = model.layout
    v0 = rates.tau**2 if rates.v0 is None else rates.v0
    return Slots(zeros(layout), Tensors(layout, np.full(layout.size, v0, layout.dtype)))


def step(
    rates: Rates, value: Tensors, state: Slots, second: Callable[[Array, Array], Array]
) -> tuple[Tensors, Slots]:
    """The step lr * m / (sqrt(v) + tau) and the new slots; `second` gives v of v and d^2."""
    d, layout = value.dense, state.m.layout
    m = rates.b1 * state.m.dense + (1 - rates.b1) * d
    v = second(state.v.dense, np.square(d))
    moved = rates.lr * m / (np.sqrt(v) + rates.tau)
    return value.with_flat(moved), Slots(Tensors(layout, m), Tensors(layout, v))
