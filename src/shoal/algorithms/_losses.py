"""Choosing clients by the losses they reported last, or were asked for: power-of-choice's parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.algorithms._policy import Policy, reported
from shoal.core import View
from shoal.messages import Update


@dataclass(frozen=True)
class Losses:
    """What clients reported last: losses, and example counts."""

    losses: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    def heard(self, update: Update) -> "Losses":
        """With what an update reports."""
        losses = {**self.losses, update.client: reported(update, "loss")}
        return Losses(losses, {**self.sizes, update.client: update.num_examples})


@dataclass(frozen=True)
class HighestLoss(Policy[Losses]):
    """Takes the highest last losses among `candidates`, drawn by their number of examples.

    Attributes:
        candidates: d.
        asks: whether losses come from questions, not from training.
    """

    candidates: int
    asks: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The loss, of training or of the question."""
        return ("loss",)

    def init(self) -> Losses:
        """Nothing reported."""
        return Losses()

    def choose(self, memory: Losses, n: int, view: View, name: str) -> tuple[list[str], Losses]:
        """The n highest; who has reported nothing counts as highest."""
        drawn = draw(memory.sizes, max(self.candidates, n), view, name)
        highest = sorted(drawn, key=lambda c: (-memory.losses.get(c, float("inf")), c))
        return highest[:n], memory

    def seen(self, memory: Losses, update: Update, view: View) -> Losses:
        """Its loss counts from the next round on."""
        return memory if self.asks else memory.heard(update)


@dataclass(frozen=True)
class Answered(Policy[Losses]):
    """Takes the highest of the losses that candidates were asked for."""

    answers: Mapping[str, float]

    def choose(self, memory: Losses, n: int, view: View, name: str) -> tuple[list[str], Losses]:
        """The n highest."""
        return sorted(self.answers, key=lambda c: (-self.answers[c], c))[:n], memory


def draw(sizes: Mapping[str, int], d: int, view: View, name: str) -> list[str]:
    """d idle clients without replacement by their examples; unknown ones count as the mean."""
    pool = list(view.idle)
    mean = sum(sizes.values()) / len(sizes) if sizes else 1.0
    weights = [sizes.get(client, mean) for client in pool]
    shares = [weight / sum(weights) for weight in weights]
    size = min(d, len(pool))
    return [pool[i] for i in view.rng("candidates", name).choice(len(pool), size, False, shares)]
