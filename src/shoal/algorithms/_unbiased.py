"""Scales what a client sends by its share of the examples, so that a plain mean is unbiased.

delta_k <- (n_k / mean_examples) delta_k          mean_examples = sum n / N
(1 / |S|) sum_S delta_k = (N / |S|) sum_S p_k delta_k before scaling, p_k = n_k / sum n
"""

from dataclasses import dataclass

from shoal.core import Context
from shoal.errors import positive
from shoal.tensors import Tensors


@dataclass(frozen=True)
class ByExamples:
    """The client half of unbiased weighting; the server half is a mean with equal weights.

    Attributes:
        mean_examples: examples per client of the whole population.
    """

    mean_examples: float

    def __post_init__(self) -> None:
        """Check the mean."""
        positive("mean_examples", self.mean_examples)

    def init(self, model: Tensors) -> None:
        """No state."""

    def apply(self, value: Tensors, state: None, ctx: Context) -> tuple[Tensors, None]:
        """The scaled delta."""
        return value.with_flat(value.dense * (ctx.num_examples / self.mean_examples)), None
