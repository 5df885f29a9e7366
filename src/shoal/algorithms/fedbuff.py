"""FedBuff: updates arrive at any time, and every K of them make a step.

Nguyen et al., Federated learning with buffered asynchronous aggregation, 2021, arXiv 2106.06639.
    b <- b + s(tau_i) delta_i     on arrival, s(tau) = (1 + tau)^-1/2, tau in commits
    x <- x + lr b / K; b <- 0     every K arrivals
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from shoal.aggregators import Mean, Sum
from shoal.algorithms._shares import check_choice, check_limits
from shoal.core import Aggregator, Algorithm, Chain, Coordinator, Steps, Trainer, Transform, View
from shoal.errors import positive
from shoal.messages import Action, Aggregate, Commit, Discard, Dispatch, Task, Timer, Update
from shoal.staleness import SQRT, Staleness
from shoal.transforms import Scale

Normalize = Literal["K", "weights"]
REFILL = "refill"


@dataclass(frozen=True)
class BuffState:
    """Updates in the buffer, and tasks given so far."""

    count: int = 0
    tasks: int = 0


@dataclass(frozen=True)
class FedBuff(Coordinator[BuffState]):
    """Folds each update on arrival and commits every `buffer` of them.

    A place that becomes free goes to a random idle client once all that happens at the same
    instant has been handled: clients that finish together start together, on one version.

    Attributes:
        buffer: K, the updates of a commit.
        concurrency: clients that work at once; None for everyone.
        staleness: s, the weight of an update by its staleness.
        normalize: divide by "K", or by the sum of "weights" (no damping if all are equally stale).
        flush_after: seconds after which an unfilled buffer is committed (still divided by K); None.
        tau_max: staler updates are thrown away; None for none.
    """

    buffer: int = 10
    concurrency: int | None = None
    staleness: Staleness = SQRT
    normalize: Normalize = "K"
    flush_after: float | None = None
    tau_max: int | None = None

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        positive("buffer", self.buffer)
        check_limits(concurrency=self.concurrency, flush_after=self.flush_after)
        positive("tau_max", self.tau_max or 0, zero=True)
        check_choice("normalize", self.normalize, Normalize)

    def init(self) -> BuffState:
        """An empty buffer."""
        return BuffState()

    def on_start(self, state: BuffState, view: View) -> Steps[BuffState]:
        """Fill the free places."""
        limit = len(view.clients) if self.concurrency is None else self.concurrency
        free = max(limit - len(view.in_flight), 0)
        chosen = sorted(view.sample(free, "fedbuff", view.version, state.tasks))
        return replace(state, tasks=state.tasks + len(chosen)), [Dispatch(c) for c in chosen]

    def on_join(self, state: BuffState, client: str, view: View) -> Steps[BuffState]:
        """A newcomer may be drawn."""
        return state, [Timer(REFILL, view.now)]

    def on_fail(self, state: BuffState, task: Task, reason: str, view: View) -> Steps[BuffState]:
        """Somebody takes the place."""
        return state, [Timer(REFILL, view.now)]

    def on_update(self, state: BuffState, update: Update, view: View) -> Steps[BuffState]:
        """Fold it; commit a full buffer."""
        refill, tau = Timer(REFILL, view.now), view.staleness(update)
        if self.tau_max is not None and tau > self.tau_max:
            return state, [Discard(update.id, f"staleness {tau}"), refill]
        weight = self.staleness(tau) / (self.buffer if self.normalize == "K" else 1)
        actions: list[Action] = [Aggregate(update.id, weight)]
        count = (state.count + 1) % self.buffer
        if count == 0:
            actions.append(Commit())
        if self.flush_after is not None and count < 2:
            at = view.now + self.flush_after if count else None
            actions.append(Timer(f"flush {view.version}", at))
        return replace(state, count=count), [*actions, refill]

    def on_timeout(self, state: BuffState, timer: str, view: View) -> Steps[BuffState]:
        """Fill the free places, or commit a buffer that has waited long enough."""
        return (
            self.on_start(state, view) if timer == REFILL else (replace(state, count=0), [Commit()])
        )


def fedbuff(
    buffer: int = 10, *, trainer: Trainer[Any], concurrency: int | None = None, lr: float = 1.0,
    staleness: Staleness = SQRT, normalize: Normalize = "K",
    flush_after: float | None = None, tau_max: int | None = None,
    upload: Transform[Any] = Chain(), optimizer: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedBuff; the optimizer, if any, goes before the server's learning rate."""
    positive("lr", lr)
    coordinator = FedBuff(buffer, concurrency, staleness, normalize, flush_after, tau_max)
    aggregator: Aggregator[Any] = Sum() if normalize == "K" else Mean()
    step = optimizer if lr == 1 else Chain((optimizer, Scale(lr)))
    return Algorithm(coordinator, trainer, aggregator, upload, step, "fedbuff")
