"""What a fold costs: prices, the machine it runs on, and how long it takes to start one.

dollars = puts * put + gets * get + functions * request + gb_second * sum of memory * seconds
cold start = allocation + deployment + scheduling, each heavy-tailed (2024, arXiv 2410.06145)
"""

from dataclasses import dataclass
from math import exp, inf

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError, positive
from shoal.seeds import Purpose, rng

GIB = float(1 << 30)  # clouds bill a "GB" of memory by this many bytes
MONTH = 30 * 86400.0


@dataclass(frozen=True)
class Prices:
    """A price list in dollars; the defaults are list prices of a large public cloud.

    Attributes:
        gb_second: of function memory, per GiB and second.
        request: of one call of a function.
        put: of one object written.
        get: of one object read.
        egress: per GiB that crosses regions; 0 if all is in one.
        gb_month: per GiB and month of objects stored; 0 leaves out these cents.
    """

    gb_second: float = 1.6667e-5
    request: float = 2e-7
    put: float = 5e-6
    get: float = 4e-7
    egress: float = 0.0
    gb_month: float = 0.0

    def __post_init__(self) -> None:
        """Check that no price is negative."""
        for name in ("gb_second", "request", "put", "get", "egress", "gb_month"):
            positive(name, getattr(self, name), zero=True)

    def dollars(self, use: "Use") -> float:
        """The price of what a round used."""
        return (
            use.puts * self.put
            + use.gets * self.get
            + use.functions * self.request
            + use.byte_seconds / GIB * self.gb_second
            + use.moved / GIB * self.egress
            + use.stored / GIB * self.gb_month * use.seconds / MONTH
        )


@dataclass(frozen=True)
class Use:
    """What a round used.

    Attributes:
        functions: calls.
        puts, gets: objects written (by clients too) and read.
        moved: bytes read and written by folds.
        byte_seconds: memory times billed time.
        stored: bytes that lay in the store.
        seconds: how long the round took.
    """

    functions: int
    puts: int
    gets: int
    moved: float
    byte_seconds: float
    stored: float
    seconds: float


@dataclass(frozen=True)
class Heavy:
    """A lognormal time: exp(N(log median, sigma^2)) seconds."""

    median: float
    sigma: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive("median", self.median, zero=True)
        positive("sigma", self.sigma, zero=True)

    @property
    def mean(self) -> float:
        """Its mean in seconds."""
        return self.median * exp(self.sigma**2 / 2)

    def draw(self, n: int, seed: int, *purpose: Purpose) -> NDArray[np.float64]:
        """n draws in seconds, shape (n,)."""
        if self.sigma == 0.0 or self.median == 0.0:
            return np.full(n, self.median)
        return self.median * np.exp(self.sigma * rng(seed, *purpose).standard_normal(n))


@dataclass(frozen=True)
class ColdStart:
    """How long it takes until a new worker is there: a sum of three times.

    Attributes:
        allocation: until a machine with room is found.
        deployment: of code and dependencies.
        scheduling: until it runs.
    """

    allocation: Heavy
    deployment: Heavy
    scheduling: Heavy

    @property
    def mean(self) -> float:
        """Its mean in seconds."""
        return self.allocation.mean + self.deployment.mean + self.scheduling.mean

    def draw(self, n: int, seed: int, *purpose: Purpose) -> NDArray[np.float64]:
        """n draws in seconds, shape (n,)."""
        return (
            self.allocation.draw(n, seed, "allocation", *purpose)
            + self.deployment.draw(n, seed, "deployment", *purpose)
            + self.scheduling.draw(n, seed, "scheduling", *purpose)
        )


# Two mixes that were observed: dependencies and scheduling dominate, rarely up to 7 s; allocation
# dominates, rarely up to 3 s.
DEPLOYING = ColdStart(Heavy(0.25, 0.6), Heavy(0.62, 0.72), Heavy(0.4, 0.72))
ALLOCATING = ColdStart(Heavy(0.42, 0.6), Heavy(0.1, 0.6), Heavy(0.07, 0.6))
WARM = ColdStart(Heavy(0.0), Heavy(0.0), Heavy(0.0))


@dataclass(frozen=True)
class Platform:
    """Where folds run.

    Attributes:
        fold: bytes per second that one worker reads and folds.
        write: bytes per second at which it hands on its result; infinite in shared memory.
        network: bytes per second between two places; infinite where the store is in between.
        hop: seconds for handing a result on, whatever its size.
        memory: bytes that one worker may use.
        seconds: that one worker may run.
        cold: how long a new worker takes to start.
        store: inputs wait in an object store, not in the worker's memory.
        ahead: workers are started before the round, for the updates that are expected.
        reuse: a worker that finished a fold takes over the one above in the same place.
    """

    fold: float = 0.52 * GIB
    write: float = 0.52 * GIB
    network: float = inf
    hop: float = 0.0
    memory: float = 10 * GIB
    seconds: float = 900.0
    cold: ColdStart = DEPLOYING
    store: bool = True
    ahead: bool = False
    reuse: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("fold", "write", "network", "memory", "seconds"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(name, f"must be above 0, got {value!r}")
        positive("hop", self.hop, zero=True)


FUNCTIONS = Platform()
CLUSTER = Platform(
    fold=2e9, write=inf, network=1.25e9, hop=1e-4, memory=64e9, seconds=inf, store=False
)
