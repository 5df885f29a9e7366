"""FedAvg: rounds in which a cohort trains locally and the server averages.

McMahan et al., Communication-efficient learning of deep networks from decentralized data, 2016,
arXiv 1602.05629; over-selection and deadlines: Bonawitz et al., 2019, arXiv 1902.01046.
    examples, equal:  x <- x + sum_S w_k delta_k / sum_S w_k       w_k = n_k, or 1
    unbiased:         x <- x + (N / |S|) sum_S p_k delta_k         p_k = n_k / sum n
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Literal

from shoal.aggregators import Mean
from shoal.algorithms._round import Round
from shoal.algorithms._shares import check_choice, check_limits
from shoal.algorithms._unbiased import ByExamples
from shoal.core import Aggregator, Algorithm, Chain, Coordinator, Steps, Trainer, Transform, View
from shoal.errors import ConfigError, fraction, positive
from shoal.messages import Abandon, Action, Aggregate, Commit, Config, Task, Timer, Update

BEGIN = "next round"
Weighting = Literal["examples", "equal"]


@dataclass(frozen=True)
class FedAvg(Coordinator[Round]):
    """Invites a cohort, folds what arrives, and commits when the round is complete.

    Updates are folded on arrival, so memory does not grow with the cohort; late ones are cancelled.
    A round starts with whoever is idle, at least the quorum, and takes others in while it has
    places; it ends early when nobody is left who could still answer. The next one starts once all
    that happens at the same instant has been handled.

    Attributes:
        cohort: clients per round; None for everyone present.
        fraction: the share C of those present, in place of a number.
        over_selection: invite ceil(over_selection * cohort), take the first and cancel the rest.
        quorum: fewer updates than that abandon the round: the model stays as it was.
        deadline: seconds after which a round takes what has arrived; None for never.
        replace_failed: whether another client takes the place of one that fails.
        weighting: by "examples" or "equal"; for "unbiased" see `fedavg`.
        config: overrides of the trainer's hyperparameters.
    """

    cohort: int | None = None
    fraction: float | None = None
    over_selection: float = 1.0
    quorum: int = 1
    deadline: float | None = None
    replace_failed: bool = False
    weighting: Weighting = "examples"
    config: Config = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        check_limits(cohort=self.cohort, fraction=self.fraction, deadline=self.deadline)
        fraction("fraction", self.fraction or 0.0)
        positive("quorum", self.quorum)
        positive("over_selection", self.over_selection)
        check_choice("weighting", self.weighting, Weighting)
        if self.cohort is not None and self.fraction is not None:
            raise ConfigError("fraction", "give a cohort or a fraction, not both")
        if self.over_selection < 1 or (self.over_selection > 1 and self._everyone):
            raise ConfigError("over_selection", "must be at least 1, and above 1 needs a cohort")
        if self.cohort is not None and self.quorum > self.cohort:
            raise ConfigError("quorum", f"{self.quorum} exceeds the cohort of {self.cohort}")

    @property
    def _everyone(self) -> bool:
        return self.cohort is None and self.fraction is None

    def init(self) -> Round:
        """Before the first round."""
        return Round()

    def on_start(self, state: Round, view: View) -> Steps[Round]:
        """The first round, unless it must wait for a quorum."""
        if len(view.idle) < self.quorum:
            return state, ()
        size = len(view.clients) if self.cohort is None else self.cohort
        share = 1.0 if self.fraction is None else self.fraction
        goal = max(round(share * size), self.quorum)
        state = state.opened(view.version, goal, ceil(self.over_selection * goal - 1e-9))
        state, actions = state.invite(state.draw(view), self.config)
        if self.deadline is None:
            return state, actions
        return state, [*actions, Timer(state.name, view.now + self.deadline)]

    def on_join(self, state: Round, client: str, view: View) -> Steps[Round]:
        """A newcomer takes a place if there is one."""
        if not state.goal:
            return state, [Timer(BEGIN, view.now)]
        state, actions = state.invite(state.draw(view), self.config)
        return self._settle(state, actions, view)

    def on_fail(self, state: Round, task: Task, reason: str, view: View) -> Steps[Round]:
        """One fewer to wait for; or one that was cancelled before is free again."""
        return self.on_join(state.failed(task.client, self.replace_failed), task.client, view)

    def on_update(self, state: Round, update: Update, view: View) -> Steps[Round]:
        """Fold it; the last one completes the round."""
        weight = 1.0 if self.weighting == "equal" else float(update.num_examples)
        return self._settle(state.answered(), [Aggregate(update.id, weight)], view)

    def on_timeout(self, state: Round, timer: str, view: View) -> Steps[Round]:
        """The next round, or the deadline of this one."""
        if timer == BEGIN and not state.goal:
            return self.on_start(state, view)
        return self._close(state, (), view) if timer == state.name else (state, ())

    def _settle(self, state: Round, actions: Sequence[Action], view: View) -> Steps[Round]:
        return self._close(state, actions, view) if state.over(self.quorum) else (state, actions)

    def _close(self, state: Round, actions: Sequence[Action], view: View) -> Steps[Round]:
        clear = [] if self.deadline is None else [Timer(state.name, None)]
        end = Commit() if state.arrived >= self.quorum else Abandon()
        following = Timer(BEGIN, view.now)
        return Round(state.number), [*actions, *state.late(view), *clear, end, following]


def fedavg(
    cohort: int | None = None, *, trainer: Trainer[Any], fraction: float | None = None,
    over_selection: float = 1.0, quorum: int = 1, deadline: float | None = None,
    replace_failed: bool = False, weighting: Literal["examples", "equal", "unbiased"] = "examples",
    mean_examples: float | None = None, aggregator: Aggregator[Any] = Mean(),
    upload: Transform[Any] = Chain(), optimizer: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedAvg; "unbiased" weighting needs `mean_examples`, the examples per client of all."""
    if (weighting == "unbiased") != (mean_examples is not None):
        raise ConfigError("mean_examples", 'belongs to weighting="unbiased", which needs it')
    if mean_examples is not None:
        upload = Chain((ByExamples(mean_examples), upload))
    rounds = FedAvg(
        cohort, fraction, over_selection, quorum, deadline, replace_failed,
        "equal" if weighting == "unbiased" else weighting,
    )  # fmt: skip
    return Algorithm(rounds, trainer, aggregator, upload, optimizer, "fedavg")


def schedule(cohort: int | None, rounds: FedAvg) -> FedAvg:
    """The rounds of a variant of FedAvg: `rounds` with this cohort, unless it is None."""
    if cohort is None:
        return rounds
    if rounds.cohort is not None:
        raise ConfigError("cohort", "give it directly or in `rounds`, not both")
    return replace(rounds, cohort=cohort)
