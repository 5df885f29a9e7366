"""Plans: which updates are folded with which, by whom and when, as data that is checked once.

A plan is a forest of folds. Each top covers a range of the coordinates, all tops together cover
every update once at every coordinate, and a commit waits for all of them (the barrier).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError, ShoalError, nearest, positive

Slots = range | tuple[int, ...]


class PlanError(ShoalError):
    """A plan breaks a rule, or cannot be executed as it is.

    Attributes:
        fold: the fold at fault, or "plan".
        problem: what is wrong with it.
    """

    def __init__(self, fold: str, problem: str) -> None:
        super().__init__(fold, problem)
        self.fold, self.problem = fold, problem

    def __str__(self) -> str:
        return f"{self.fold}: {self.problem}"


class Infeasible(PlanError):
    """No plan meets a ceiling or deadline; the problem says by how much the best ones miss it."""


@dataclass(frozen=True)
class Eager:
    """Fold each input as it arrives."""


@dataclass(frozen=True)
class Lazy:
    """Fold when so many inputs wait, and what is left when the last has come.

    Attributes:
        goal: inputs of one batch; 0 for all of them.
    """

    goal: int = 0

    def __post_init__(self) -> None:
        """Check the goal."""
        if self.goal < 0:
            raise ConfigError("goal", f"must be at least 0, got {self.goal!r}")


@dataclass(frozen=True)
class Quorum:
    """Fold each update as it arrives; close when all came, or at a time once enough did.

    Attributes:
        q: how many updates are enough.
        at: seconds from the start of the round; with fewer than q by then, the q-th closes.
    """

    q: int
    at: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.q < 1:
            raise ConfigError("q", f"must be at least 1, got {self.q!r}")
        positive("at", self.at, zero=True)


@dataclass(frozen=True)
class At:
    """Start at a time, just before the inputs are expected to be complete; keep them until then.

    Attributes:
        t: seconds from the start of the round.
    """

    t: float

    def __post_init__(self) -> None:
        """Check the time."""
        positive("t", self.t, zero=True)


Trigger = Eager | Lazy | Quorum | At


@dataclass(frozen=True)
class Fold:
    """One fold: some updates and the results of other folds become one accumulator.

    Attributes:
        id: its name, unique in the plan.
        updates: numbers of the updates that it takes, from 0.
        inputs: names of the folds whose results it takes.
        shard: first and past-the-last unit of the coordinates; see `Plan.units`.
        trigger: when it folds.
        place: the node that runs it; "" for any.
    """

    id: str
    updates: Slots = ()
    inputs: tuple[str, ...] = ()
    shard: tuple[int, int] = (0, 1)
    trigger: Trigger = Eager()
    place: str = ""

    @property
    def goal(self) -> int:
        """How many inputs complete it."""
        return len(self.updates) + len(self.inputs)


@dataclass(frozen=True)
class Plan:
    """A checked plan.

    Attributes:
        updates: how many updates a round has; they are numbered from 0.
        folds: in any order.
        units: into how many equal ranges the coordinates are cut; folds name ranges of them.
        name: for people.

    Raises:
        PlanError: if a name is double or unknown, a result is used twice or in a circle, ranges
            differ at a merge, or an update is not covered exactly once at every coordinate.
    """

    updates: int
    folds: tuple[Fold, ...]
    units: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        """Check every rule."""
        if self.updates < 1 or self.units < 1:
            raise PlanError("plan", f"{self.updates} updates in {self.units} units: at least 1")
        self._check_links()
        for fold in self.folds:
            self._check_fold(fold)
        self._check_tops()
        closing = [self._closing(top) for top in self.tops]
        if any(other != closing[0] for other in closing[1:]):
            raise PlanError(
                self.tops[0].id,
                "shards close on different quorums, and would average different clients",
            )

    @cached_property
    def by_id(self) -> Mapping[str, Fold]:
        """The folds by name."""
        return {fold.id: fold for fold in self.folds}

    @cached_property
    def parents(self) -> Mapping[str, str]:
        """Who takes a fold's result; tops are not in it."""
        return {name: fold.id for fold in self.folds for name in fold.inputs}

    @cached_property
    def tops(self) -> tuple[Fold, ...]:
        """The folds whose results are committed, in the order of their ranges."""
        tops = (fold for fold in self.folds if fold.id not in self.parents)
        return tuple(sorted(tops, key=lambda fold: fold.shard))

    @cached_property
    def levels(self) -> tuple[tuple[Fold, ...], ...]:
        """The folds by height: first those that take updates only, inputs always below."""
        height: dict[str, int] = {}
        for top in self.tops:
            stack = [(top, False)]
            while stack:
                fold, ready = stack.pop()
                if ready:
                    height[fold.id] = 1 + max((height[i] for i in fold.inputs), default=-1)
                else:
                    stack.append((fold, True))
                    stack += [(self.by_id[name], False) for name in fold.inputs]
        levels: list[list[Fold]] = [[] for _ in range(1 + max(height.values(), default=-1))]
        for fold in self.folds:
            if fold.id not in height:
                raise PlanError(fold.id, "its result goes in a circle and reaches no top")
            levels[height[fold.id]].append(fold)
        return tuple(map(tuple, levels))

    @property
    def shards(self) -> int:
        """How many ranges of coordinates are committed together."""
        return len(self.tops)

    def under(self, top: Fold) -> list[Fold]:
        """A fold and all that flows into it."""
        found, stack = [], [top]
        while stack:
            found.append(stack.pop())
            stack += [self.by_id[name] for name in found[-1].inputs]
        return found

    def _check_links(self) -> None:
        if len(self.by_id) != len(self.folds):
            names = [fold.id for fold in self.folds]
            raise PlanError(next(n for n in names if names.count(n) > 1), "the name is not unique")
        taken: dict[str, str] = {}
        for fold in self.folds:
            for name in fold.inputs:
                if name not in self.by_id:
                    raise PlanError(fold.id, f"no input {name!r}; {nearest(name, self.by_id)}")
                if name in taken:
                    raise PlanError(
                        name, f"{taken[name]} and {fold.id} would both count its contributors"
                    )
                taken[name] = fold.id
                if self.by_id[name].shard != fold.shard:
                    raise PlanError(
                        fold.id, f"shard {fold.shard} of an input with {self.by_id[name].shard}"
                    )

    def _check_fold(self, fold: Fold) -> None:
        start, stop = fold.shard
        if not 0 <= start < stop <= self.units:
            raise PlanError(fold.id, f"shard {fold.shard} is no range within {self.units} units")
        if not fold.goal:
            raise PlanError(fold.id, "it has no inputs")
        if isinstance(fold.trigger, Quorum):
            if fold.inputs:
                raise PlanError(fold.id, "a quorum may leave out updates, never whole partials")
            if fold.trigger.q > fold.goal:
                raise PlanError(fold.id, f"a quorum of {fold.trigger.q} among {fold.goal} updates")

    def _check_tops(self) -> None:
        at = 0
        _ = self.levels  # finds circles
        for top in self.tops:
            if top.shard[0] != at:
                what = "no top covers" if top.shard[0] > at else "two tops cover"
                raise PlanError(top.id, f"{what} unit {min(at, top.shard[0])} of {self.units}")
            at = top.shard[1]
            self._check_coverage(top)
        if at != self.units:
            raise PlanError("plan", f"no top covers unit {at} of {self.units}")

    def _check_coverage(self, top: Fold) -> None:
        """Contributors are disjoint at every merge and complete at the top."""
        folds = [fold for fold in self.under(top) if len(fold.updates)]
        slots = np.concatenate([slot_array(fold.updates) for fold in folds] or [np.zeros(0, int)])
        if slots.size and not (slots.min() >= 0 and slots.max() < self.updates):
            odd = slots[(slots < 0) | (slots >= self.updates)][0]
            owner = next(fold for fold in folds if int(odd) in fold.updates)
            raise PlanError(owner.id, f"update {odd} of {self.updates}")
        counts = np.bincount(slots, minlength=self.updates)
        if (counts > 1).any():
            slot = int(np.argmax(counts > 1))
            owners = " and ".join(fold.id for fold in folds if slot in fold.updates)
            raise PlanError(top.id, f"update {slot} is counted {counts[slot]} times, in {owners}")
        if (counts == 0).any():
            missing = np.flatnonzero(counts == 0)
            raise PlanError(top.id, f"update {missing[0]} ({missing.size} in all) is not covered")

    def _closing(self, top: Fold) -> frozenset[tuple[tuple[int, ...], Trigger]]:
        folds = (fold for fold in self.under(top) if isinstance(fold.trigger, Quorum))
        return frozenset((tuple(fold.updates), fold.trigger) for fold in folds)


