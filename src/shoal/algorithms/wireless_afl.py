"""Wireless asynchronous federated learning: what a model weighs goes by how old it is in seconds.

Zeng, Semiari, Saad and Bennis, Wireless-enabled asynchronous federated Fourier neural network for
turbulence prediction in urban air mobility, 2022, arXiv 2201.00626; weight verified in the authors'
code, whose staleness-free baseline has the weight 1.5 / N throughout.
    x <- x + w_i (y_i - x) on every arrival;      w_i = (1/2 + e^(-age / scale)) / N

The age is the time since client i was given the model that it trained: computing, and
waiting for a connection (`simulation.Connectivity`). The mix of models is FedAsync's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any

from shoal.aggregators import Sum
from shoal.algorithms.fedasync import AsyncState, FedAsync
from shoal.core import Algorithm, Chain, Coordinator, Steps, Trainer, Transform, View
from shoal.errors import positive
from shoal.messages import Action, Aggregate, Event, Updated
from shoal.staleness import Constant


@dataclass(frozen=True)
class Aging(Coordinator[AsyncState]):
    """FedAsync's mixing with weights that fall with an update's age.

    Attributes:
        inner: who works when.
        scale: seconds after which the second part of a weight has fallen to 1 / e.
        offset: the part of a weight that does not fall.
        population: N; None for those present.
    """

    inner: FedAsync
    scale: float = 1.0
    offset: float = 0.5
    population: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive("scale", self.scale)
        positive("offset", self.offset, zero=True)
        if self.population is not None:
            positive("population", self.population)

    def init(self) -> AsyncState:
        """As the inner one's."""
        return self.inner.init()

    def handle(self, state: AsyncState, event: Event, view: View) -> Steps[AsyncState]:
        """FedAsync's actions with other weights."""
        state, actions = self.inner.handle(state, event, view)
        if not isinstance(event, Updated):
            return state, actions
        clients = self.population or len(view.clients)
        weight = self.weight(event.update.duration, clients)
        return state, [_weighted(action, weight) for action in actions]

    def held(self, state: AsyncState) -> Sequence[int]:
        """Nothing is."""
        return self.inner.held(state)

    def weight(self, age: float, clients: int) -> float:
        """(offset + e^(-age / scale)) / N, at most 1: beyond it nothing of the model would stay."""
        return min((self.offset + exp(-age / self.scale)) / max(clients, 1), 1.0)


def _weighted(action: Action, weight: float) -> Action:
    return replace(action, weight=weight) if isinstance(action, Aggregate) else action


def wireless_afl(
    scale: float = 1.0, *, trainer: Trainer[Any], offset: float = 0.5,
    population: int | None = None, concurrency: int | None = None,
    upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """Staleness-aware aggregation of clients on unreliable links.

    Args:
        scale: seconds; about those of a task.
        trainer: of the local work.
        offset: 1/2 in the authors' code.
        population: N, all clients that there are; None for those present.
        concurrency: clients that work at once; None for everyone.
        upload: of the model's change.
    """
    inner = FedAsync(1.0, Constant(), "mix", concurrency)
    coordinator = Aging(inner, scale, offset, population)
    return Algorithm(coordinator, trainer, Sum(), upload, name="wireless_afl")
