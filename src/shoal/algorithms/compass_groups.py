"""FedCompass's arithmetic: which group a client joins or makes, and with how many steps.

Li et al., 2023, arXiv 2309.14675; pure functions of the state.
    join:    q = floor((expected - now) / speed), feasible iff low <= q <= high; the largest q wins
    create:  q aimed at the next arrival of a present group, at latest + fastest * high
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import floor

from shoal.algorithms.compass_state import CompassState, Group
from shoal.core import Steps
from shoal.messages import Action, Dispatch, Timer

STEP = 1e-9  # floor(100 * T / T) must not be 99, and who aims at an instant must not be late for it
ROUNDING = 1e-12  # of the clock's reading
TIMER = "group "


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

    def joinable(self, state: CompassState, speed: float, now: float) -> list[tuple[int, int]]:
        """The groups that a client can arrive with, as (steps, group)."""
        plans = [(_steps(g.expected - now, speed), n) for n, g in state.groups.items()]
        return [(steps, number) for steps, number in plans if self.low <= steps <= self.high]

    def aimed(self, state: CompassState, speed: float, now: float) -> int:
        """Steps for a new group that a present group's members can join when they are done."""
        plans = []
        for group in state.groups.values():
            if now < group.latest:
                members = (*group.pending, *group.waiting)
                fastest = min(state.speeds[client] for client in members)
                plans.append(_steps(group.latest + fastest * self.high - now, speed))
        best = max((steps for steps in plans if steps <= self.high), default=-1)
        return self.high if best < 0 else max(best, self.low)

    def assign(
        self, state: CompassState, clients: Iterable[str], now: float
    ) -> Steps[CompassState]:
        """Tasks for clients in turn, each in the group in which it does most, or in a new one."""
        actions: list[Action] = []
        for client in clients:
            steps, speed = self.high, state.speeds.get(client)
            if speed is None:
                pass  # its first task is outside any group
            elif plans := self.joinable(state, speed, now):
                steps, number = max(plans)
                group = state.groups[number]
                state = state.with_group(number, replace(group, pending=(*group.pending, client)))
            else:
                number, steps = state.created, self.aimed(state, speed, now)
                span = steps * speed
                latest = now + span * self.lateness + (STEP * span + ROUNDING * now)
                group = Group((client,), now, now + span, latest)
                state = replace(state.with_group(number, group), created=number + 1)
                actions.append(Timer(f"{TIMER}{number}", latest))
            actions.append(Dispatch(client, {"steps": steps}))
        return state, actions

    def regroup(self, state: CompassState, number: int, now: float) -> Steps[CompassState]:
        """End a group's time to arrive and give those that wait in it tasks, fastest first.

        The group itself goes once nobody works for it; until then it takes no more arrivals.
        """
        group, lost_at = state.groups[number], None
        if group.pending:
            lost_at = group.latest + self.grace * (group.expected - group.started)
            closed = replace(group, waiting=(), updates=(), open=False)
            state = state.with_group(number, closed)
        else:
            state = state.without_group(number)
        fastest_first = sorted(group.waiting, key=state.speeds.__getitem__)
        state, tasks = self.assign(state, fastest_first, now)
        return state, [Timer(f"{TIMER}{number}", lost_at), *tasks]


def _steps(seconds: float, speed: float) -> int:
    return floor(seconds / speed + STEP)
