"""The typed description of a run, and what it is made of once it is built."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from shoal import config, feasible, fitting, packing, pipelines, wire
from shoal.client import fresh
from shoal.combinators import evaluate_every, relay, until
from shoal.core import NOTHING, Aggregator, Algorithm, Coordinator, Plane, Trainer, Transform
from shoal.crowd import Crowd
from shoal.data import Dataset, Federation
from shoal.downlink import Changes, Downlink, Whole
from shoal.errors import ConfigError, positive
from shoal.messages import Metrics
from shoal.node import Node
from shoal.planes import Nothing
from shoal.planes.choice import Decision, Load, decide, expected, opened
from shoal.planes.functions_service import FunctionService
from shoal.plans.spec import AUTO, parse
from shoal.profile import Profile
from shoal.seeds import integer
from shoal.simulation import Devices
from shoal.store import ClientStore, MemoryStore, SpillStore
from shoal.tensors import Tensors
from shoal.trainers.sizes import Sizes
from shoal.transports import Simulator, Threads, Tree

IDEAL = Devices()
FUNCTIONS = FunctionService()


@dataclass(frozen=True)
class Relays:
    """A level of relays between the server and the clients, who are dealt out among them in turn.

    Attributes:
        count: of relays.
        coordinator: who trains when, below each relay.
        aggregator: of each relay.
        commits: of a relay for each task of the server.
        devices: the links between the server and the relays.
    """

    count: int
    coordinator: Coordinator[Any]
    aggregator: Aggregator[Any]
    commits: int = 1
    devices: Devices = IDEAL

    def __post_init__(self) -> None:
        """Check the counts."""
        positive("relays.count", self.count)
        positive("relays.commits", self.commits)


@dataclass(frozen=True)
class Experiment:
    """One run: the same value simulates, serves and joins.

    Attributes:
        model: a function that makes the model, e.g. an `nn.Module`; None where the trainer knows.
        data: the data set and how clients share it.
        algorithm: the method.
        commits, seconds, target: when to stop, whichever comes first; `target` is of `metric`.
        evaluate_every: commits between evaluations on the test set.
        seed: names every random draw of the run.
        devices: speeds, links and availability of the simulator's clients.
        relays: a level between server and clients, if any.
        upload: what updates go through, where the algorithm has nothing of its own; "auto" picks it
            by links and speeds, see `Auto`.
        downlink: a codec for what changed of the model since the one that a client holds, e.g.
            `chain(TopK(0.05), Quantize(8), Entropy())`; without one models are sent whole.
        transport: "simulator" (virtual time) or "threads" (this process, real time).
        workers: clients that train at once under "threads".
        plane: where updates are folded: "local" (this process), "processes" (workers that share
            memory, for large models), "functions" (see `functions`) or "ray"; "auto" for what suits
            model, clients and machine.
        plan: how they are folded: "flat", "shards(4)", "tree(8)" or "shards(4) x tree(8)"; behind
            it, when: ", lazy(8)", ", quorum(5)" or ", at(30s)"; "auto" for what suits them.
        functions: the store and the runner of the plane of functions.
        memory: bytes for updates that wait, accumulators and what a commit makes of them, at the
            server and at each relay; what does not fit goes to disk. None for no limit. The model
            and the server optimizer's state are beside it.
        resident_clients: client states kept in memory, the others in a temporary file; None for
            all of them.
        checkpoint_every: commits between checkpoints; 0 for none but at an interruption.
        log: keep the input log that `shoal replay` needs; it holds every update.
        sinks: further places for records, e.g. "tensorboard".
        name: of the run; the algorithm's name if empty.
        profile: measure where the simulator's time goes; `shoal run` prints and stores it.
    """

    model: Callable[[], Any] | None
    data: Dataset
    algorithm: Algorithm
    commits: int | None = None
    seconds: float | None = None
    target: float | None = None
    metric: str = "accuracy"
    evaluate_every: int = 1
    seed: int = 0
    devices: Devices = IDEAL
    relays: Relays | None = None
    upload: Transform[Any] | Literal["auto"] = NOTHING
    downlink: Transform[Any] = NOTHING
    transport: Literal["simulator", "threads"] = "simulator"
    workers: int = 2
    plane: Literal["auto", "local", "processes", "functions", "ray"] = "auto"
    plan: str = AUTO
    functions: FunctionService = FUNCTIONS
    memory: int | None = None
    resident_clients: int | None = None
    checkpoint_every: int = 0
    log: bool = False
    sinks: tuple[str, ...] = ()
    name: str = ""
    profile: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        if self.commits is None and self.seconds is None and self.target is None:
            raise ConfigError("commits", "give commits, seconds or target, or the run never ends")
        positive("evaluate_every", self.evaluate_every)
        positive("workers", self.workers)
        if self.plan != AUTO:
            parse(self.plan)
        if self.memory is not None:
            positive("memory", self.memory)
        if self.resident_clients is not None:
            positive("resident_clients", self.resident_clients)
        positive("checkpoint_every", self.checkpoint_every, zero=True)
        pipelines.check_downlink(self.downlink)
        if self.upload != NOTHING and self.algorithm.upload != NOTHING:
            own = type(self.algorithm.upload).__name__
            raise ConfigError("upload", f"the algorithm has its own, {own}: give one of the two")
        if self.relays is not None and self.transport != "simulator":
            raise ConfigError("relays", "are simulated only: set transport to 'simulator'")
        if self.profile and (self.transport != "simulator" or self.relays is not None):
            raise ConfigError("profile", "is of the simulator, without relays")

    @property
    def title(self) -> str:
        """What people call the run."""
        return self.name or self.algorithm.name or "run"


@dataclass(frozen=True)
class Built:
    """An experiment made real: a node, the transport that drives it, and its data.

    Attributes:
        decision: where the server folds, by which plan, and why; None where nothing is folded.
        profile: where the time goes, if that is to be measured.
        upload: what `Auto` picked, and why; empty where nothing was to be picked.
    """

    experiment: Experiment
    node: Node
    transport: Simulator | Threads | Tree
    federation: Federation
    algorithm: Algorithm
    decision: Decision | None = None
    profile: Profile | None = None
    upload: str = ""

    def close(self) -> None:
        """Let go of threads, workers, shared memory and files."""
        self.transport.close()
        self.node.plane.close()


def build(experiment: Experiment) -> Built:
    """Load the data, make the model, and put node and transport together.

    Raises:
        ConfigError, DataError, ModelError: for what does not fit.
    """
    federation = experiment.data.load(experiment.seed)
    trainer = experiment.algorithm.trainer.bind(experiment.model)
    model = trainer.initial(experiment.seed)
    links, seed = experiment.devices.bound(federation.labels), experiment.seed
    algorithm, picked = pipelines.resolved(
        _bound(experiment, trainer), model, links, federation.clients, federation, seed
    )
    _check(experiment, algorithm, federation, model)
    crowd = _crowd(experiment, federation)
    below = experiment.relays.count if experiment.relays else len(federation.clients)
    decision = _decision(experiment, algorithm, model, below)
    fitting.check_plane(algorithm.aggregator, decision.plane if decision else "local")
    node = Node(
        evaluate_every(_limited(experiment), experiment.evaluate_every),
        _plane(experiment, algorithm, decision),
        model,
        experiment.seed,
        crowd,
        _downlink(experiment, algorithm, model, experiment.seed),
    )

    def evaluate(model: Tensors) -> Metrics:
        return trainer.evaluate(model, federation.test_at(node.now))

    transport = _transport(experiment, algorithm, federation, model, evaluate, crowd)
    profile = None
    if experiment.profile and isinstance(transport, Simulator):
        profile = Profile()
        profile.watch_plane(node.plane)
        transport.watch(profile)
    return Built(experiment, node, transport, federation, algorithm, decision, profile, picked)


def _bound(experiment: Experiment, trainer: Trainer[Any]) -> Algorithm:
    """The algorithm with its trainer bound, and with the experiment's upload if that has one."""
    algorithm = replace(experiment.algorithm, trainer=trainer)
    if experiment.upload == NOTHING:
        return algorithm
    chosen = pipelines.Auto() if experiment.upload == "auto" else experiment.upload
    return replace(algorithm, upload=chosen)


