"""What the tests of FedCompass share: a run of a real node, step by step, and scripts."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from shoal import exchange as ex
from shoal import plain
from shoal.algorithms.compass_groups import CompassState
from shoal.algorithms.fedcompass import FedCompass
from shoal.core import Algorithm, Examples
from shoal.messages import (
    Aggregate,
    CommitRecord,
    Dispatch,
    Task,
    TaskRecord,
)
from shoal.node import Node
from shoal.planes import Local
from shoal.simulation import Devices
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from shoal.transports import Simulator, steps

TRAINER = Quadratic(lr=0.01, start=10.0)
Applied = list[tuple[str, int]]
Assigned = list[tuple[str, int, int]]


def clients(n: int, examples: int = 1) -> dict[str, Examples]:
    """n quadratic clients, all different."""
    return {
        f"c{i}": Examples(np.full((examples, 1), 1.0 + i), np.full(examples, float(i)))
        for i in range(n)
    }


@dataclass
class Step:
    """One input of a run: what the coordinator knew before and after, and what came of it."""

    time: float
    before: CompassState
    after: CompassState
    version: int
    effects: list[ex.Effect] = field(repr=False)

    @property
    def applied(self) -> list[TaskRecord]:
        ends = [e for e in self.effects if isinstance(e, TaskRecord)]
        return [e for e in ends if e.outcome == "aggregated"]

    @property
    def tasks(self) -> list[Any]:
        return [e.task for e in self.effects if isinstance(e, ex.Assign)]

    @property
    def committed(self) -> bool:
        return any(isinstance(e, CommitRecord) for e in self.effects)

    def row(self) -> tuple[float, str, Applied, Assigned, int]:
        """The step as a row of the golden trace."""
        applied = [(r.client, r.staleness) for r in self.applied]
        firsts = [client for client, _ in applied if client not in self.before.speeds]
        closed = [n for n in self.before.groups if n not in self.after.groups]
        event = f"first {firsts[0]}" if firsts else f"G{closed[0]}"
        new = [(t.client, t.config["steps"], self.after.group_of(t.client)) for t in self.tasks]
        return self.time, event, applied, new, self.version


def simulate(
    algorithm: Algorithm, data: Mapping[str, Examples], devices: Devices, seed: int = 0
) -> Iterator[tuple[Node, Step]]:
    """Every step of a real run in virtual time, without end."""
    plane = Local(algorithm.aggregator, algorithm.optimizer, seed)
    node = Node(algorithm.coordinator, plane, algorithm.trainer.initial(seed), seed)
    before = node.state
    for effects in steps(node, Simulator(algorithm, data, devices, seed=seed)):
        yield node, Step(node.now, before, node.state, node.version, effects)
        before = node.state


def commits(run: Iterator[tuple[Node, Step]], n: int) -> list[Step]:
    """The first n steps that commit."""
    return list(islice((step for _, step in run if step.committed), n))


def join(script: Script, **speeds: float) -> None:
    """Start clients of known speeds and let each arrive for the first time, slowest last."""
    script.join(*speeds)
    script.start()
    for client, speed in sorted(speeds.items(), key=lambda item: item[1]):
        task = script.task(client)
        script.wait(task.dispatched_at + task.config["steps"] * speed - script.node.now)
        script.update(client, steps=task.config["steps"])


def next_arrival(script: Script, speeds: Mapping[str, float]) -> Task:
    """Wait until the next task is done; the first to be dispatched of several."""
    tasks = script.node.tasks.values()
    ends = [(t.dispatched_at + t.config["steps"] * speeds[t.client], t.id, t) for t in tasks]
    at, _, task = min(ends)
    script.wait(at - script.node.now)
    script.node.now = at  # without the rounding of the difference
    return task


def dispatched(actions: list[Any]) -> list[tuple[str, Any]]:
    return [(a.client, a.config["steps"]) for a in actions if isinstance(a, Dispatch)]


def folded(actions: list[Any]) -> list[int]:
    return [a.update for a in actions if isinstance(a, Aggregate)]


def round_trip(state: CompassState) -> CompassState:
    data = json.loads(json.dumps(plain.encode(state)))
    return plain.decode(CompassState, data)  # type: ignore[no-any-return]


def late_then_on_time() -> tuple[Script, int]:
    """a is late for G0 at 230 and then works for G1 with b; and a's late update."""
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    assert script.update("b", steps=100) == []  # waits for a
    actions = script.wait(21)  # 220 has passed: b's group goes without a
    assert len(folded(actions)) == 1
    assert dispatched(actions) == [("b", 100)]
    assert not script.state.groups[0].open
    script.wait(9)
    late = script.task("a").id
    version = script.node.version
    actions = script.update("a", steps=100)
    assert script.node.version == version  # the model is left alone
    assert folded(actions) == []
    assert [update.id for update in script.state.late] == [late]
    assert dispatched(actions) == [("a", 70)]  # to be there at 320: 90 s at 1.27 s per step
    assert 0 not in script.state.groups
    return script, late
