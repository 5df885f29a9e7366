"""The ways in which the PyTorch trainer trains several clients, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from shoal.core import Job
from shoal.errors import ModelError
from shoal.kernels.threads import COUNT
from shoal.messages import Payload
from shoal.tensors import Tensors
from shoal.trainers import _choice, _dense, _notes, _structure, _vmap
from shoal.trainers._choice import Choice
from shoal.trainers._replica import Replica, limited

if TYPE_CHECKING:
    from shoal.trainers.torch import SGD

BACKENDS = ("auto", "sequential", "native", "vmap", "threads")
SIZES = {"sequential": 1, "native": _dense.COHORT, "vmap": _vmap.COHORT, "threads": 2 * COUNT}
Results = list[tuple[Payload, Any]]


class Cohorts:
    """How one trainer, bound to one model, trains cohorts; decided at the first of them."""

    def __init__(self) -> None:
        self._choice: Choice | None = None
        self._net: _dense.Net | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Cohorts, ()  # another machine decides anew

    def size(self, backend: str) -> int:
        """How many clients are worth one call."""
        chosen = backend if self._choice is None else self._choice.backend
        return SIZES.get(chosen, _vmap.COHORT)

    def train(self, trainer: SGD, replica: Replica, jobs: Sequence[Job]) -> Results:
        """Train the jobs in the way that is chosen."""
        if self._choice is None:
            if (
                len(jobs) == 1
                and trainer.backend == "auto"
                and not _surely_native(trainer, replica, jobs)
            ):
                return [trainer.train(*jobs[0])]  # what a cohort gains cannot be measured by one
            self._choice = self._chosen(trainer, replica, jobs)
        _check(replica, [job.model for job in jobs])
        return self._by(self._choice.backend, trainer, replica)(jobs)

    def _by(self, backend: str, trainer: SGD, replica: Replica) -> _choice.Train:
        match backend:
            case "native":
                return lambda jobs: self._native(trainer, replica, jobs)
            case "vmap":
                return lambda jobs: _mapped(trainer, replica, jobs)
            case "threads":
                return lambda jobs: _threaded(trainer, jobs)
            case _:
                return lambda jobs: [trainer.train(*job) for job in jobs]

    def _native(self, trainer: SGD, replica: Replica, jobs: Sequence[Job]) -> Results:
        if self._net is None:
            found = _net(trainer, replica, jobs)
            assert isinstance(found, _dense.Net)
            self._net = found
        clip, decay = trainer.clip or 0.0, trainer.weight_decay
        extras = _dense.Extras(clip, decay, trainer.momentum, seeded=True)
        return _dense.train_many(trainer, self._net, jobs, extras)

    def _chosen(self, trainer: SGD, replica: Replica, jobs: Sequence[Job]) -> Choice:
        """The backend that was asked for, or the best; sequential, with a note, if it cannot be."""
        asked, name = trainer.backend, type(replica.module).__name__
        if asked == "sequential":
            return Choice("sequential", "as asked")
        if asked == "auto":
            if _surely_native(trainer, replica, jobs):
                return Choice("native", "dense layers")
            return self._best(trainer, replica, jobs)
        if asked == "native":
            problem = _no_native(trainer, replica, jobs)
        elif asked == "vmap":
            problem = self._no_vmap(trainer, replica, jobs)
        else:
            problem = _no_threads(replica, jobs)
        if problem:
            _notes.once(f"{name} is trained one client after another, not by {asked}: {problem}")
            return Choice("sequential", problem)
        return Choice(asked, "as asked")

    def _best(self, trainer: SGD, replica: Replica, jobs: Sequence[Job]) -> Choice:
        settings = f"{trainer.loss} {trainer.batch} {trainer.rule!r} {trainer.threads}"
        settings += f" {_dense.VERSION} {_dense.MISSING}"
        at, name = _choice.key(replica, settings), type(replica.module).__name__
        choice = _choice.remembered(at)
        if choice is None:
            problems = {
                "native": _no_native(trainer, replica, jobs),
                "threads": _no_threads(replica, jobs),
                "vmap": self._no_vmap(trainer, replica, jobs),
            }
            ways = ["sequential", *(way for way, problem in problems.items() if not problem)]
            choice = _choice.measure({w: self._by(w, trainer, replica) for w in ways}, jobs)
            told = "".join(f"; no {way}: {why}" for way, why in problems.items() if why)
            choice = Choice(choice.backend, choice.reason + told)
            _choice.remember(at, choice)
        _notes.once(f"clients of {name} are trained by backend {choice.backend}: {choice.reason}")
        return choice

    def _no_vmap(self, trainer: SGD, replica: Replica, jobs: Sequence[Job]) -> str:
        return _structure.obstacle(replica) or _choice.differs(
            self._by("vmap", trainer, replica), lambda job: trainer.train(*job), jobs
        )


def _net(trainer: SGD, replica: Replica, jobs: Sequence[Job]) -> _dense.Net | str:
    """The network for compiled steps, or why there is none."""
    if not _dense.known(trainer.rule):
        return f"compiled steps do not know the rule {type(trainer.rule).__name__}"
    return _structure.compiled_net(replica, trainer.loss, jobs[0].data.x.shape[1:])


def _no_native(trainer: SGD, replica: Replica, jobs: Sequence[Job]) -> str:
    found = _net(trainer, replica, jobs)
    return found if isinstance(found, str) else ""


def _surely_native(trainer: SGD, replica: Replica, jobs: Sequence[Job]) -> bool:
    """Whether compiled steps are fastest on any CPU; with convolutions, it must be measured."""
    found = _net(trainer, replica, jobs)
    return isinstance(found, _dense.Net) and not found.convs


def _no_threads(replica: Replica, jobs: Sequence[Job]) -> str:
    if replica.device.type != "cpu":
        return "the clients share a device"
    if COUNT < 2:
        return "there is one core"
    replica.load(jobs[0].model)
    x, _ = replica.examples(jobs[0].data)
    if _structure.draws(replica, x[:2]):
        return "it draws random numbers, whose stream the threads would share"
    return ""


def _check(replica: Replica, models: Sequence[Tensors]) -> None:
    for model in models:
        if model.layout is not replica.layout and model.layout != replica.layout:
            raise ModelError(f"{model!r} is not the module's {replica.layout.size} values")


def _mapped(trainer: SGD, replica: Replica, jobs: Sequence[Job]) -> Results:
    loss = _structure.loss_function(trainer.loss)
    settings = _vmap.Settings(
        trainer.rule, trainer.lr, trainer.batch, trainer.steps, loss,
        trainer.loss in _structure.LOSSES, trainer.clip, trainer.weight_decay, trainer.momentum,
    )  # fmt: skip
    with limited(trainer.threads):
        return _vmap.train_many(settings, replica, jobs)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(COUNT, "shoal-clients", lambda: torch.set_num_threads(1))


def _threaded(trainer: SGD, jobs: Sequence[Job]) -> Results:
    # Set here too: part of torch's number of threads is common to all.
    with limited(trainer.threads):
        return list(_pool().map(lambda job: trainer.train(*job), jobs))
