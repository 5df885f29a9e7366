"""What Oort's choice of clients goes by: statistical and system utility, exploration, the pacer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import log, sqrt

import numpy as np

from shoal.algorithms._policy import Arrived, Policy, reported
from shoal.core import View
from shoal.errors import fraction, positive
from shoal.messages import Update


@dataclass(frozen=True)
class Arm:
    """A client's last statistical utility, its seconds per task, last round, and rounds in all."""

    utility: float = 0.0
    seconds: float = 0.0
    last: int = 0
    times: int = 0


@dataclass(frozen=True)
class OortMemory:
    """Everyone explored, and what the rounds so far were worth."""

    arms: Mapping[str, Arm] = field(default_factory=dict)
    round: int = 1
    percentile: float = 30.0
    gains: tuple[float, ...] = ()


@dataclass(frozen=True)
class Utility(Policy[OortMemory]):
    """Oort's choice.

    Attributes:
        alpha: penalty exponent of clients slower than the preferred duration.
        explore, decay, least: share of places for unexplored clients at first, its factor per
            round, and its least value.
        percentile, step, window: of known durations that is preferred; the pacer adds or takes
            `step` every `window` rounds when utility has stayed flat or changed sharply.
        cutoff: the share of the last chosen utility from which on clients are drawn.
        clip: the percentile at which utilities are clipped.
        most: rounds after which a client is left out while there are others.
        uncertainty: of the bonus for not having been asked for long.
    """

    alpha: float = 2.0
    explore: float = 0.9
    decay: float = 0.98
    least: float = 0.2
    percentile: float = 30.0
    step: float = 5.0
    window: int = 20
    cutoff: float = 0.95
    clip: float = 95.0
    most: int | None = None
    uncertainty: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("explore", "decay", "least", "cutoff"):
            fraction(name, getattr(self, name))
        for name in ("percentile", "clip"):
            fraction(name, getattr(self, name) / 100)
        for name in ("alpha", "step", "uncertainty"):
            positive(name, getattr(self, name), zero=True)
        positive("window", self.window)
        if self.most is not None:
            positive("most", self.most)

    @property
    def needs(self) -> tuple[str, ...]:
        """The loss is the utility."""
        return ("loss",)

    def init(self) -> OortMemory:
        """Nobody explored."""
        return OortMemory(percentile=self.percentile)

    def scores(self, memory: OortMemory, clients: list[str]) -> dict[str, float]:
        """U_i of explored clients."""
        arms = memory.arms
        if not clients:
            return {}
        seconds = [arm.seconds for arm in arms.values()]
        preferred = float(np.percentile(seconds, min(memory.percentile, 100.0)))
        top = max(float(np.percentile([arms[c].utility for c in clients], self.clip)), 1e-12)
        found = {}
        for client in clients:
            arm = arms[client]
            score = min(arm.utility, top) / top
            score += sqrt(self.uncertainty * log(memory.round) / max(arm.last, 1))
            slow = arm.seconds > preferred
            found[client] = score * (preferred / arm.seconds) ** self.alpha if slow else score
        return found

    def choose(
        self, memory: OortMemory, n: int, view: View, name: str
    ) -> tuple[list[str], OortMemory]:
        """Some of the best, some of the unexplored."""
        fresh = [c for c in view.idle if c not in memory.arms]
        old = [c for c in view.idle if c in memory.arms]
        if self.most is not None:
            old = [c for c in old if memory.arms[c].times < self.most] or ([] if fresh else old)
        share = max(self.explore * self.decay ** (memory.round - 1), self.least)
        explored = min(len(fresh), round(share * n))
        exploited = min(len(old), n - explored)
        explored = min(len(fresh), n - exploited)
        rng = view.rng("oort", name)
        chosen = self._best(self.scores(memory, old), exploited, rng)
        return chosen + [fresh[i] for i in rng.permutation(len(fresh))[:explored]], memory

    def _best(self, scores: Mapping[str, float], n: int, rng: np.random.Generator) -> list[str]:
        if not n:
            return []
        order = sorted(scores, key=lambda client: (-scores[client], client))
        pool = [c for c in order if scores[c] >= self.cutoff * scores[order[n - 1]]]
        weights = np.array([max(scores[client], 1e-12) for client in pool])
        return [pool[i] for i in rng.choice(len(pool), n, False, weights / weights.sum())]

    def seen(self, memory: OortMemory, update: Update, view: View) -> OortMemory:
        """Note utility and seconds."""
        squared = update.metrics.get("loss_squared", reported(update, "loss") ** 2)
        utility = update.num_examples * sqrt(max(squared, 0.0))
        times = memory.arms.get(update.client, Arm()).times + 1
        arm = Arm(utility, max(update.duration, 1e-9), memory.round, times)
        return replace(memory, arms={**memory.arms, update.client: arm})

    def ended(self, memory: OortMemory, arrived: Arrived, view: View) -> OortMemory:
        """The pacer looks at what the last rounds gained."""
        gain = sum(memory.arms[client].utility for client in sorted(arrived))
        gains, percentile = (*memory.gains, gain)[-2 * self.window :], memory.percentile
        if len(gains) == 2 * self.window and memory.round % self.window == 0:
            before, now = sum(gains[: self.window]), sum(gains[self.window :])
            if abs(now - before) <= 0.1 * before:
                percentile = min(100.0, percentile + self.step)
            elif abs(now - before) >= 5 * before:
                percentile = max(self.step, percentile - self.step)
        return replace(memory, round=memory.round + 1, gains=gains, percentile=percentile)
