"""Importance sampling: clients that matter more are drawn more often, and count less each time.

Horvitz and Thompson, 1952; for federated learning Chen, Horvath and Richtarik, Optimal client
sampling for federated learning, 2020, arXiv 2010.13723, whose inclusion probabilities these are.
    q_i = min(1, c u_i), sum q_i = m;        x <- x + lr sum_S (p_i / q_i) delta_i
    E[step] = lr sum p_i delta_i, whatever the scores u_i; the best are p_i |delta_i|

Deviations: the paper asks every client for |delta_i| in the round and draws independently. Here the
score is n_i, or n_i times the loss reported last, and systematic sampling draws exactly m clients
with exactly these probabilities. p_i is the share among those present.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from shoal.aggregators import Sum
from shoal.algorithms._policy import Policy, known, reported
from shoal.algorithms._selection import Selecting, cohort_of
from shoal.algorithms._shares import check_choice
from shoal.algorithms.fedavg import FedAvg
from shoal.algorithms.mifa import rate
from shoal.core import Algorithm, Chain, Trainer, Transform, View
from shoal.errors import ConfigError, fraction, positive
from shoal.messages import Update

Score = Literal["examples", "loss"]


def inclusion(scores: list[float], m: int) -> list[float]:
    """q_i = min(1, c u_i) with sum min(m, n); c by filling up, so that none exceeds 1."""
    q, free, left = [1.0] * len(scores), list(range(len(scores))), float(min(m, len(scores)))
    while free:
        total = sum(scores[i] for i in free)
        certain = [i for i in free if left * scores[i] >= total]
        if not certain or len(certain) == len(free):
            for i in free:
                q[i] = min(left * scores[i] / total, 1.0)
            return q
        left -= len(certain)
        free = [i for i in free if i not in set(certain)]
    return q


def systematic(q: list[float], rng: np.random.Generator) -> list[int]:
    """Exactly round(sum q) places, i with probability q_i: one draw, in random order."""
    order = rng.permutation(len(q))
    ends = np.cumsum([q[i] for i in order])
    points = np.arange(round(float(ends[-1]))) + float(rng.random())
    places = (min(int(at), len(q) - 1) for at in np.searchsorted(ends, points))
    return sorted(int(order[place]) for place in places)


@dataclass(frozen=True)
class Drawn:
    """Losses reported, and p_i / q_i of those drawn last."""

    losses: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Importance(Policy[Drawn]):
    """Draws by scores, and undoes it by weights.

    Attributes:
        examples: n_i of every client; p_i = n_i / sum n.
        by: the score: "examples", or "loss" times examples (mean loss where none is known).
        mix: share of the score that is n_i, so that no weight exceeds 1 / mix by much.
    """

    examples: Mapping[str, int]
    by: Score = "examples"
    mix: float = 0.2

    def __post_init__(self) -> None:
        """Check the counts."""
        check_choice("by", self.by, Score)
        fraction("mix", self.mix)
        if self.by == "loss" and not self.mix:
            raise ConfigError("mix", "must be above 0: a client without loss would never be drawn")
        for client, count in self.examples.items():
            positive(f"examples[{client!r}]", count)

    @property
    def needs(self) -> tuple[str, ...]:
        """The loss, if it is the score."""
        return ("loss",) if self.by == "loss" else ()

    def init(self) -> Drawn:
        """Nobody drawn."""
        return Drawn()

    def check(self, view: View) -> None:
        """Examples of everyone are known."""
        known("examples", self.examples, view)

    def choose(self, memory: Drawn, n: int, view: View, name: str) -> tuple[list[str], Drawn]:
        """n clients, with the weights that make their sum unbiased."""
        known("examples", self.examples, view)
        pool, losses = list(view.idle), memory.losses
        sizes = [float(self.examples[client]) for client in pool]
        scores = sizes
        if self.by == "loss" and losses and sum(losses.values()) > 0:
            mean = sum(losses.values()) / len(losses)
            pull = [max(losses.get(c, mean), 0.0) / mean * (1 - self.mix) for c in pool]
            scores = [size * (self.mix + more) for size, more in zip(sizes, pull, strict=True)]
        q = inclusion(scores, n)
        chosen = systematic(q, view.rng("importance", name))
        weights = {pool[i]: sizes[i] / sum(sizes) / q[i] for i in chosen}
        return list(weights), replace(memory, weights=weights)

    def weight(self, memory: Drawn, update: Update, weight: float) -> float:
        """p_i / q_i."""
        return memory.weights[update.client]

    def seen(self, memory: Drawn, update: Update, view: View) -> Drawn:
        """Its loss is its score."""
        if self.by == "examples":
            return memory
        loss = reported(update, "loss")
        return replace(memory, losses={**memory.losses, update.client: loss})


def importance(
    cohort: int | None = None, *, examples: Mapping[str, int], trainer: Trainer[Any],
    by: Score = "examples", mix: float = 0.2, lr: float = 1.0, rounds: FedAvg = FedAvg(),
    upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """Importance sampling; clients that fail lower the sum, so over-selection biases it."""
    coordinator = Selecting(cohort_of(rounds, cohort), Importance(dict(examples), by, mix))
    return Algorithm(coordinator, trainer, Sum(), upload, rate(lr), "importance")
