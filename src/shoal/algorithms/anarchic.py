"""Anarchic federated learning: clients choose when to take part and how many steps to take.

Yang et al., Anarchic federated learning, 2021, arXiv 2108.09875.
    G_i = -delta_i / (local_lr K_i)                    K_i the client's own number of steps
    AFA-CD: x <- x - lr (1/m) sum of the m that arrived G_i
    AFA-CS: x <- x - lr (1/N) sum of all i, the last G_i of each
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shoal.aggregators import Sum
from shoal.aggregators.latest import Latest
from shoal.algorithms._shares import check_limits
from shoal.core import Algorithm, Chain, Coordinator, Steps, Trainer, Transform, View
from shoal.errors import ConfigError, positive
from shoal.messages import Action, Aggregate, Commit, Config, Dispatch, Task, Timer, Update
from shoal.transforms import Scale

READY = "ready"


@dataclass(frozen=True)
class AnarchicState:
    """Updates since the last commit, and how many tasks each client was given."""

    count: int = 0
    given: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Anarchic(Coordinator[AnarchicState]):
    """Whoever is there works; every `arrivals` updates are a commit.

    An update's weight is one over its steps. Clients that finish at the same instant start again
    together, on one version.

    Attributes:
        arrivals: m, the updates of a commit.
        min_steps, max_steps: K_i is drawn between them for each task, both included; None to leave
            it to the client's trainer.
    """

    arrivals: int = 10
    min_steps: int | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        """Check the counts."""
        positive("arrivals", self.arrivals)
        check_limits(min_steps=self.min_steps, max_steps=self.max_steps)
        if (self.min_steps is None) != (self.max_steps is None):
            raise ConfigError("max_steps", "give min_steps and max_steps, or neither")
        if (self.max_steps or 0) < (self.min_steps or 0):
            raise ConfigError("max_steps", f"{self.max_steps} is below min_steps {self.min_steps}")

    def init(self) -> AnarchicState:
        """Nobody has been given anything."""
        return AnarchicState()

    def on_start(self, state: AnarchicState, view: View) -> Steps[AnarchicState]:
        """Everyone begins."""
        return self._give(state, view.idle, view)

    def on_join(self, state: AnarchicState, client: str, view: View) -> Steps[AnarchicState]:
        """A client chose to take part."""
        return self._give(state, [client], view)

    def on_fail(
        self, state: AnarchicState, task: Task, reason: str, view: View
    ) -> Steps[AnarchicState]:
        """It may try again."""
        return state, [Timer(READY, view.now)]

    def on_update(self, state: AnarchicState, update: Update, view: View) -> Steps[AnarchicState]:
        """Fold it, normalized by its steps; commit every m."""
        actions: list[Action] = [Aggregate(update.id, 1.0 / max(update.steps, 1))]
        count = (state.count + 1) % self.arrivals
        if count == 0:
            actions.append(Commit())
        return replace(state, count=count), [*actions, Timer(READY, view.now)]

    def on_timeout(self, state: AnarchicState, timer: str, view: View) -> Steps[AnarchicState]:
        """Those who have finished begin anew."""
        return self._give(state, view.idle, view)

    def _give(
        self, state: AnarchicState, clients: Iterable[str], view: View
    ) -> Steps[AnarchicState]:
        given, tasks = dict(state.given), []
        for client in clients:
            number = given.get(client, 0)
            config: Config = {}
            given[client] = number + 1
            if self.min_steps is not None and self.max_steps is not None:
                draw = view.rng("anarchic steps", client, view.version, number)
                config = {"steps": int(draw.integers(self.min_steps, self.max_steps + 1))}
            tasks.append(Dispatch(client, config))
        return replace(state, given=given), tasks


def afa_cd(
    arrivals: int = 10, *, trainer: Trainer[Any], lr: float = 0.1, local_lr: float | None = None,
    min_steps: int | None = None, max_steps: int | None = None, upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """AFA-CD, for cross-device: no memory. `local_lr` is by default the trainer's `lr`."""
    coordinator = Anarchic(arrivals, min_steps, max_steps)
    step = _step(lr / arrivals, local_lr, trainer)
    return Algorithm(coordinator, trainer, Sum(), upload, step, "afa_cd")


def afa_cs(
    arrivals: int = 10, *, clients: int, trainer: Trainer[Any], lr: float = 0.1,
    local_lr: float | None = None, min_steps: int | None = None, max_steps: int | None = None,
    upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """AFA-CS, for cross-silo: the server keeps the last update of each of N `clients`."""
    coordinator = Anarchic(arrivals, min_steps, max_steps)
    step = _step(lr, local_lr, trainer)
    return Algorithm(coordinator, trainer, Latest(clients), upload, step, "afa_cs")


def _step(lr: float, local_lr: float | None, trainer: Trainer[Any]) -> Scale:
    local = getattr(trainer, "lr", None) if local_lr is None else local_lr
    if local is None:
        raise ConfigError("local_lr", f"{type(trainer).__name__} has no lr: give it here")
    positive("lr", lr)
    positive("local_lr", local)
    return Scale(lr / local)
