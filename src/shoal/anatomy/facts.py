"""A small run of a method, and what passed over the wire and stayed behind in it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from math import isclose
from typing import Any

import numpy as np

from shoal import exchange as ex
from shoal.aggregators.buffers import Tops
from shoal.anatomy.specimens import NAMES, SECONDS, Specimen
from shoal.combinators import until
from shoal.encoded import Encoded
from shoal.members import Members
from shoal.messages import CommitRecord, Payload, TaskRecord
from shoal.node import Node
from shoal.planes import Local
from shoal.simulation import Devices
from shoal.sums import WeightedSum
from shoal.tensors import Tensors
from shoal.transports import Simulator

COMMITS = 8
MODEL = "model"
Sizes = Mapping[str, float]  # by group, in models


@dataclass(frozen=True)
class Facts:
    """What a run showed.

    Attributes:
        down, up: bytes by group, in multiples of the model's; "model" is the trainable
            values, whatever form they are sent in.
        form: of the trainable values on their way up.
        kind: "delta" or "model".
        tasks: kinds of tasks, e.g. "train".
        settings: what tasks say beside the model, e.g. "steps".
        tells: metrics that come with updates.
        client: values kept by a client between tasks, in multiples of the model's.
        server: likewise by the server between commits, beside the model.
        each: of that, for each client that ever took part.
        set: whether all updates of a commit are kept until it.
        staleness: the largest of an update that counted.
        updates: the most in a commit.
        weights: "equal", "examples", "by client" or "vary".
    """

    down: Sizes
    up: Sizes
    form: str
    kind: str
    tasks: tuple[str, ...]
    settings: tuple[str, ...]
    tells: tuple[str, ...]
    client: float
    server: float
    each: float
    set: bool
    staleness: int
    updates: int
    weights: str


@dataclass
class _Seen:
    """What passes while a run goes on."""

    down: dict[str, int] = field(default_factory=dict)
    up: dict[str, int] = field(default_factory=dict)
    form: str = "values"
    kind: str = "delta"
    tasks: set[str] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)
    tells: set[str] = field(default_factory=set)
    records: list[TaskRecord] = field(default_factory=list)
    commits: list[CommitRecord] = field(default_factory=list)

    def sent(self, payload: Payload) -> None:
        """A client's answer."""
        self.tells |= set(payload.metrics)
        if not payload.tensors.layout.size:
            return
        _larger(self.up, payload.tensors)
        self.kind = payload.kind
        if isinstance(payload.tensors.flat, Encoded):
            self.form = type(payload.tensors.flat).__name__

    def done(self, effect: Any) -> None:
        """Something that the node did."""
        if isinstance(effect, ex.Assign):
            _larger(self.down, effect.model.with_group("private/", None))
            self.tasks.add(effect.task.kind)
            self.settings |= set(effect.task.config)
        elif isinstance(effect, TaskRecord) and effect.outcome == "aggregated":
            self.records.append(effect)
        elif isinstance(effect, CommitRecord):
            self.commits.append(effect)


def facts(found: Specimen, commits: int = COMMITS) -> Facts:
    """Run a specimen on six clients of unequal data and speed, and watch."""
    algorithm = found.algorithm
    model = algorithm.trainer.initial(0)
    plane = Local(algorithm.aggregator, algorithm.optimizer)
    node = Node(until(algorithm.coordinator, commits=commits), plane, model)
    simulator, seen = Simulator(algorithm, found.clients, Devices(speeds=SECONDS)), _Seen()
    while not node.done:
        given, now = simulator.receive()
        if isinstance(given, ex.Push):
            seen.sent(given.payload)
        for effect in node.handle(given, now):
            seen.done(effect)
            simulator.perform(effect)
    return _told(seen, plane, simulator, model)


def _told(seen: _Seen, plane: Local, simulator: Simulator, model: Tensors) -> Facts:
    snapshot, whole, size = plane.snapshot(), model.flat.nbytes, model.layout.size
    kept = [part for part in snapshot.accumulator.parts if not isinstance(part, Emptied)]
    server = list(leaves((kept, snapshot.optimizer)))
    states = [_values(leaves(state)) for _, state in simulator.store.items()]
    return Facts(
        {name: nbytes / whole for name, nbytes in seen.down.items()},
        {name: nbytes / whole for name, nbytes in seen.up.items()},
        seen.form, seen.kind, tuple(sorted(seen.tasks)), tuple(sorted(seen.settings)),
        tuple(sorted(seen.tells)), max(states, default=0) / size,
        _values(found for found in server if not found[1]) / size,
        _values(found for found in server if found[1]) / size / len(NAMES),
        any(isinstance(part, Members) for part in snapshot.accumulator.parts),
        max((record.staleness for record in seen.records), default=0),
        max((record.updates for record in seen.commits), default=0),
        weighting(seen.records),
    )  # fmt: skip


Emptied = WeightedSum | Members | Tops  # accumulators that remember nothing after a commit


def leaves(value: Any, mine: bool = False) -> Iterator[tuple[Any, bool]]:
    """Arrays and tensors in a state, and whether each is one client's."""
    if isinstance(value, np.ndarray | Tensors | Encoded):
        yield value, mine
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, mine or name in NAMES)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item, mine)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            if each.name != "like":  # names and shapes, without values
                yield from leaves(getattr(value, each.name), mine)


def weighting(records: list[TaskRecord]) -> str:
    """What the weights of updates go by."""
    by_client: dict[str, list[float]] = {}
    for record in records:
        by_client.setdefault(record.client, []).append(record.weight)
    weights = [record.weight for record in records]
    if _same(weights):
        return "equal"
    if _same([record.weight / record.num_examples for record in records]):
        return "examples"
    return "by client" if all(map(_same, by_client.values())) else "vary"


def _same(values: list[float]) -> bool:
    return all(isclose(value, values[0], rel_tol=1e-9) for value in values)


def _values(found: Iterable[tuple[Any, bool]]) -> int:
    """How many values are kept; what is zero throughout remembers nothing."""
    dense = (leaf.dense if isinstance(leaf, Tensors) else leaf for leaf, _ in found)
    arrays = (leaf.dense() if isinstance(leaf, Encoded) else leaf for leaf in dense)
    return sum(array.size for array in arrays if array.any())


def _larger(sizes: dict[str, int], tensors: Tensors) -> None:
    """Note the sizes of groups, where they are larger than those seen before."""
    parts = {MODEL: tensors.flat, **{name: g.flat for name, g in tensors.groups.items()}}
    for name, leaf in parts.items():
        sizes[name] = max(sizes.get(name, 0), int(leaf.nbytes))
