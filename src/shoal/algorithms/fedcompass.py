"""FedCompass: local steps by each client's speed, so that groups of clients arrive together.

Li et al. (FedCompass, with a computing power aware scheduler), 2023, arXiv 2309.14675.
    x <- x + sum_j alpha s(tau_j) w_j delta_j     over a group's updates and the late ones before it
    s(tau) = (1 + tau)^-a,  w_j = 1/m or p_j;     a client's first arrival is applied alone
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from shoal.aggregators import Sum
from shoal.algorithms._shares import check_choice
from shoal.algorithms.compass_groups import TIMER, Bounds
from shoal.algorithms.compass_state import CompassState
from shoal.core import Algorithm, Chain, Coordinator, Steps, Trainer, Transform, View
from shoal.errors import ConfigError, fraction, positive
from shoal.messages import Action, Aggregate, Commit, Task, Update
from shoal.staleness import Polynomial, Staleness

Weighting = Literal["examples", "equal"]
DAMPED = Polynomial(0.5)
Compassed = Steps[CompassState]


@dataclass(frozen=True)
class FedCompass(Coordinator[CompassState]):
    """The scheduler.

    m counts those present at a commit and those whose update is in it though they have left. What
    a client sent stays when it leaves; joining again, its speed known, it goes to a group at once.

    Attributes:
        min_steps, max_steps: bounds of the local steps of a task; the first has `max_steps`.
        latest_time_factor: a group's latest time as a multiple of its planned duration.
        speed_momentum: weight of the newest measurement in the estimate of a speed.
        alpha: server learning rate.
        staleness: weight of an update by its staleness.
        weighting: w_j by "examples" (p_j = n_j / sum n) or "equal" (1/m).
        normalize: FedCompass+N: each delta divided by its steps, times the mean of the steps.
        grace: planned durations after a group's latest time until its late clients are lost.
    """

    min_steps: int = 20
    max_steps: int = 100
    latest_time_factor: float = 1.2
    speed_momentum: float = 0.9
    alpha: float = 0.9
    staleness: Staleness = DAMPED
    weighting: Weighting = "equal"
    normalize: bool = False
    grace: float = 5.0

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        for name in ("min_steps", "latest_time_factor", "speed_momentum", "alpha"):
            positive(name, getattr(self, name))
        if self.max_steps < self.min_steps:
            raise ConfigError("max_steps", f"{self.max_steps} is below min_steps {self.min_steps}")
        if self.latest_time_factor < 1:
            raise ConfigError("latest_time_factor", f"{self.latest_time_factor} is below 1")
        fraction("speed_momentum", self.speed_momentum)
        positive("grace", self.grace, zero=True)
        check_choice("weighting", self.weighting, Weighting)

    def init(self) -> CompassState:
        """Nobody is known."""
        return CompassState()

    def held(self, state: CompassState) -> Sequence[int]:
        """The late updates and those that wait in groups."""
        return [update.id for update in state.kept]

    def on_start(self, state: CompassState, view: View) -> Compassed:
        """Everyone starts at once."""
        return self._settle(state, view, assign=list(view.idle))

    def on_join(self, state: CompassState, client: str, view: View) -> Compassed:
        """One more."""
        return self._settle(state, view, assign=[client])

    def on_leave(self, state: CompassState, client: str, view: View) -> Compassed:
        """It gets no task with its group."""
        return self._settle(state.without(client, gone=True), view)

    def on_fail(self, state: CompassState, task: Task, reason: str, view: View) -> Compassed:
        """Its group goes on without it; another task for it if it is still there."""
        present = {task.client}.intersection(view.idle)
        return self._settle(state.without(task.client, gone=not present), view, assign=present)

    def on_update(self, state: CompassState, update: Update, view: View) -> Compassed:
        """Apply a first arrival; put a late one aside; else wait for the group."""
        known, state = update.client in state.speeds, state.measured(update, self.speed_momentum)
        if not known:
            state, actions = self._settle(state, view, assign=[update.client])
            return state, [*self._commit(state, [update], view), *actions]
        number = state.group_of(update.client)
        if number >= 0 and state.groups[number].takes(view.now):
            return self._settle(state.arrived(number, update), view)
        state = replace(state.without(update.client), late=(*state.late, update))
        return self._settle(state, view, assign=[update.client])

    def on_timeout(self, state: CompassState, timer: str, view: View) -> Compassed:
        """A group's latest time has come, or the end of the grace after it."""
        number = int(timer.removeprefix(TIMER))
        return self._settle(state.overdue(number), view, due=number)

    def _settle(
        self, state: CompassState, view: View, *, assign: Iterable[str] = (), due: int = -1
    ) -> Compassed:
        """Commit and close the groups that are complete or due, then give out tasks."""
        bounds = Bounds(self.min_steps, self.max_steps, self.latest_time_factor, self.grace)
        actions: list[Action] = []
        for number, group in state.groups.items():
            if group.pending and number != due:
                continue
            if group.updates:
                actions += self._commit(state, (*state.late, *group.updates), view)
                state = replace(state, late=())
            state, tasks = bounds.regroup(state, number, view.now)
            actions += tasks
        state, tasks = bounds.assign(state, assign, view.now)
        actions += tasks
        if state.late and not state.groups:  # no group will come to commit them with
            return replace(state, late=()), [*actions, *self._commit(state, state.late, view)]
        return state, actions

    def _commit(self, state: CompassState, updates: Sequence[Update], view: View) -> list[Action]:
        """All updates against one model."""
        clients = len({*view.clients, *(update.client for update in updates)})
        steps = [max(update.steps, 1) if self.normalize else 1 for update in updates]
        mean_steps = sum(steps) / len(steps)
        actions: list[Action] = []
        for update, own in zip(updates, steps, strict=True):
            share = state.shares.of(update, self.weighting, clients) * mean_steps / own
            weight = self.alpha * self.staleness(view.staleness(update)) * share
            actions.append(Aggregate(update.id, weight))
        return [*actions, Commit()]


def fedcompass(
    *, trainer: Trainer[Any], min_steps: int = 20, max_steps: int = 100,
    latest_time_factor: float = 1.2, speed_momentum: float = 0.9, alpha: float = 0.9,
    staleness: Staleness = DAMPED, weighting: Weighting = "equal", normalize: bool = False,
    grace: float = 5.0, upload: Transform[Any] = Chain(), optimizer: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedCompass; FedCompass+N with `normalize`, FedCompass+M with `optimizer=Momentum(0.9)`."""
    compass = FedCompass(min_steps, max_steps, latest_time_factor, speed_momentum, alpha,
                         staleness, weighting, normalize, grace)  # fmt: skip
    return Algorithm(compass, trainer, Sum(), upload, optimizer, "fedcompass")
