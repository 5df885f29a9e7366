"""The first moment of a run, tried before it begins: who is asked, and one step of one client.

What would end a run at its first round or its first update (statistics that are missing, tiers
without clients, a deadline that nobody keeps, a loss that nobody reports, an upload that the
aggregator cannot read) is refused here, with the reason and the nearest thing that works.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from shoal import client, fitting, packing, wire
from shoal.algorithms._policy import Policy
from shoal.algorithms.fedavg import FedAvg
from shoal.core import NOTHING, Examples
from shoal.errors import ConfigError, DataError, UpdateError
from shoal.experiment import Built
from shoal.messages import Dispatch, Payload, Started, Task, Update
from shoal.planes import Local
from shoal.seeds import choose, rng
from shoal.trainers.sizes import Sizes
from shoal.transports.simulator import data_of
from shoal.validation import check_payload

EXAMPLES = 32  # of the step that is tried
LARGE = 1 << 26  # values of a model whose first step is not worth trying
CLIENTS = 2000  # whose first answers are timed


class First:
    """The view of a coordinator whose run begins with everyone there; a `core.View`."""

    def __init__(self, clients: Sequence[str], seed: int) -> None:
        self.clients, self.seed = sorted(clients), seed
        self.now, self.version = 0.0, 0
        self.in_flight: Mapping[int, Task] = {}

    @property
    def idle(self) -> Sequence[str]:
        """Everyone."""
        return self.clients

    def staleness(self, update: Update) -> int:
        """None so far."""
        return 0

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """The generator that the run will draw from."""
        return rng(self.seed, "coordinator", *purpose)

    def sample(self, n: int, *purpose: str | int) -> list[str]:
        """Those whom the run will draw."""
        return choose(self.clients, min(n, len(self.clients)), self.seed, "sample", *purpose)


def check(built: Built) -> None:
    """Try the first moment of a run.

    Raises:
        ConfigError: for what would end it.
    """
    experiment, federation = built.experiment, built.federation
    if experiment.relays is not None or federation.crowd is not None:
        return
    coordinator = built.algorithm.coordinator
    view = First(federation.clients, experiment.seed)
    _, actions = coordinator.handle(coordinator.init(), Started(), view)
    asked = [action for action in actions if isinstance(action, Dispatch)]
    if experiment.transport == "simulator":
        check_deadline(built)
    small = built.node.model.layout.size <= LARGE
    if asked and small and not isinstance(built.algorithm.trainer, Sizes):
        check_task(built, asked[0])


def check_deadline(built: Built) -> None:
    """Refuse a deadline that fewer clients keep than a round needs.

    Raises:
        ConfigError: with the least deadline that works.
    """
    experiment, algorithm = built.experiment, built.algorithm
    found = list(fitting.parts(algorithm.coordinator))
    rounds = [part for part in found if isinstance(part, FedAvg) and part.deadline is not None]
    devices = experiment.devices.bound(built.federation.labels)
    if not rounds or devices.jitter or devices.retries is not None:
        return
    seconds = sorted(_fastest(built, rounds[0], any(isinstance(p, Policy) for p in found)))
    quorum, deadline = rounds[0].quorum, rounds[0].deadline or 0.0
    if len(seconds) == len(built.federation.clients) and quorum <= len(seconds):
        least = seconds[quorum - 1]
        if least > deadline:
            who = "the fastest client needs" if quorum == 1 else f"the {quorum} of a quorum need"
            raise ConfigError(
                "algorithm.coordinator.deadline", f"no round could end: {who} {least:g} s, and the "
                f"deadline is {deadline:g} s. Raise it to that, or lower the local steps",
            )  # fmt: skip


def _fastest(built: Built, rounds: FedAvg, fitted: bool) -> list[float]:
    """Seconds that clients need at least for their first task; `fitted` if one step will do."""
    experiment, algorithm = built.experiment, built.algorithm
    devices, seed = experiment.devices.bound(built.federation.labels), experiment.seed
    down = wire.size(built.node.model)
    up = packing.size(Payload(built.node.model, 1)) if algorithm.upload == NOTHING else 0
    seconds = []
    for name in list(built.federation.clients)[:CLIENTS]:
        count = len(data_of(built.federation, name, 0.0)) if not fitted else 0
        steps = 1 if fitted else algorithm.trainer.steps(count, rounds.config)
        work = devices.compute_seconds(seed, name, 0, steps)
        links = devices.download_seconds(seed, name, down) + devices.upload_seconds(seed, name, up)
        seconds.append(work + links)
    return seconds


def check_task(built: Built, asked: Dispatch) -> None:
    """Do one step of the first task, and fold what comes of it.

    Raises:
        ConfigError: if it cannot be aggregated, or lacks what the coordinator goes by.
        DataError: if the client's data are not what the method needs.
    """
    algorithm, model, seed = built.algorithm, built.node.model, built.experiment.seed
    config = {name: value for name, value in asked.config.items() if name != "epochs"}
    task = Task(0, asked.client, 0, 0, asked.kind, {**config, "steps": 1}, part=asked.part)
    given = model if asked.part is None else model.select(asked.part)
    data = data_of(built.federation, asked.client, 0.0)
    try:
        payload, _ = client.work(algorithm, task, given, _some(data), None, seed)
    except DataError:  # of some of them alone?
        payload, _ = client.work(algorithm, task, given, data, None, seed)
    try:
        update = check_payload(task, payload, model, 0.0)
    except UpdateError:
        return  # this client's own trouble, which a run survives
    for part in fitting.parts(algorithm.coordinator):
        if isinstance(part, Policy):
            _check_metrics(part, update)
    if asked.kind == "train":
        _check_fold(built, payload)


def _check_metrics(policy: Policy[Any], update: Update) -> None:
    for metric in policy.needs:
        if metric not in update.metrics:
            raise ConfigError(
                "algorithm.trainer", f"reports no {metric!r}, which {type(policy).__name__} "
                "chooses by: wrap it in shoal.algorithms.measured.Measured",
            )  # fmt: skip


def _check_fold(built: Built, payload: Payload) -> None:
    algorithm = built.algorithm
    plane = Local(algorithm.aggregator, NOTHING)
    plane.start(built.node.model, 0)
    plane.put(0, replace(payload, num_examples=max(payload.num_examples, 1)))
    try:
        plane.fold(0, 1.0, built.federation.clients[0])
    except UpdateError as error:
        raise ConfigError(
            "algorithm.aggregator", f"cannot take what clients send: {error}. Use the method that "
            "both belong to, or another upload",
        ) from error  # fmt: skip


def _some(data: Examples) -> Examples:
    return data.take(np.arange(min(len(data), EXAMPLES)))
