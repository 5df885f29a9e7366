"""FedCompass's groups of clients that arrive together: who joins which, with how many steps.

Li et al., 2023, arXiv 2309.14675; pure functions over the coordinator's state.
    join:    q = floor((expected - now) / speed), feasible iff low <= q <= high; the largest q wins
    create:  q aimed at the next arrival of a present group, at latest + fastest * high
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import floor

from shoal.messages import Action, Dispatch, Timer, Update

STEP = 1e-9  # floor(100 * T / T) must not be 99, and who aims at an instant must not be late for it
ROUNDING = 1e-12  # of the clock's reading
LEAST_SPEED = 1e-6  # seconds per step; less is a glitch of the clock
MOST_CHANGE = 4.0  # of one measured speed against the estimate
TIMER = "group "


@dataclass(frozen=True)
class Group:
    """Clients that aim at one instant.

    Attributes:
        pending: clients at work for it.
        started, expected, latest: seconds: when made, aimed at, and closed.
        waiting: clients that have arrived and wait for the others.
        updates: arrived, in order; those of clients that left since stay.
        open: whether it can be joined and arrivals are on time.
    """

    pending: tuple[str, ...]
    started: float
    expected: float
    latest: float
    waiting: tuple[str, ...] = ()
    updates: tuple[Update, ...] = ()
    open: bool = True


@dataclass(frozen=True)
class CompassState:
    """What FedCompass remembers; its mappings are never changed in place.

    Attributes:
        speeds: seconds per local step of each client that has arrived; kept when it leaves.
        examples: number of examples of each client that has arrived.
        groups: by number, in the order in which they were made.
        late: updates that came after their group's latest time, for the next group's commit.
        created: groups made so far.
    """

    speeds: Mapping[str, float] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[int, Group] = field(default_factory=dict)
    late: tuple[Update, ...] = ()
    created: int = 0

    def group_of(self, client: str) -> int:
        """The number of the group that a client works for, -1 for none."""
        return next((n for n, group in self.groups.items() if client in group.pending), -1)

    def measured(self, update: Update, momentum: float) -> "CompassState":
        """With the speed and the number of examples that an update shows."""
        speeds = self.speeds
        if update.steps > 0:
            speeds = {**speeds, update.client: _next_speed(speeds, update, momentum)}
        return replace(
            self, speeds=speeds, examples={**self.examples, update.client: update.num_examples}
        )

    def arrived(self, number: int, update: Update) -> "CompassState":
        """With an update in its group, where its client now waits for the others."""
        group = self.groups[number]
        return self.with_group(
            number,
            replace(
                group,
                pending=_without(group.pending, update.client),
                waiting=(*group.waiting, update.client),
                updates=(*group.updates, update),
            ),
        )

    def without(self, client: str) -> "CompassState":
        """With a client in no group; its updates stay."""
        groups = {
            n: replace(g, pending=_without(g.pending, client), waiting=_without(g.waiting, client))
            for n, g in self.groups.items()
        }
        return replace(self, groups=groups)

    def with_group(self, number: int, group: Group) -> "CompassState":
        """With one group replaced."""
        return replace(self, groups={**self.groups, number: group})


@dataclass(frozen=True)
class Bounds:
    """What assignments keep to.

    Attributes:
        low, high: local steps of a task.
        lateness: a group's latest time as a multiple of its planned duration.
        grace: planned durations after which clients that are out past the latest time are lost.
    """

    low: int
    high: int
    lateness: float
    grace: float

    def new(self, client: str, steps: int, speed: float, now: float) -> Group:
        """A group of one client that takes so many steps of `speed` seconds each."""
        span = steps * speed
        slack = STEP * span + ROUNDING * now
        return Group((client,), now, now + span, now + span * self.lateness + slack)

    def joinable(self, state: CompassState, speed: float, now: float) -> list[tuple[int, int]]:
        """The groups that a client can arrive with, as (steps, group)."""
        plans = [
            (_whole_steps(group.expected - now, speed), number)
            for number, group in state.groups.items()
            if group.open
        ]
        return [(steps, number) for steps, number in plans if self.low <= steps <= self.high]

    def aimed(self, state: CompassState, speed: float, now: float) -> int:
        """Steps for a new group that a present group's members can join when they are done."""
        plans = []
        for group in state.groups.values():
            if group.open and now < group.latest:
                members = (*group.pending, *group.waiting)
                fastest = min(state.speeds[client] for client in members)
                plans.append(_whole_steps(group.latest + fastest * self.high - now, speed))
        best = max((steps for steps in plans if steps <= self.high), default=-1)
        return self.high if best < 0 else max(best, self.low)

    def assign(
        self, state: CompassState, clients: Iterable[str], now: float
    ) -> tuple[CompassState, list[Action]]:
        """Tasks for clients in turn, each in the group in which it does most, or in a new one."""
        actions: list[Action] = []
        for client in clients:
            steps, speed = self.high, state.speeds.get(client)
            if speed is None:
                pass  # its first task is outside any group
            elif plans := self.joinable(state, speed, now):
                steps, number = max(plans)
                group = state.groups[number]
                group = replace(group, pending=(*group.pending, client))
                state = state.with_group(number, group)
            else:
                number, steps = state.created, self.aimed(state, speed, now)
                group = self.new(client, steps, speed, now)
                state = replace(state.with_group(number, group), created=number + 1)
                actions.append(Timer(f"{TIMER}{number}", group.latest))
            actions.append(Dispatch(client, {"steps": steps}))
        return state, actions

    def close(self, state: CompassState, number: int) -> tuple[CompassState, list[Action]]:
        """Let nobody join any more; the group is gone once nobody works for it."""
        group = state.groups[number]
        if not group.pending:
            groups = {n: g for n, g in state.groups.items() if n != number}
            return replace(state, groups=groups), [Timer(f"{TIMER}{number}", None)]
        lost_at = group.latest + self.grace * (group.expected - group.started)
        closed = replace(group, waiting=(), updates=(), open=False)
        return state.with_group(number, closed), [Timer(f"{TIMER}{number}", lost_at)]


def _whole_steps(seconds: float, speed: float) -> int:
    return floor(seconds / speed + STEP)


def _next_speed(speeds: Mapping[str, float], update: Update, momentum: float) -> float:
    # By the steps that were done, not those assigned: a client may have stopped early.
    seen = max(update.duration / update.steps, LEAST_SPEED)
    old = speeds.get(update.client, seen)
    clamped = min(max(seen, old / MOST_CHANGE), old * MOST_CHANGE)
    return old + momentum * (clamped - old)


def _without(clients: tuple[str, ...], client: str) -> tuple[str, ...]:
    return tuple(other for other in clients if other != client)
