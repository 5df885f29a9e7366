"""Who takes part when, slot by slot, as in studies of unknown participation statistics.

Wang and Ji, A lightweight method for tackling unknown participation statistics in federated
averaging, 2023, arXiv 2306.03401; its defaults: mean 0.1, least 0.02, alpha 0.1, Markov 0.05,
cycle 100.
    p_c = max(least, min(1, mean * K * <q, shares of c's K classes>)),  q ~ Dirichlet(alpha)
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil, floor, inf, log, log1p
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError, fraction, positive
from shoal.seeds import rng, uniform
from shoal.simulation.availability import Span, Switch
from shoal.simulation.connectivity import Connectivity

Labels = Callable[[str], NDArray[Any]]
MEMORY = 512  # slots after which a Markov chain is drawn anew from its stationary law
LONGEST = 100_000  # slots searched for the next change


@runtime_checkable
class Labelled(Protocol):
    """An availability that may depend on a client's labels."""

    def bound(self, labels: Labels) -> Any:
        """The same for clients whose shares of the classes are known."""


@dataclass(frozen=True)
class ByLabels:
    """Probabilities of taking part that go with the classes which a client has.

    Attributes:
        mean: over clients with every class alike.
        least: no client's is below.
        alpha: of the Dirichlet distribution of the classes' weights; small: a few classes decide.
    """

    mean: float = 0.1
    least: float = 0.02
    alpha: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        fraction("mean", self.mean)
        fraction("least", self.least)
        positive("alpha", self.alpha)

    def probability(self, seed: int, shares: NDArray[Any]) -> float:
        """Of a client with these shares of the classes, shape (classes,).

        Raises:
            ConfigError: if there are no classes.
        """
        if not len(shares):
            raise ConfigError("probability", "goes by labels, but these data have no classes")
        weights = _weights(seed, self.alpha, len(shares))
        wanted = self.mean * len(shares) * float(weights @ shares)
        return max(self.least, min(1.0, wanted))


@lru_cache(maxsize=64)
def _weights(seed: int, alpha: float, classes: int) -> NDArray[np.float64]:
    return rng(seed, "participation", "classes").dirichlet(np.full(classes, alpha))


class Pattern(Protocol):
    """How being there is spread over slots 0, 1, ...: a frozen dataclass."""

    def run(self, seed: int, client: str, slot: int, p: float) -> tuple[bool, int]:
        """Whether a client of probability p, 0 < p < 1, takes part, and the next slot to ask."""


@dataclass(frozen=True)
class Bernoulli:
    """Each slot for itself."""

    def run(self, seed: int, client: str, slot: int, p: float) -> tuple[bool, int]:
        """One draw for each slot."""
        return uniform(seed, "participation", client, slot) < p, slot + 1


@dataclass(frozen=True)
class Markov:
    """A chain of two states with the stationary probability p.

    Every 512 slots it is drawn anew from its stationary law, so that any slot is found quickly.

    Attributes:
        most: the largest chance to come back in a slot.
    """

    most: float = 0.05

    def __post_init__(self) -> None:
        """Check the field."""
        fraction("most", self.most)
        positive("most", self.most)

    def run(self, seed: int, client: str, slot: int, p: float) -> tuple[bool, int]:
        """Walks through the times of staying since the chain was drawn anew."""
        block = slot // MEMORY
        come = min(self.most, p / (1 - p))
        go = come * (1 - p) / p
        on, at, k = uniform(seed, "participation", client, block) < p, block * MEMORY, 0
        while True:
            change = go if on else come
            draw = uniform(seed, "participation", client, block, k)
            at += 1 if change >= 1 else max(1, ceil(log(draw) / log1p(-change)))
            if at > slot or at >= (block + 1) * MEMORY:
                return on, min(at, (block + 1) * MEMORY)
            on, k = not on, k + 1


@dataclass(frozen=True)
class Cyclic:
    """p of each cycle in one piece, at a place of its own for each client.

    Attributes:
        cycle: slots.
    """

    cycle: int = 100

    def __post_init__(self) -> None:
        """Check the field."""
        positive("cycle", self.cycle)

    def run(self, seed: int, client: str, slot: int, p: float) -> tuple[bool, int]:
        """By the place in the cycle; at least one slot of it is on."""
        offset = int(uniform(seed, "participation", client) * self.cycle)
        on = max(1, round(p * self.cycle))
        place = (slot - offset) % self.cycle
        return place < on, slot + (on if place < on else self.cycle) - place


@dataclass(frozen=True)
class Participation:
    """Clients take part with probabilities of their own, in slots of equal length.

    Attributes:
        pattern: how being there is spread over slots.
        probability: of being there in a slot; a number, by the labels that a client has, or by how
            well it is connected.
        every: seconds of a slot, e.g. those of a round.
    """

    pattern: Pattern = Bernoulli()
    probability: float | ByLabels | Connectivity = 0.1
    every: float = 1.0
    _labels: Labels | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.probability, ByLabels | Connectivity):
            fraction("probability", self.probability)
        positive("every", self.every)

    def of(self, seed: int, client: str) -> float:
        """A client's probability of taking part in a slot.

        Raises:
            ConfigError: if it goes by labels and there are none.
        """
        if isinstance(self.probability, Connectivity):
            return self.probability.probability(seed, client)
        if not isinstance(self.probability, ByLabels):
            return self.probability
        if self._labels is None:
            raise ConfigError("probability", "goes by labels: run it in an experiment with data")
        return self.probability.probability(seed, self._labels(client))

    def bound(self, labels: Labels) -> "Participation":
        """The same for clients whose shares of the classes are known."""
        copy = replace(self)
        object.__setattr__(copy, "_labels", lru_cache(maxsize=100_000)(labels))
        return copy

    def online(self, seed: int, client: str) -> bool:
        """Whether the client takes part in the first slot."""
        return self.span(seed, client, 0.0)[0]

    def next_switch(self, seed: int, client: str, k: int, previous_time: float) -> Switch | None:
        """The client's next change; k is not needed, since slots have numbers of their own."""
        on, until = self.span(seed, client, previous_time)
        return None if until == inf else (until, not on)

    def span(self, seed: int, client: str, time: float) -> Span:
        """Whether the client takes part, and until when without a break."""
        p = self.of(seed, client)
        if p <= 0 or p >= 1:
            return p >= 1, inf
        slot = self._slot(time)
        on, following = self.pattern.run(seed, client, slot, p)
        while following - slot < LONGEST:
            again, after = self.pattern.run(seed, client, following, p)
            if again != on:
                return on, following * self.every
            following = after
        return on, inf

    def _slot(self, time: float) -> int:
        """The slot that a time is in; its first moment belongs to it, rounding or not."""
        at = floor(time / self.every)
        return at + 1 if (at + 1) * self.every <= time else at
