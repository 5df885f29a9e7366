"""A constant factor, e.g. a server learning rate.

u <- factor * u
"""

from dataclasses import dataclass
from math import isfinite

from shoal.core import Context
from shoal.errors import ConfigError
from shoal.tensors import Tensors


@dataclass(frozen=True)
class Scale:
    """Multiply the trainable values.

    Attributes:
        factor: any finite number.
    """

    factor: float

    def __post_init__(self) -> None:
        """Check the factor."""
        if not isfinite(self.factor):
            raise ConfigError("factor", f"must be finite, got {self.factor!r}")

    def init(self, model: Tensors) -> None:
        """No state."""

    def apply(self, value: Tensors, state: None, ctx: Context) -> tuple[Tensors, None]:
        """The scaled value."""
        return value.with_flat(value.dense * self.factor), None
