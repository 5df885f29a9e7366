"""Whether an upload gets through a radio cell: by the signal-to-interference ratio (SIR).

Zeng, Semiari, Saad and Bennis, Wireless-enabled asynchronous federated Fourier neural network for
turbulence prediction in urban air mobility, 2022, arXiv 2201.00626: aircraft talk to the nearest
ground station while others interfere. Their laws are of random fields of stations; here positions
are drawn, for which Rayleigh fading has a closed form:
    P(SIR > T) = prod over interferers j of 1 - a + a / (1 + T (d / d_j)^alpha)
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log, log1p

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError, fraction, positive
from shoal.seeds import rng, uniform

LEAST = 1e-6  # a client that never gets through would hold up its task forever
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Connectivity:
    """Aircraft over a square with ground stations; each client has a place of its own.

    Attributes:
        stations: on the ground, uniformly over the square.
        interferers: other aircraft that use the same channel, uniformly over the square.
        side: of the square in meters.
        altitude: of aircraft in meters.
        threshold: least SIR for an upload to get through, in decibels.
        exponent: alpha, of the path loss.
        activity: a, the probability that an interferer sends at the same time.
    """

    stations: int = 16
    interferers: int = 4
    side: float = 5000.0
    altitude: float = 300.0
    threshold: float = -5.0
    exponent: float = 2.5
    activity: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("stations", "side", "altitude", "exponent"):
            positive(name, getattr(self, name))
        positive("interferers", self.interferers, zero=True)
        fraction("activity", self.activity)
        if not -200 <= self.threshold <= 200:
            raise ConfigError("threshold", f"must be decibels of -200 to 200: {self.threshold!r}")

    def probability(self, seed: int, client: str) -> float:
        """That an upload of the client gets through in a slot."""
        place = rng(seed, "connectivity", "client", client).uniform(0, self.side, 2)
        grounds, others = _field(self, seed)
        ground = grounds[np.argmin(((grounds - place) ** 2).sum(1))]
        here, there = self._distance(place[None], ground)[0], self._distance(others, ground)
        ratio = 10 ** (self.threshold / 10) * (here / there) ** self.exponent
        each = 1 - self.activity + self.activity / (1 + ratio)
        return max(float(np.prod(each)), LEAST)

    def _distance(self, places: Points, ground: Points) -> Points:
        return np.asarray(np.sqrt(((places - ground) ** 2).sum(1) + self.altitude**2))


@lru_cache(maxsize=64)
def _field(model: Connectivity, seed: int) -> tuple[Points, Points]:
    """Where stations and interferers are, shape (n, 2) each."""
    draws = rng(seed, "connectivity", "field")
    return (
        draws.uniform(0, model.side, (model.stations, 2)),
        draws.uniform(0, model.side, (model.interferers, 2)),
    )


@dataclass(frozen=True)
class Retries:
    """Clients send again, slot after slot, until an upload gets through.

    Attributes:
        link: how likely one is to.
        every: seconds of a slot.
    """

    link: Connectivity = Connectivity()
    every: float = 1.0

    def __post_init__(self) -> None:
        """Check the slot."""
        positive("every", self.every)

    def seconds(self, seed: int, client: str, number: int) -> float:
        """What a client's task of that number waits beyond its first attempt."""
        p = self.link.probability(seed, client)
        if p >= 1:
            return 0.0
        draw = uniform(seed, "retries", client, number)
        return self.every * (max(1, ceil(log(draw) / log1p(-p))) - 1)
