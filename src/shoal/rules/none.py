"""Plain gradient descent: the step rule that changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from shoal.tensors import Tensors

Nothing = tuple[()]


@dataclass(frozen=True)
class Plain:
    """Steps along the loss gradient; clients keep no state."""

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
        """The gradient as it is."""
        return grad

    def end(
        self, model: Tensors, state: Nothing, delta: NDArray[Any], steps: int, lr: float
    ) -> tuple[Mapping[str, Tensors], Nothing]:
        """Nothing to send or keep."""
        return {}, ()


PLAIN = Plain()
