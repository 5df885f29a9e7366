"""A plan in virtual time, with sizes only: cold starts, failures, stragglers and prices.

Inputs of a fold are served one after the other: done = max over j of (a_j + (k - j) t), where the
a_j are sorted times at which input j may be folded and t is the time for one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, isinf, log

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError, fraction, positive
from shoal.plans.plan import (
    At,
    Fold,
    Lazy,
    Plan,
    PlanError,
    Quorum,
    closes,
    manifest,
    slot_array,
)
from shoal.plans.prices import FUNCTIONS, WARM, Platform, Prices, Use
from shoal.seeds import rng, uniform

Times = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Attributes:
        mtbf: mean seconds of work between failures of a node; a fold that it hits begins again
            with inputs that were kept until its result was durable.
        attempts: how often a fold is tried.
        stragglers: probability that a worker is slow.
        slowdown: how many times slower it then folds.
    """

    mtbf: float = inf
    attempts: int = 10
    stragglers: float = 0.0
    slowdown: float = 3.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        fraction("stragglers", self.stragglers)
        positive("slowdown", self.slowdown)
        if not self.mtbf > 0:
            raise ConfigError("mtbf", f"must be above 0, got {self.mtbf!r}")
        if self.attempts < 1:
            raise ConfigError("attempts", f"must be at least 1, got {self.attempts!r}")


NO_FAULTS = Faults()


@dataclass(frozen=True)
class Simulated:
    """What a round came to.

    Attributes:
        seconds: from the start of the round to the commit.
        after_last: from the last accepted arrival to the commit.
        accepted: updates in the result.
        cold_starts: workers started; cold_seconds: all their starting times together.
        critical: seconds that cold starts added to the round.
        converted: folds that a warm worker took over.
        failures: folds that were begun again, each time counted.
        nodes: places in use (workers, where a plan names none).
        between: bytes sent from place to place.
        memory: bytes that the fullest worker held.
        longest: seconds that the longest worker ran.
        busy: seconds of all workers together.
        use: what is billed.
        dollars: its price.
    """

    seconds: float
    after_last: float
    accepted: int
    cold_starts: int
    cold_seconds: float
    critical: float
    converted: int
    failures: int
    nodes: int
    between: float
    memory: float
    longest: float
    busy: float
    use: Use
    dollars: float

    @property
    def utility(self) -> float:
        """Useful time of a worker for each second of starting it; infinite without cold starts."""
        return self.busy / self.cold_seconds if self.cold_seconds else inf


def spread_evenly(n: int, seconds: float) -> Times:
    """Arrival times of n updates, evenly from 0 to the last at `seconds`: shape (n,)."""
    return np.linspace(0.0, seconds, n) if n > 1 else np.full(n, seconds)


def spread_randomly(n: int, seconds: float, seed: int) -> Times:
    """Arrival times of n updates, uniform in 0 .. `seconds`, in no order: shape (n,)."""
    return rng(seed, "arrivals").random(n) * seconds