def _downlink(experiment: Experiment, algorithm: Algorithm, model: Tensors, seed: int) -> Downlink:
    """How a server or relay sends models."""
    trainer = algorithm.trainer
    if experiment.downlink == NOTHING:
        return Whole(wire.size if not isinstance(trainer, Sizes) else lambda _: trainer.bytes)
    if isinstance(trainer, Sizes):
        raise ConfigError("downlink", "there are no models to encode: leave it out")
    return Changes(experiment.downlink, model, seed)


def _transport(
    experiment: Experiment,
    algorithm: Algorithm,
    federation: Federation,
    model: Tensors,
    evaluate: Callable[[Tensors], Metrics],
    crowd: Crowd | None,
) -> Simulator | Threads | Tree:
    if experiment.relays is not None:
        return _tree(experiment, experiment.relays, algorithm, federation, model, evaluate)
    store, trainer = _store(experiment, algorithm, model), algorithm.trainer
    if experiment.transport == "threads":
        return Threads(
            algorithm, federation, evaluate=evaluate, seed=experiment.seed,
            workers=experiment.workers, store=store,
        )  # fmt: skip
    return Simulator(
        algorithm, federation, experiment.devices.bound(federation.labels), evaluate=evaluate,
        seed=experiment.seed, store=store, crowd=crowd,
        size=packing.size if not isinstance(trainer, Sizes) else lambda _: trainer.upload,
    )  # fmt: skip


