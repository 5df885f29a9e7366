"""Clients' devices in virtual time: compute speed, bandwidth, availability, dropout, jitter."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from shoal.errors import fraction, positive
from shoal.seeds import normal, uniform
from shoal.simulation.availability import Availability, Span, Switch
from shoal.simulation.connectivity import Retries
from shoal.simulation.distributions import Constant, Distribution
from shoal.simulation.participation import Labelled

UNIT = Constant(1.0)
REMEMBERED = 100_000  # speeds that are not drawn again; a draw is a function of its name anyway


@dataclass(frozen=True)
class Devices:
    """What each client's device is like; every property is a draw named by the client.

    Attributes:
        speed: seconds per local step, drawn once per client.
        down: bytes per second to the client, drawn once per client; None for no limit.
        up: bytes per second from the client.
        availability: when a client is reachable; None for always.
        dropout: probability that a task is lost on the way.
        jitter: deviation of the logarithm of a task's compute time; its mean stays the same.
        speeds: seconds per local step of clients by name, in place of a draw.
        retries: uploads that do not get through at once; None if all do.
    """

    speed: Distribution = UNIT
    down: Distribution | None = None
    up: Distribution | None = None
    availability: Availability | None = None
    dropout: float = 0.0
    jitter: float = 0.0
    speeds: Mapping[str, float] = field(default_factory=dict)
    retries: Retries | None = None
    _drawn: dict[tuple[int, str], float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        fraction("dropout", self.dropout, one=False)
        positive("jitter", self.jitter, zero=True)
        for client, seconds in self.speeds.items():
            positive(f"speeds[{client!r}]", seconds)

    def step_seconds(self, seed: int, client: str) -> float:
        """Seconds per local step of a client."""
        if client in self.speeds:
            return self.speeds[client]
        known = self._drawn.get((seed, client))
        if known is None:
            if len(self._drawn) >= REMEMBERED:
                self._drawn.clear()
            known = self._drawn[seed, client] = self.speed.draw(seed, "speed", client)
        return known

    def compute_seconds(self, seed: int, client: str, number: int, steps: int) -> float:
        """Seconds that the client's task of that number takes for so many local steps."""
        seconds = steps * self.step_seconds(seed, client)
        if self.jitter:
            draw = normal(seed, "jitter", client, number)
            seconds *= math.exp(self.jitter * draw - self.jitter**2 / 2)
        if self.retries is None:
            return seconds
        # With the work, since an upload has no number that would name a draw.
        return seconds + self.retries.seconds(seed, client, number)

    def download_seconds(self, seed: int, client: str, nbytes: int) -> float:
        """Seconds for so many bytes to the client."""
        return nbytes / self.down.draw(seed, "down", client) if self.down else 0.0

    def upload_seconds(self, seed: int, client: str, nbytes: int) -> float:
        """Seconds for so many bytes from the client."""
        return nbytes / self.up.draw(seed, "up", client) if self.up else 0.0

    def drops(self, seed: int, client: str, number: int) -> float | None:
        """The share of its work, in (0, 1), after which a task is lost; None if it is not."""
        if not self.dropout:
            return None
        draw = uniform(seed, "dropout", client, number)
        # Below the threshold the draw is uniform, so it says when as well as whether.
        return draw / self.dropout if draw < self.dropout else None

    def online(self, seed: int, client: str) -> bool:
        """Whether a client is reachable at time 0."""
        return self.availability is None or self.availability.online(seed, client)

    def next_switch(self, seed: int, client: str, k: int, previous_time: float) -> Switch | None:
        """The client's k-th change of availability, as (seconds, goes online); None if no more."""
        if self.availability is None:
            return None
        return self.availability.next_switch(seed, client, k, previous_time)

    def span(self, seed: int, client: str, time: float) -> Span:
        """Whether a client is reachable at a time, and until when that holds."""
        if self.availability is None:
            return True, math.inf
        return self.availability.span(seed, client, time)

    def bound(self, labels: Callable[[str], NDArray[Any]]) -> "Devices":
        """The same devices for clients whose shares of the classes are known."""
        if not isinstance(self.availability, Labelled):
            return self
        return replace(self, availability=self.availability.bound(labels))
