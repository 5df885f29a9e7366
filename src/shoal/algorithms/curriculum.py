"""Curricula: clients see their easiest, hardest or random examples first, and the rest in time.

Vahidian, Kadaveru, Baek, Wang, Kungurtsev, Chen, Shah and Lin, When do curricula work in federated
learning?, 2022, arXiv 2212.12712; pacing functions of Wu, Dyer and Neyshabur, 2020, arXiv
2012.03107, both from memory.
    score of an example: its loss under the model that was given (no extra training)
    a task trains on the first g(version) of a client's examples, easiest first, or hardest first

`clients=True` orders clients likewise, by their last reported mean loss, and draws a cohort among
the first g(version) of them; who has reported none goes first. Scoring measures each example by
itself, which costs a pass over the data per task. Pacing alone changes the stream of batches:
always compare with order="random". Updates weigh by all examples of a client, as in FedAvg.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from shoal.aggregators import Mean
from shoal.algorithms._pacing import Order, Pacing
from shoal.algorithms._policy import Policy, reported, some
from shoal.algorithms._selection import Selecting
from shoal.algorithms._shares import check_choice
from shoal.algorithms.fedavg import FedAvg, schedule
from shoal.core import Aggregator, Algorithm, Chain, Coordinator, Trainer, Transform, View
from shoal.messages import Config, Metrics, Payload, Task, Update
from shoal.seeds import rng as named
from shoal.tensors import Tensors


@dataclass(frozen=True)
class Paced:
    """Trains on the visible part of a client's data.

    Attributes:
        trainer: of the local work; its `evaluate` scores.
        pacing: how much is visible.
        order: "curriculum" (low loss first), "anti" (high loss first) or "random".
    """

    trainer: Trainer[Any]
    pacing: Pacing
    order: Order = "curriculum"

    def __post_init__(self) -> None:
        """Check the order."""
        check_choice("order", self.order, Order)

    def bind(self, model: Callable[[], Any] | None) -> Self:
        """The same, bound to a model."""
        return replace(self, trainer=self.trainer.bind(model))

    def initial(self, seed: int) -> Tensors:
        """The trainer's fresh model."""
        return self.trainer.initial(seed)

    def init(self, model: Tensors) -> Any:
        """The trainer's state."""
        return self.trainer.init(model)

    def steps(self, num_examples: int, config: Config) -> int:
        """The trainer's steps on all examples: at most so many are taken."""
        return self.trainer.steps(num_examples, config)

    def train(
        self, model: Tensors, data: Any, state: Any, task: Task, rng: np.random.Generator
    ) -> tuple[Payload, Any]:
        """Train on what is visible; "score" is the mean loss on all, before training."""
        count, score = self.pacing.visible(len(data), task.version), {}
        part = data
        if self.order != "random":
            score = {"score": float(self.trainer.evaluate(model, data)["loss"])}
        if count < len(data):
            part = data.take(np.sort(self._ordered(model, data, task)[:count]))
        payload, state = self.trainer.train(model, part, state, task, rng)
        metrics = {**payload.metrics, **score}
        return replace(payload, num_examples=len(data), metrics=metrics), state

    def evaluate(self, model: Tensors, data: Any) -> Metrics:
        """The trainer's metrics."""
        return self.trainer.evaluate(model, data)

    def _ordered(self, model: Tensors, data: Any, task: Task) -> Any:
        if self.order == "random":  # the same for a client always
            return named(0, "curriculum", task.client).permutation(len(data))
        losses = [
            self.trainer.evaluate(model, data.take(np.array([i])))["loss"] for i in range(len(data))
        ]
        sign = 1 if self.order == "curriculum" else -1
        return np.argsort(sign * np.array(losses), kind="stable")


@dataclass(frozen=True)
class Scores:
    """The mean losses that clients reported last."""

    last: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ByScore(Policy[Scores]):
    """Draws among the first clients in an order."""

    pacing: Pacing
    order: Order

    @property
    def needs(self) -> tuple[str, ...]:
        """The score, unless the order is drawn."""
        return () if self.order == "random" else ("score",)

    def init(self) -> Scores:
        """None reported."""
        return Scores()

    def choose(self, memory: Scores, n: int, view: View, name: str) -> tuple[list[str], Scores]:
        """At most n of the visible ones, of at least n."""
        sign, last = (-1 if self.order == "anti" else 1), memory.last
        pool = sorted(view.idle, key=lambda c: (sign * last[c] if c in last else -np.inf, c))
        if self.order == "random":
            pool = some(sorted(view.idle), len(pool), named(0, "curriculum clients"))
        count = max(self.pacing.visible(len(pool), view.version), n) if pool else 0
        return some(pool[:count], n, view.rng("cohort", name)), memory

    def seen(self, memory: Scores, update: Update, view: View) -> Scores:
        """Its score counts from the next round on."""
        if self.order == "random":
            return memory
        return Scores({**memory.last, update.client: reported(update, "score")})


def curriculum(
    cohort: int | None = None, *, trainer: Trainer[Any], pacing: Pacing,
    order: Order = "curriculum", clients: bool = False, rounds: FedAvg = FedAvg(),
    aggregator: Aggregator[Any] = Mean(), upload: Transform[Any] = Chain(),
    optimizer: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedAvg on ordered data, and with `clients` on ordered clients; start = 1 is FedAvg.

    Raises:
        ConfigError: for numbers out of range.
    """
    planned = schedule(cohort, rounds)
    coordinator: Coordinator[Any] = planned
    if clients:
        coordinator = Selecting(planned, ByScore(pacing, order))
    local = Paced(trainer, pacing, order)
    return Algorithm(coordinator, local, aggregator, upload, optimizer, "curriculum")
