"""Coordinators made from coordinators, by reading and rewriting their lists of actions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal.core import Coordinator, View
from shoal.errors import ConfigError, positive
from shoal.messages import (
    Action,
    Aggregate,
    Cancel,
    Commit,
    Discard,
    Dispatch,
    Evaluate,
    Evaluated,
    Event,
    Send,
    Started,
    Stop,
    TimedOut,
    Timer,
    Updated,
)  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """The state of a combinator that counts commits.

    Attributes:
        inner: the state of the coordinator inside.
        commits: made so far.
    """

    inner: Any
    commits: int = 0


@dataclass(frozen=True)
class Until(Coordinator[Counted]):
    """Stop after a number of commits, a time in seconds, or once a metric reaches a target.

    Attributes:
        inner: the coordinator inside.
        commits: stop right after this commit.
        seconds: stop at this time.
        metric, target: stop when an evaluation gives at least `target`.
    """

    inner: Coordinator[Any]
    commits: int | None = None
    seconds: float | None = None
    metric: str = "accuracy"
    target: float | None = None

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.commits is None and self.seconds is None and self.target is None:
            raise ConfigError("until", "give commits, seconds or a target, or the run never ends")
        for name, limit in (("commits", self.commits), ("seconds", self.seconds)):
            if limit is not None:
                positive(name, limit)

    def init(self) -> Counted:
        """Nothing committed."""
        return Counted(self.inner.init())

    def handle(self, state: Counted, event: Event, view: View) -> tuple[Counted, Sequence[Action]]:
        """The inner actions, cut at the limit."""
        if isinstance(event, Evaluated) and self.target is not None:
            if self.metric not in event.metrics:
                known = ", ".join(event.metrics) or "nothing"
                raise ConfigError("until.metric", f"{self.metric!r} is not measured, only {known}")
            if event.metrics[self.metric] >= self.target:
                return state, [Stop(f"{self.metric} reached {self.target}")]
        if type(event) is TimedOut and event.timer == "until":
            return state, [Stop(f"{self.seconds} s are over")]
        inner, actions = self.inner.handle(state.inner, event, view)
        kept: list[Action] = []
        count = state.commits
        for action in actions:
            kept.append(action)
            if type(action) is Commit:
                count += 1
                if count == self.commits:
                    kept.append(Stop(f"{self.commits} commits"))
                    break
        if isinstance(event, Started) and self.seconds is not None:
            kept.append(Timer("until", self.seconds))
        return Counted(inner, count), kept

    def held(self, state: Counted) -> Sequence[int]:
        """What the inner one holds."""
        return self.inner.held(state.inner)


@dataclass(frozen=True)
class EvaluateEvery(Coordinator[Counted]):
    """Evaluate the first model, every n-th, and the last if `until` is inside."""

    inner: Coordinator[Any]
    every: int = 1

    def __post_init__(self) -> None:
        """Check the interval."""
        positive("evaluate_every", self.every)

    def init(self) -> Counted:
        """Nothing committed."""
        return Counted(self.inner.init())

    def handle(self, state: Counted, event: Event, view: View) -> tuple[Counted, Sequence[Action]]:
        """The inner actions, with evaluations between them."""
        inner, actions = self.inner.handle(state.inner, event, view)
        kept: list[Action] = [Evaluate()] if isinstance(event, Started) else []
        count = state.commits
        for action in actions:
            if type(action) is Stop and count % self.every:
                kept.append(Evaluate())
            kept.append(action)
            if type(action) is Commit:
                count += 1
                if count % self.every == 0:
                    kept.append(Evaluate())
        return Counted(inner, count), kept

    def held(self, state: Counted) -> Sequence[int]:
        """What the inner one holds."""
        return self.inner.held(state.inner)


@dataclass(frozen=True)
class Relay(Coordinator[Counted]):
    """An edge aggregator: some commits among its own clients, then one answer to its parent.

    Between its answer and the parent's next task its clients are idle; work that is still out is
    cancelled, since the model that it started from is no longer the parent's.
    """

    inner: Coordinator[Any]
    commits: int = 1

    def __post_init__(self) -> None:
        """Check the number of commits."""
        positive("relay.commits", self.commits)

    def init(self) -> Counted:
        """Waiting for the parent's first task."""
        return Counted(self.inner.init(), self.commits)

    def handle(self, state: Counted, event: Event, view: View) -> tuple[Counted, Sequence[Action]]:
        """The inner actions up to the commit that completes the parent's task."""
        loose: list[Action] = []
        if isinstance(event, Started):
            loose = self._let_go(state.inner, view, set())
            state = Counted(self.inner.init(), 0)
        elif state.commits >= self.commits:
            return state, [Discard(event.update.id)] if isinstance(event, Updated) else []
        inner, actions = self.inner.handle(state.inner, event, view)
        count = state.commits
        for at, action in enumerate(actions):
            if type(action) is Commit:
                count += 1
                if count == self.commits:
                    rest = self._wind_up(inner, actions[: at + 1], actions[at + 1 :], view)
                    return Counted(self.inner.init(), count), [*loose, *rest]
        return Counted(inner, count), [*loose, *actions]

    def _wind_up(
        self, inner: Any, done: Sequence[Action], rest: Sequence[Action], view: View
    ) -> list[Action]:
        """The list up to the last commit, then everything let go of, then the answer."""
        kept = [a for a in done if type(a) is not Dispatch]
        uses = [a.update for a in rest if isinstance(a, Aggregate | Discard)]
        cancelled = {a.task for a in kept if type(a) is Cancel}
        late = [Discard(update, "the relay answered") for update in uses]
        return [*kept, *late, *self._let_go(inner, view, cancelled), Send()]

    def _let_go(self, inner: Any, view: View, cancelled: set[int]) -> list[Action]:
        """Discard what is held and cancel what is out."""
        held = [Discard(update, "the relay answered") for update in self.inner.held(inner)]
        return [*held, *(Cancel(task) for task in view.in_flight if task not in cancelled)]

    def held(self, state: Counted) -> Sequence[int]:
        """What the inner one holds."""
        return self.inner.held(state.inner)


def until(
    inner: Coordinator[Any],
    *,
    commits: int | None = None,
    seconds: float | None = None,
    metric: str = "accuracy",
    target: float | None = None,
) -> Until:
    """Stop after commits, at a time, or at a target metric, whichever comes first."""
    return Until(inner, commits, seconds, metric, target)


def evaluate_every(inner: Coordinator[Any], every: int) -> EvaluateEvery:
    """Evaluate after every n-th commit."""
    return EvaluateEvery(inner, every)


def relay(inner: Coordinator[Any], commits: int = 1) -> Relay:
    """Answer the parent after some commits of the inner coordinator."""
    return Relay(inner, commits)


__all__ = ["EvaluateEvery", "Relay", "Until", "evaluate_every", "relay", "until"]
