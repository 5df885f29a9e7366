"""A proximal term that holds the local model near the one the client was given.

FedProx: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith (2018), arXiv:1812.06127

    min over y:  F_i(y) + mu/2 ||y - x||^2
    y <- y - lr (grad F_i(y) + mu (y - x))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from shoal.errors import positive
from shoal.tensors import Tensors

Nothing = tuple[()]


@dataclass(frozen=True)
class Proximal:
    """Adds mu (local - base) to each gradient.

    Attributes:
        mu: strength; 0 changes nothing. Tasks may override it: {"mu": 0.01}.
    """

    mu: float

    def __post_init__(self) -> None:
        """Check the strength."""
        positive("mu", self.mu, zero=True)

    def groups(self, model: Tensors) -> Mapping[str, Tensors]:
        """None."""
        return {}

    def init(self, model: Tensors) -> Nothing:
        """Nothing to keep."""
        return ()

    def begin(self, model: Tensors, state: Nothing) -> Sequence[NDArray[Any]]:
        """Nothing to prepare."""
        return ()

    def gradient(self, grad: Any, local: Any, base: Any, constants: Sequence[Any]) -> Any:
        """The gradient of the loss with its proximal term."""
        return grad + self.mu * (local - base)

    def end(
        self, model: Tensors, state: Nothing, delta: NDArray[Any], steps: int, lr: float
    ) -> tuple[Mapping[str, Tensors], Nothing]:
        """Nothing to send or keep."""
        return {}, ()