def slot_array(slots: Slots) -> NDArray[np.int64]:
    """The numbers as an array, shape (len(slots),)."""
    if isinstance(slots, range):
        return np.arange(slots.start, slots.stop, slots.step, dtype=np.int64)
    return np.asarray(slots, np.int64)


def closes(trigger: Quorum, times: NDArray[np.float64]) -> float:
    """When a quorum closes, given all arrival times, shape (n,), infinite for what never comes.

    Raises:
        PlanError: if fewer than q updates ever arrive.
    """
    ordered = np.sort(times)
    enough, last = float(ordered[trigger.q - 1]), float(ordered[-1])
    if enough == np.inf:
        came = int(np.isfinite(times).sum())
        raise PlanError("plan", f"{came} of {times.size} updates came, and the quorum is {trigger}")
    return min(max(trigger.at, enough), last)


def manifest(plan: Plan, times: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which updates a round accepts, fixed once for all shards: shape (plan.updates,).

    Args:
        times: arrival of each update in seconds, infinite for what never comes.

    Raises:
        PlanError: if an update never comes that no quorum can leave out, or too few come.
    """
    accepted = np.ones(plan.updates, np.bool_)
    for fold in plan.under(plan.tops[0]):
        if isinstance(fold.trigger, Quorum):
            slots = slot_array(fold.updates)
            accepted[slots] = times[slots] <= closes(fold.trigger, times[slots])
    missing = np.flatnonzero(accepted & ~np.isfinite(times))
    if missing.size:
        raise PlanError("plan", f"update {missing[0]} never came, and only a quorum may miss one")
    return accepted
