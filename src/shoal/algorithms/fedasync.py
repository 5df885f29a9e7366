"""FedAsync: every update is applied when it arrives, damped by its staleness.

Xie et al., Asynchronous federated optimization, 2019, arXiv 1903.03934.
    mix:   x <- (1 - alpha_t) x + alpha_t y_i        alpha_t = alpha s(tau)
    delta: x <- x + alpha_t (y_i - x_base)           the same where tau = 0
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from shoal.aggregators import Sum
from shoal.algorithms._shares import Share, Shares, check_choice, check_limits
from shoal.core import Algorithm, Chain, Coordinator, Steps, Trainer, Transform, View
from shoal.errors import ConfigError, positive
from shoal.messages import Action, Aggregate, Commit, Discard, Dispatch, Task, Update
from shoal.staleness import SQRT, Staleness

Mode = Literal["mix", "delta"]


@dataclass(frozen=True)
class AsyncState:
    """Tasks given so far, and example counts where weights need them."""

    tasks: int = 0
    shares: Shares = field(default_factory=Shares)


@dataclass(frozen=True)
class FedAsync(Coordinator[AsyncState]):
    """Everyone works all the time, and each arrival is a commit.

    Attributes:
        alpha: weight of a fresh update.
        staleness: factor on it by staleness.
        mode: "mix" pulls the model towards the client's, "delta" adds what the client changed.
        concurrency: clients that work at once, drawn at random; None for everyone.
        tau_max: staler updates are thrown away; None for none.
        client_weight: a further factor: "none" 1, "equal" 1/N, or "examples" n_i / sum n.
    """

    alpha: float = 0.9
    staleness: Staleness = SQRT
    mode: Mode = "mix"
    concurrency: int | None = None
    tau_max: int | None = None
    client_weight: Share = "none"

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        positive("alpha", self.alpha)
        check_limits(concurrency=self.concurrency)
        positive("tau_max", self.tau_max or 0, zero=True)
        check_choice("mode", self.mode, Mode)
        check_choice("client_weight", self.client_weight, Share)
        if self.mode == "mix" and self.alpha > 1:
            raise ConfigError("alpha", f"must be at most 1 to mix models, got {self.alpha!r}")

    def init(self) -> AsyncState:
        """No tasks given."""
        return AsyncState()

    def on_start(self, state: AsyncState, view: View) -> Steps[AsyncState]:
        """Tasks for all who may work at once."""
        chosen: Sequence[str] = view.idle
        if self.concurrency is not None:
            free = max(self.concurrency - len(view.in_flight), 0)
            chosen = sorted(view.sample(free, "fedasync", view.version, state.tasks))
        mix = self.mode == "mix"
        tasks = [Dispatch(c, {"payload": "model"}) if mix else Dispatch(c) for c in chosen]
        return AsyncState(state.tasks + len(tasks), state.shares), tasks

    def on_join(self, state: AsyncState, client: str, view: View) -> Steps[AsyncState]:
        """A newcomer works if there is room."""
        return self.on_start(state, view)

    def on_leave(self, state: AsyncState, client: str, view: View) -> Steps[AsyncState]:
        """Shares are of those present."""
        return replace(state, shares=state.shares.without(client)), ()

    def on_fail(self, state: AsyncState, task: Task, reason: str, view: View) -> Steps[AsyncState]:
        """Somebody takes the place."""
        return self.on_start(state, view)

    def on_update(self, state: AsyncState, update: Update, view: View) -> Steps[AsyncState]:
        """Commit it, and give out the next task on the new model."""
        tau, kind = view.staleness(update), self.client_weight
        done: list[Action] = [Discard(update.id, f"staleness {tau}")]
        if self.tau_max is None or tau <= self.tau_max:
            if kind == "examples":
                state = replace(state, shares=state.shares.heard(update))
            share = state.shares.of(update, kind, len(view.clients))
            done = [Aggregate(update.id, self.alpha * self.staleness(tau) * share), Commit()]
        state, more = self.on_start(state, view)
        return state, [*done, *more]


def fedasync(
    alpha: float = 0.9, *, trainer: Trainer[Any], staleness: Staleness = SQRT,
    mode: Mode = "mix", concurrency: int | None = None, tau_max: int | None = None,
    client_weight: Share = "none", upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedAsync; its local regularization is the trainer's step rule `Proximal`."""
    coordinator = FedAsync(alpha, staleness, mode, concurrency, tau_max, client_weight)
    return Algorithm(coordinator, trainer, Sum(), upload, name="fedasync")
