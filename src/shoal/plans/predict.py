"""Latency, memory, requests, bytes and dollars of every candidate plan, in closed form.

t = G / (m b)                     seconds to read and fold one input of a shard
level: max(o + k t, S + t) + t    k inputs over S seconds, cold start o, result written last
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, inf, log

from shoal.errors import ConfigError, positive
from shoal.plans.builders import layered, widths
from shoal.plans.plan import At, Eager, Lazy, Plan, Trigger
from shoal.plans.prices import FUNCTIONS, Platform, Prices, Use
from shoal.plans.quantities import bytes_text

KINDS = ("flat", "tree", "shards", "shards x tree")
TRIGGERS = ("eager", "at", "lazy")
FAN_INS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 512)
SHARDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True)
class Workload:
    """What a round asks for.

    Attributes:
        model_bytes: of one update.
        clients: updates in a round.
        spread: seconds from the first arrival to the last.
        memory: ceiling of one worker in bytes; None for the platform's.
        deadline: seconds from the first arrival within which to commit.
    """

    model_bytes: float
    clients: int
    spread: float = 0.0
    memory: float | None = None
    deadline: float = inf

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive("model_bytes", self.model_bytes)
        positive("clients", self.clients)
        if self.clients != int(self.clients):
            raise ConfigError("clients", f"must be a whole number, got {self.clients!r}")
        positive("spread", self.spread, zero=True)
        if self.memory is not None:
            positive("memory", self.memory)
        if not self.deadline > 0:
            raise ConfigError("deadline", f"must be above 0, got {self.deadline!r}")


@dataclass(frozen=True)
class Shape:
    """A plan by its numbers.

    Attributes:
        levels: folds of each level and shard, from the leaves to the one top.
        shards: m.
        trigger: "eager", "lazy", or "at": at the time from which a worker would just be busy.
        fan_in: of the tree, for its name; 0 without one.
    """

    levels: tuple[int, ...] = (1,)
    shards: int = 1
    trigger: str = "eager"
    fan_in: int = 0

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return KINDS[2 * (self.shards > 1) + (len(self.levels) > 1)]

    @property
    def name(self) -> str:
        """E.g. "shards(8) x tree(32)"."""
        folds = f"tree({self.fan_in or self.levels[0]})"
        cut = f"shards({self.shards})"
        return {"flat": "flat", "tree": folds, "shards": cut}.get(self.kind, f"{cut} x {folds}")


@dataclass(frozen=True)
class Candidate:
    """A shape and what is predicted of it.

    Attributes:
        latency: seconds from the first arrival to the commit, inputs of a level all at its end.
        after: seconds of it after the last arrival.
        memory: bytes of one worker.
        longest: seconds that the longest worker runs.
        use: what is billed.
        dollars: its price, for one round.
        problem: why it cannot be used; empty if it can.
    """

    shape: Shape
    latency: float
    after: float
    memory: float
    longest: float
    use: Use
    dollars: float
    problem: str = ""


def predict(
    shape: Shape, workload: Workload, platform: Platform = FUNCTIONS, prices: Prices = Prices()
) -> Candidate:
    """Latency, memory, requests, bytes and dollars of one shape."""
    size = workload.model_bytes / shape.shards
    one, write = size / platform.fold, size / platform.write
    cold = 0.0 if platform.ahead else platform.cold.mean
    spread, n = workload.spread, workload.clients
    latency = longest = billed = 0.0
    inputs = 0
    for level, width in enumerate(shape.levels):
        below = n if level == 0 else shape.levels[level - 1]
        start = 0.0 if (platform.reuse and level) else cold
        most, mean = ceil(below / width), below / width
        if level == 0:
            end, ran = _leaf(shape.trigger, spread, start, most * one, one, mean * one)
        else:
            end, ran = latency + platform.hop + start + most * one, mean * one
        latency = end + write
        longest = max(longest, ran + (most - mean) * one + write)
        billed += width * (ran + write)
        inputs += below
    m, folds = shape.shards, sum(shape.levels)
    batch = ceil(n / shape.levels[0]) if shape.trigger != "eager" and not platform.store else 1
    memory = (1 + batch) * size
    use = Use(
        m * folds, m * (n + folds), m * inputs, (inputs + folds) * workload.model_bytes,
        m * billed * memory, workload.model_bytes * (n + folds), latency,
    )  # fmt: skip
    found = Candidate(shape, latency, latency - spread, memory, longest, use, prices.dollars(use))
    return replace(found, problem=_problem(found, workload, platform))


def shapes(workload: Workload, platform: Platform = FUNCTIONS) -> Iterator[Shape]:
    """All candidates: flat, trees, shards and shards of trees, under each trigger that matters."""
    most = max(1, int(workload.model_bytes // 4))
    counts = {m for m in SHARDS if m <= most}
    counts |= {min(most, m) for m in _least_shards(workload, platform)}
    for levels, fan_in in _trees(workload.clients):
        for m in sorted(counts):
            for trigger in TRIGGERS if workload.spread > 0 else TRIGGERS[:1]:
                yield Shape(levels, m, trigger, fan_in)


def build(candidate: Candidate, workload: Workload, platform: Platform = FUNCTIONS) -> Plan:
    """The plan of a candidate, folds and all."""
    shape = candidate.shape
    trigger: Trigger = Eager()
    inner: Trigger = Eager()
    if shape.trigger == "lazy":
        trigger = inner = Lazy()
    if shape.trigger == "at":
        one = workload.model_bytes / shape.shards / platform.fold
        most = ceil(workload.clients / shape.levels[0])
        cold = 0.0 if platform.ahead else platform.cold.mean
        trigger, inner = At(max(0.0, workload.spread + one - most * one - cold)), Lazy()
    return layered(workload.clients, shape.levels, shape.shards, trigger, inner, shape.name)


def best_fan_in(hop: float, merge: float) -> float:
    """The fan-in k of the fastest tree when all inputs are there: k (ln k - 1) = hop / merge.

    Args:
        hop: seconds that handing on a result costs.
        merge: seconds to fold one input.
    """
    positive("hop", hop, zero=True)
    positive("merge", merge)
    target, k = hop / merge, max(2.718281828, hop / merge)
    for _ in range(60):  # Newton's method; the function is convex and the start is on its right
        k -= (k * (log(k) - 1.0) - target) / log(k)
    return k


def _leaf(
    trigger: str, spread: float, cold: float, work: float, one: float, mean: float
) -> tuple[float, float]:
    """When a leaf has folded its last input, and how long it ran, cold start left out."""
    if trigger == "lazy":
        return spread + cold + work, mean
    end = max(cold + work, spread + one)
    if trigger == "at":
        begin = max(0.0, spread + one - work - cold) + cold
        return max(begin + work, spread + one), max(mean, spread + one - begin - work + mean)
    return end, max(mean, end - cold - work + mean)


@lru_cache(maxsize=256)
def _trees(clients: int) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Levels and fan-in of flat and of each tree that is not flat."""
    found: list[tuple[tuple[int, ...], int]] = [((1,), 0)]
    found += [(widths(clients, k), k) for k in FAN_INS if k < clients]
    root = round(clients**0.5)  # two levels of equal fan-in
    if root > 1 and ceil(clients / root) > 1:
        found.append(((ceil(clients / root), 1), root))
    return tuple(dict(reversed(found)).items())[::-1]


def _least_shards(workload: Workload, platform: Platform) -> list[int]:
    """The fewest shards that meet the memory ceiling, the time limit, the deadline."""
    ceiling = min(workload.memory or platform.memory, platform.memory)
    found = [ceil(2 * workload.model_bytes / ceiling)]
    work = (workload.clients + 1) * workload.model_bytes / platform.fold
    left = workload.deadline - workload.spread - platform.cold.mean
    found += [ceil(work / limit) for limit in (left, platform.seconds) if 0 < limit < inf]
    return [min(max(1, m), SHARDS[-1]) for m in found]


def _problem(found: Candidate, workload: Workload, platform: Platform) -> str:
    ceiling = min(workload.memory or platform.memory, platform.memory)
    if found.memory > ceiling:
        return f"needs {bytes_text(found.memory)} a worker of at most {bytes_text(ceiling)}"
    if found.longest > platform.seconds:
        return f"runs a worker {found.longest:,.0f} s of at most {platform.seconds:,.0f} s"
    if found.latency > workload.deadline:
        return f"takes {found.latency:,.1f} s of at most {workload.deadline:,.1f} s"
    return ""