def _check(
    experiment: Experiment, algorithm: Algorithm, federation: Federation, model: Tensors
) -> None:
    """Refuse what cannot work before anything starts."""
    clients, relays = len(federation.clients), experiment.relays
    below = relays.count if relays else clients
    fitting.check(algorithm, model, expected(algorithm.coordinator, below))
    feasible.check_places(algorithm.coordinator, below)
    if relays is not None:
        fitting.check_relays(algorithm, model)
        least = clients // relays.count
        feasible.check_places(relays.coordinator, least or 1, "relays.coordinator")
    feasible.check_store(fresh(algorithm, model), clients, experiment.resident_clients)
    feasible.check_world(
        experiment.devices.bound(federation.labels), experiment.seed, federation.clients[0]
    )
    if federation.crowd is not None and (relays or experiment.transport != "simulator"):
        raise ConfigError("data", "a crowd is simulated only, and without relays")


def _crowd(experiment: Experiment, federation: Federation) -> Crowd | None:
    if federation.crowd is None:
        return None
    devices, seed = experiment.devices.bound(federation.labels), experiment.seed
    return Crowd(federation.crowd, partial(devices.span, seed))


def _decision(
    experiment: Experiment, algorithm: Algorithm, model: Tensors, clients: int
) -> Decision | None:
    """Where a server or relay folds, and by which plan; None where nothing is folded."""
    if isinstance(algorithm.trainer, Sizes):
        return None
    load = Load.of(model, expected(algorithm.coordinator, clients), algorithm.aggregator)
    plane, plan = experiment.plane, experiment.plan
    return decide(plane, plan, load, experiment.memory, experiment.functions)


def _plane(experiment: Experiment, algorithm: Algorithm, decision: Decision | None) -> Plane:
    if decision is None:
        return Nothing()
    rules = (algorithm.aggregator, algorithm.optimizer, experiment.seed)
    return opened(decision, *rules, experiment.functions)


def _store(experiment: Experiment, algorithm: Algorithm, model: Tensors) -> ClientStore:
    if experiment.resident_clients is None:
        return MemoryStore()
    handle, name = tempfile.mkstemp(prefix="shoal-clients-", suffix=".sqlite")
    os.close(handle)
    return SpillStore(Path(name), fresh(algorithm, model), experiment.resident_clients)


def _limited(experiment: Experiment) -> Coordinator[Any]:
    return until(
        experiment.algorithm.coordinator,
        commits=experiment.commits,
        seconds=experiment.seconds,
        metric=experiment.metric,
        target=experiment.target,
    )


def _tree(
    experiment: Experiment,
    relays: Relays,
    algorithm: Algorithm,
    federation: Federation,
    model: Tensors,
    evaluate: Callable[[Tensors], Metrics],
) -> Tree:
    if relays.count > len(federation.clients):
        problem = f"{relays.count} relays for {len(federation.clients)} clients"
        raise ConfigError("relays.count", problem)
    inner = replace(algorithm, coordinator=relays.coordinator, aggregator=relays.aggregator)
    nodes = {}
    for i in range(relays.count):
        name = f"relay{i:03d}"
        clients = {c: federation[c] for c in federation.clients[i :: relays.count]}
        decision = _decision(experiment, inner, model, len(clients))
        node = Node(
            relay(relays.coordinator, relays.commits),
            _plane(experiment, replace(inner, optimizer=NOTHING), decision),
            model,
            integer(experiment.seed, "relay", name),
            downlink=_downlink(experiment, inner, model, integer(experiment.seed, "relay", name)),
        )
        devices = experiment.devices
        simulator = Simulator(
            inner, clients, devices, seed=experiment.seed, begin=False,
            store=_store(experiment, inner, model),
        )  # fmt: skip
        nodes[name] = (node, simulator)
    return Tree(nodes, relays.devices, evaluate=evaluate, seed=experiment.seed)


def to_toml(experiment: Experiment) -> str:
    """The experiment as TOML text.

    Raises:
        ConfigError: if it holds a value without a name, e.g. a lambda.
    """
    return config.dumps(config.encode(experiment, Experiment))


def from_toml(text: str, source: str = "TOML") -> Experiment:
    """The experiment that TOML text stands for.

    Raises:
        ConfigError: naming the key at fault.
    """
    return _decode(config.loads(text, source))


def with_settings(experiment: Experiment, settings: list[str]) -> Experiment:
    """The experiment with `path=value` settings applied.

    Raises:
        ConfigError: naming the path of a setting that does not exist or does not fit.
    """
    if not settings:
        return experiment
    table = config.encode(experiment, Experiment, full=True)
    for setting in settings:
        config.assign(table, setting)
    return _decode(table)


def _decode(table: dict[str, Any]) -> Experiment:
    experiment: Experiment = config.decode(Experiment, table)
    return experiment