def simulate(
    plan: Plan,
    model_bytes: float,
    arrivals: Times,
    platform: Platform = FUNCTIONS,
    *,
    prices: Prices = Prices(),
    faults: Faults = NO_FAULTS,
    capacity: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Simulated:
    """Play one round of a plan.

    Args:
        model_bytes: of one update.
        arrivals: seconds at which each update is there, shape (plan.updates,); infinite: never.
        capacity: updates that a place can serve at once; with more, all its folds are slower.
        seed: of the named draws; one seed, one result.

    Raises:
        PlanError: if updates are missing without a quorum, or a fold fails at every attempt.
    """
    positive("model_bytes", model_bytes)
    if arrivals.shape != (plan.updates,):
        raise ConfigError("arrivals", f"shape {arrivals.shape} for {plan.updates} updates")
    round_ = _Round(plan, model_bytes, arrivals, platform, faults, capacity or {}, seed)
    total = round_.play()
    critical = 0.0
    if platform.cold != WARM:
        warm = replace(platform, cold=WARM)
        without = _Round(plan, model_bytes, arrivals, warm, faults, capacity or {}, seed)
        critical = total.seconds - without.play().seconds
    return replace(total, critical=critical, dollars=prices.dollars(total.use))


class _Round:
    """One round, level by level, all folds of a level at once."""

    def __init__(
        self,
        plan: Plan,
        model_bytes: float,
        arrivals: Times,
        platform: Platform,
        faults: Faults,
        capacity: Mapping[str, float],
        seed: int,
    ) -> None:
        self.plan, self.platform, self.faults, self.seed = plan, platform, faults, seed
        self.accepted = manifest(plan, arrivals)
        self.arrivals, self.size = arrivals, model_bytes / plan.units
        self.done: dict[str, float] = {}
        self.load = _loads(plan, capacity)
        self.outages = _Outages(faults.mtbf, seed)
        self.functions = self.gets = self.cold_starts = self.converted = self.failures = 0
        self.moved = self.byte_seconds = self.cold = self.between = 0.0
        self.memory = self.longest = self.busy = 0.0

    def play(self) -> Simulated:
        """All levels, then the barrier."""
        for number, level in enumerate(self.plan.levels):
            self._level(number, level)
        seconds = max(self.done[top.id] for top in self.plan.tops)
        taken = int(self.accepted.sum())
        written = sum(fold.shard[1] - fold.shard[0] for fold in self.plan.folds) * self.size
        whole = self.size * self.plan.units
        use = Use(
            self.functions,
            taken * self.plan.shards + len(self.plan.folds),
            self.gets,
            self.moved,
            self.byte_seconds,
            whole * taken + written,
            seconds,
        )
        places = {fold.place or fold.id for fold in self.plan.folds}
        return Simulated(
            seconds, seconds - float(self.arrivals[self.accepted].max()), taken,
            self.cold_starts, self.cold, 0.0, self.converted, self.failures, len(places),
            self.between, self.memory, self.longest, self.busy, use, 0.0,
        )  # fmt: skip

    def _level(self, number: int, level: tuple[Fold, ...]) -> None:
        n, platform = len(level), self.platform
        bytes_ = np.array([f.shard[1] - f.shard[0] for f in level], float) * self.size
        slow = np.ones(n)
        if self.faults.stragglers > 0:
            hit = rng(self.seed, "straggler", number).random(n) < self.faults.stragglers
            slow = np.where(hit, self.faults.slowdown, 1.0)
        slow = slow * np.array([self.load.get(f.place, 1.0) for f in level])
        one = bytes_ / platform.fold * slow
        times, starts, counts = self._inputs(level, bytes_)
        ready = _batched(level, times, starts, counts)
        rank = np.arange(times.size) - np.repeat(starts, counts)
        served = ready + (np.repeat(counts, counts) - rank) * np.repeat(one, counts)
        last = np.maximum(np.maximum.reduceat(served, starts), self._closing(level))
        cold = platform.cold.draw(n, self.seed, "cold", number)
        cold, begin = self._begin(level, cold, times[starts], ready[starts])
        writing = bytes_ / platform.write
        done = np.maximum(begin + counts * one, last) + writing
        wasted = np.zeros(n)
        if not isinf(self.faults.mtbf):
            for i in range(n):
                done[i], begin[i], wasted[i] = self._retried(
                    level[i], i, float(begin[i]), float(counts[i] * one[i]), float(last[i]),
                    float(writing[i]), float(cold[i]) or platform.cold.mean, float(one[i]),
                )  # fmt: skip
        self._account(level, bytes_, counts, cold, begin, done, wasted)

    def _inputs(self, level: tuple[Fold, ...], bytes_: Times) -> tuple[Times, Counts, Counts]:
        """Times of all inputs, sorted within each fold; where each fold begins; how many."""
        pieces, counts = [], np.empty(len(level), np.int64)
        for i, fold in enumerate(level):
            slots = slot_array(fold.updates)
            own = self.arrivals[slots[self.accepted[slots]]] if len(slots) else np.zeros(0)
            came = [self.done[name] + self._hop(name, fold, bytes_[i]) for name in fold.inputs]
            piece = np.concatenate([own, came]) if came else own
            pieces.append(np.sort(piece))
            counts[i] = piece.size
        starts = np.cumsum(counts) - counts
        return np.concatenate(pieces), starts, counts

    def _closing(self, level: tuple[Fold, ...]) -> Times:
        """Before which time a fold cannot know that it is complete."""
        at = np.zeros(len(level))
        for i, fold in enumerate(level):
            if isinstance(fold.trigger, Quorum):
                at[i] = closes(fold.trigger, self.arrivals[slot_array(fold.updates)])
        return at

    def _hop(self, child: str, fold: Fold, size: float) -> float:
        if self.plan.by_id[child].place == fold.place:
            return self.platform.hop
        self.between += size
        return self.platform.hop + size / self.platform.network

    def _begin(
        self, level: tuple[Fold, ...], cold: Times, first: Times, ready: Times
    ) -> tuple[Times, Times]:
        """Seconds of cold start, and when each worker can begin to fold."""
        if self.platform.reuse:
            warm = np.array([self._inherits(fold) for fold in level])
            cold = np.where(warm, 0.0, cold)
            self.converted += int(warm.sum())
        else:
            warm = np.zeros(len(level), np.bool_)
        self.cold_starts += int((~warm).sum()) if self.platform.cold != WARM else 0
        lazy = np.array([isinstance(fold.trigger, Lazy) for fold in level])
        begin = np.where(lazy, ready, first) + cold
        if self.platform.ahead:
            begin = np.where(lazy, ready, first)
        at = [f.trigger.t if isinstance(f.trigger, At) else -1.0 for f in level]
        return cold, np.where(np.array(at) >= 0, np.array(at) + cold, begin)

    def _inherits(self, fold: Fold) -> bool:
        return any(self.plan.by_id[name].place == fold.place for name in fold.inputs)

    def _retried(
        self, fold: Fold, i: int, begin: float, work: float, last: float, writing: float,
        cold: float, one: float,
    ) -> tuple[float, float, float]:  # fmt: skip
        """When a fold is done after failures, when its last attempt began, seconds wasted."""
        wasted = 0.0
        for attempt in range(self.faults.attempts):
            done = max(begin + work, last) + writing
            fails = self.outages.next(fold.place or fold.id, begin, attempt, bool(fold.place))
            if fails >= done:
                return done, begin, wasted
            self.failures += 1
            self.cold_starts += self.platform.cold != WARM
            self.cold += cold
            self.gets += min(fold.goal, int((fails - begin) / one))
            self.functions += 1
            wasted += fails - begin
            begin = fails + cold
        raise PlanError(
            fold.id, f"failed {self.faults.attempts} times: it runs {work:.3g} s and a node fails "
            f"every {self.faults.mtbf:.3g} s",
        )  # fmt: skip

    def _account(
        self, level: tuple[Fold, ...], bytes_: Times, counts: Counts, cold: Times, begin: Times,
        done: Times, wasted: Times,
    ) -> None:  # fmt: skip
        for fold, at in zip(level, done.tolist(), strict=True):
            self.done[fold.id] = at
        self.functions += len(level)
        self.gets += int(counts.sum())
        self.moved += float(((counts + 1) * bytes_).sum())
        held = 2.0 * bytes_
        if not self.platform.store:
            goals = [f.trigger.goal or f.goal if isinstance(f.trigger, Lazy) else 1 for f in level]
            waiting = np.minimum(np.array(goals), counts)
            jit = np.array([isinstance(f.trigger, At) for f in level])
            held = (1.0 + np.where(jit, counts, waiting)) * bytes_
        ran = done - begin + wasted
        self.memory = max(self.memory, float(held.max()))
        self.longest = max(self.longest, float((done - begin).max()))
        self.busy += float(ran.sum())
        self.byte_seconds += float((held * ran).sum())
        self.cold += float(cold.sum())


def _batched(level: tuple[Fold, ...], times: Times, starts: Counts, counts: Counts) -> Times:
    """When each input may be folded: with the last of its batch."""
    goals = np.array(
        [min(f.trigger.goal or c, c) if isinstance(f.trigger, Lazy) else 1
         for f, c in zip(level, counts.tolist(), strict=True)]
    )  # fmt: skip
    rank = np.arange(times.size) - np.repeat(starts, counts)
    goal, count = np.repeat(goals, counts), np.repeat(counts, counts)
    end = np.minimum((rank // goal + 1) * goal, count) - 1
    out: Times = times[np.repeat(starts, counts) + end]
    return out


def _loads(plan: Plan, capacity: Mapping[str, float]) -> dict[str, float]:
    """How many times slower each place is for having more updates than it can serve."""
    updates: dict[str, int] = {}
    for fold in plan.folds:
        updates[fold.place] = updates.get(fold.place, 0) + len(fold.updates)
    return {p: max(1.0, updates.get(p, 0) / most) for p, most in capacity.items()}


class _Outages:
    """When nodes fail: a Poisson process for each place; else each attempt has its own node."""

    def __init__(self, mtbf: float, seed: int) -> None:
        self.mtbf, self.seed = mtbf, seed
        self.times: dict[str, list[float]] = {}

    def next(self, name: str, after: float, attempt: int, shared: bool) -> float:
        """The first failure after a time."""
        if not shared:
            return after + self._wait(name, attempt)
        times = self.times.setdefault(name, [self._wait(name, 0)])
        while times[-1] <= after:
            times.append(times[-1] + self._wait(name, len(times)))
        return next(t for t in times if t > after)

    def _wait(self, name: str, number: int) -> float:
        return -self.mtbf * log(uniform(self.seed, "failure", name, number))
