"""FedFix: a commit every dt seconds of what has arrived, with weights that undo clients' speeds.

Fraboni et al., A general theory for federated optimization with asynchronous and heterogeneous
clients updates, 2022, arXiv 2206.10189.
    x <- x + lr sum over arrivals of d_i delta_i        every dt seconds
    d_i = p_i ceil(T_i / dt), so that client i counts p_i per commit in the long run
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from types import MappingProxyType
from typing import Any, Literal

from shoal.aggregators import Sum
from shoal.algorithms._shares import Share, Shares, check_choice
from shoal.core import Algorithm, Chain, Coordinator, Steps, Trainer, Transform, View
from shoal.errors import positive
from shoal.messages import Action, Aggregate, Commit, Dispatch, Task, Timer, Update
from shoal.transforms import Scale

Restart = Literal["tick", "immediate"]
EPSILON = 1e-9


@dataclass(frozen=True)
class FixState:
    """Windows so far, whether one is open, what waits for its end, and example counts."""

    ticks: int = 0
    open: bool = False
    waiting: tuple[Update, ...] = ()
    shares: Shares = field(default_factory=Shares)


@dataclass(frozen=True)
class FedFix(Coordinator[FixState]):
    """Commits at the end of each window, also of an empty one.

    An update is folded on arrival, except that it waits for the end of the window while the
    examples of some client are unknown. Without clients no window is open.

    Attributes:
        window: dt in seconds.
        restart: clients begin anew at the "tick" (the paper), or "immediate"ly; they then count
            T_i / dt, for their updates are no longer tied to ticks.
        calibrate: whether to correct for speeds; if not, d_i = p_i.
        shares: p_i: "examples" n_i / sum n, or "equal" 1/N.
        seconds: T_i of clients by name, where known. For others it is the duration of the update
            at hand, which is unbiased also where durations vary.
    """

    window: float
    restart: Restart = "tick"
    calibrate: bool = True
    shares: Share = "examples"
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        positive("window", self.window)
        check_choice("restart", self.restart, Restart)
        check_choice("shares", self.shares, Share)
        for client, seconds in self.seconds.items():
            positive(f"seconds[{client!r}]", seconds)

    def init(self) -> FixState:
        """No window is open."""
        return FixState()

    def held(self, state: FixState) -> Sequence[int]:
        """What waits for the end of the window."""
        return [update.id for update in state.waiting]

    def on_start(self, state: FixState, view: View) -> Steps[FixState]:
        """The first window begins, if anyone is there."""
        return self._open(state, view)

    def on_join(self, state: FixState, client: str, view: View) -> Steps[FixState]:
        """A newcomer begins with the next window, or opens one."""
        if not state.open:
            return self._open(state, view)
        return state, self._again(view)

    def on_fail(self, state: FixState, task: Task, reason: str, view: View) -> Steps[FixState]:
        """The client begins anew with the others."""
        return state, self._again(view)

    def on_leave(self, state: FixState, client: str, view: View) -> Steps[FixState]:
        """What it sent counts with the share that it had."""
        own = [update for update in state.waiting if update.client == client]
        rest = tuple(update for update in state.waiting if update.client != client)
        done = [self._fold(state, update, view, len(view.clients) + 1) for update in own]
        return replace(state, waiting=rest, shares=state.shares.without(client)), done

    def on_update(self, state: FixState, update: Update, view: View) -> Steps[FixState]:
        """Fold it, or keep it until shares are known."""
        state = replace(state, shares=state.shares.heard(update))
        unknown = len(view.clients) - len(state.shares.counts)
        if self.shares == "examples" and unknown:
            return replace(state, waiting=(*state.waiting, update)), self._again(view)
        return state, [self._fold(state, update, view, len(view.clients)), *self._again(view)]

    def on_timeout(self, state: FixState, timer: str, view: View) -> Steps[FixState]:
        """Commit the window and begin the next."""
        done = [self._fold(state, update, view, len(view.clients)) for update in state.waiting]
        state, more = self._open(replace(state, waiting=(), open=False), view)
        return state, [*done, Commit(), *more]

    def _open(self, state: FixState, view: View) -> Steps[FixState]:
        if not view.clients:
            return state, ()
        timer = Timer(f"tick {state.ticks}", view.now + self.window)
        tasks = [Dispatch(client) for client in view.idle]
        return replace(state, ticks=state.ticks + 1, open=True), [*tasks, timer]

    def _again(self, view: View) -> list[Action]:
        """Tasks for those who have nothing to do, unless they wait for the tick."""
        return [Dispatch(client) for client in view.idle if self.restart == "immediate"]

    def _fold(self, state: FixState, update: Update, view: View, clients: int) -> Aggregate:
        share = state.shares.of(update, self.shares, clients)
        if not self.calibrate:
            return Aggregate(update.id, share)
        windows = self.seconds.get(update.client, update.duration) / self.window
        if self.restart == "tick":
            known = update.client in self.seconds
            # Every window is a commit, so staleness counts them exactly.
            windows = max(ceil(windows - EPSILON), 1) if known else view.staleness(update) + 1
        return Aggregate(update.id, share * windows)


def fedfix(
    window: float, *, trainer: Trainer[Any], lr: float = 1.0, restart: Restart = "tick",
    calibrate: bool = True, shares: Share = "examples",
    seconds: Mapping[str, float] = MappingProxyType({}), upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedFix with the server's learning rate `lr`."""
    positive("lr", lr)
    coordinator = FedFix(window, restart, calibrate, shares, dict(seconds))
    step = Chain() if lr == 1 else Scale(lr)
    return Algorithm(coordinator, trainer, Sum(), upload, step, "fedfix")
