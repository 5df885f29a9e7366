"""FedCompass: local steps by each client's speed, so that groups of clients arrive together.

Li et al., FedCompass: efficient cross-silo federated learning on heterogeneous client devices using
a computing power aware scheduler, 2023, arXiv 2309.14675.
    x <- x + sum_j alpha s(tau_j) w_j delta_j     over a group's updates and the late ones before it
    s(tau) = (1 + tau)^-a,  w_j = 1/m or p_j;     a client's first arrival is applied alone
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shoal.aggregators import Sum
from shoal.algorithms.compass_groups import TIMER, Bounds, CompassState
from shoal.core import Algorithm, Chain, Coordinator, Steps, Trainer, Transform, View
from shoal.errors import ConfigError, fraction, positive
from shoal.messages import Action, Aggregate, Commit, Task, Update
from shoal.staleness import Polynomial, Staleness

WEIGHTS = ("equal", "examples")
DAMPED = Polynomial(0.5)


@dataclass(frozen=True)
class FedCompass(Coordinator[CompassState]):
    """The scheduler.

    m counts the clients present at a commit and those whose update is in it though they have left;
    a client with an unknown number of examples counts as much as the mean of the others. Whoever
    leaves or fails holds up nobody, and what it sent before stays; a known client that joins again
    goes to a group at once. Clients still out after the grace are lost: no group waits for them.

    Attributes:
        min_steps, max_steps: bounds of the local steps of a task; the first has `max_steps`.
        latest_time_factor: a group's latest time as a multiple of its planned duration.
        speed_momentum: weight of the newest measurement in the estimate of a speed.
        alpha: server learning rate.
        staleness: weight of an update by its staleness.
        weights: "equal" (1/m) or "examples" (p_j = n_j / sum n).
        normalize: FedCompass+N: each delta divided by its steps, times the mean of the steps.
        grace: planned durations after a group's latest time until its late clients are lost.
    """

    min_steps: int = 20
    max_steps: int = 100
    latest_time_factor: float = 1.2
    speed_momentum: float = 0.9
    alpha: float = 0.9
    staleness: Staleness = DAMPED
    weights: str = "equal"
    normalize: bool = False
    grace: float = 5.0

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        if self.min_steps < 1:
            raise ConfigError("min_steps", f"must be at least 1, got {self.min_steps}")
        if self.max_steps < self.min_steps:
            raise ConfigError("max_steps", f"{self.max_steps} is below min_steps {self.min_steps}")
        for name in ("latest_time_factor", "speed_momentum", "alpha"):
            positive(name, getattr(self, name))
        if self.latest_time_factor < 1:
            raise ConfigError("latest_time_factor", f"{self.latest_time_factor} is below 1")
        fraction("speed_momentum", self.speed_momentum)
        positive("grace", self.grace, zero=True)
        if self.weights not in WEIGHTS:
            raise ConfigError("weights", f"{self.weights!r} is not one of {', '.join(WEIGHTS)}")

    def init(self) -> CompassState:
        """Nobody is known."""
        return CompassState()

    def held(self, state: CompassState) -> Sequence[int]:
        """The late updates and those that wait in groups."""
        waiting = (update for group in state.groups.values() for update in group.updates)
        return [update.id for update in (*state.late, *waiting)]

    def on_start(self, state: CompassState, view: View) -> Steps[CompassState]:
        """Everyone starts at once."""
        return self._settle(state, view, assign=list(view.idle))

    def on_join(self, state: CompassState, client: str, view: View) -> Steps[CompassState]:
        """One more."""
        return self._settle(state, view, assign=[client])

    def on_leave(self, state: CompassState, client: str, view: View) -> Steps[CompassState]:
        """It gets no task with its group."""
        return self._settle(state.without(client), view)

    def on_fail(
        self, state: CompassState, task: Task, reason: str, view: View
    ) -> Steps[CompassState]:
        """Its group goes on without it; another task for it if it is still there."""
        present = [client for client in view.idle if client == task.client]
        return self._settle(state.without(task.client), view, assign=present)

    def on_update(self, state: CompassState, update: Update, view: View) -> Steps[CompassState]:
        """Apply a first arrival; put a late one aside; else wait for the group."""
        client, first = update.client, update.client not in state.speeds
        state = state.measured(update, self.speed_momentum)
        if first:
            commit = self._commit(state, [update], view)
            state, actions = self._settle(state, view, assign=[client])
            return state, [*commit, *actions]
        number = state.group_of(client)
        if number >= 0 and state.groups[number].open and view.now <= state.groups[number].latest:
            return self._settle(state.arrived(number, update), view)
        state = replace(state.without(client), late=(*state.late, update))
        return self._settle(state, view, assign=[client])

    def on_timeout(self, state: CompassState, timer: str, view: View) -> Steps[CompassState]:
        """A group's latest time has come, or the end of the grace after it."""
        number = int(timer.removeprefix(TIMER))
        group = state.groups.get(number)
        if group is not None and not group.open:
            state = state.with_group(number, replace(group, pending=()))
        return self._settle(state, view, due=number)

    def _settle(
        self, state: CompassState, view: View, *, assign: Iterable[str] = (), due: int = -1
    ) -> Steps[CompassState]:
        """Commit and close the groups that are complete or due, then give out tasks."""
        bounds = Bounds(self.min_steps, self.max_steps, self.latest_time_factor, self.grace)
        actions: list[Action] = []
        for number, group in state.groups.items():
            if group.pending and number != due:
                continue
            if group.updates:
                actions += self._commit(state, (*state.late, *group.updates), view)
                state = replace(state, late=())
            state, timer = bounds.close(state, number)
            freed = sorted(group.waiting, key=state.speeds.__getitem__)
            state, tasks = bounds.assign(state, freed, view.now)
            actions += [*timer, *tasks]
        state, tasks = bounds.assign(state, assign, view.now)
        actions += tasks
        if state.late and not state.groups:  # no group will come to commit them with
            actions += self._commit(state, state.late, view)
            state = replace(state, late=())
        return state, actions

    def _commit(self, state: CompassState, updates: Sequence[Update], view: View) -> list[Action]:
        """All updates against one model."""
        clients = {*view.clients, *(update.client for update in updates)}
        known = [state.examples[client] for client in clients if client in state.examples]
        mean_examples = sum(known) / len(known)
        mean_steps = sum(max(update.steps, 1) for update in updates) / len(updates)
        actions: list[Action] = []
        for update in updates:
            weight = self.alpha * self.staleness(view.staleness(update)) / len(clients)
            if self.weights == "examples":
                weight *= update.num_examples / mean_examples
            if self.normalize:
                weight *= mean_steps / max(update.steps, 1)
            actions.append(Aggregate(update.id, weight))
        return [*actions, Commit()]


def fedcompass(
    *,
    trainer: Trainer[Any],
    min_steps: int = 20,
    max_steps: int = 100,
    latest_time_factor: float = 1.2,
    speed_momentum: float = 0.9,
    alpha: float = 0.9,
    staleness: Staleness = DAMPED,
    weights: str = "equal",
    normalize: bool = False,
    grace: float = 5.0,
    optimizer: Transform[Any] = Chain(),
    upload: Transform[Any] = Chain(),
) -> Algorithm:
    """FedCompass; FedCompass+N with `normalize`, FedCompass+M with `optimizer=Momentum(0.9)`."""
    coordinator = FedCompass(
        min_steps, max_steps, latest_time_factor, speed_momentum, alpha, staleness, weights,
        normalize, grace,
    )  # fmt: skip
    return Algorithm(coordinator, trainer, Sum(), upload, optimizer, "fedcompass")
