"""What an update is worth by its staleness (Xie et al. 2019, arXiv 1903.03934).

s(0) = 1 and s never rises;   Constant: 1    Polynomial: (1 + tau)^-a
Hinge: 1 up to tau = b, then 1 / (1 + a (tau - b))
"""

from dataclasses import dataclass
from typing import Any, Protocol

from shoal.errors import positive


class Staleness(Protocol):
    """A staleness function: a frozen dataclass."""

    def __call__(self, tau: int) -> float:
        """The factor in (0, 1] for an update that is tau >= 0 commits old."""


@dataclass(frozen=True)
class Constant:
    """Every update counts the same."""

    def __call__(self, tau: int) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Polynomial:
    """(1 + tau)^-a.

    Attributes:
        a: at least 0; the exponent is its negative, so a larger one damps more.
    """

    a: float = 0.5

    def __post_init__(self) -> None:
        """Check the exponent."""
        positive("a", self.a, zero=True)

    def __call__(self, tau: int) -> float:
        """The factor."""
        return float((1.0 + tau) ** -self.a)


@dataclass(frozen=True)
class Hinge:
    """1 up to b commits, then 1 / (1 + a (tau - b)).

    Attributes:
        a: slope of the fall, at least 0.
        b: commits without damping, at least 0.
    """

    a: float = 10.0
    b: float = 4.0

    def __post_init__(self) -> None:
        """Check slope and knee."""
        positive("a", self.a, zero=True)
        positive("b", self.b, zero=True)

    def __call__(self, tau: int) -> float:
        """The factor."""
        return 1.0 if tau <= self.b else 1.0 / (1.0 + self.a * (tau - self.b))


SQRT = Polynomial(0.5)  # 1 / sqrt(1 + tau), the default of the asynchronous methods
STALENESS: dict[str, type[Any]] = {
    "Constant": Constant,
    "Polynomial": Polynomial,
    "Hinge": Hinge,
}
