"""A two-level tree of FedAvg over FedAvg, driven by hand: nodes, and no transport."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from shoal import exchange as ex
from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.client import work
from shoal.combinators import relay
from shoal.core import Coordinator, Examples
from shoal.messages import CommitRecord, TaskRecord
from shoal.node import Node
from shoal.planes import Local
from shoal.trainers.quadratic import Quadratic
from support import play

ALGORITHM = fedavg(trainer=Quadratic(lr=0.1, local_steps=5, start=10.0))
COUNTS = (5, 3, 2, 7, 1)
CLIENTS = {
    f"c{i}": Examples(np.full((n, 1), 1.0 + i), np.full(n, 2.0 * i - 3.0))
    for i, n in enumerate(COUNTS)
}
EDGES = {"edge0": ("c0", "c1"), "edge1": ("c2", "c3", "c4")}
Queue = list[tuple[Node, ex.Input]]


def node(coordinator: Coordinator[object], clients: tuple[str, ...]) -> Node:
    plane = Local(ALGORITHM.aggregator, ALGORITHM.optimizer)
    made = Node(coordinator, plane, ALGORITHM.trainer.initial(0))
    for client in clients:
        made.handle(ex.Join(client), 0.0)
    return made


@dataclass
class Tree:
    """A root, relays, and clients that answer at once, or fail if they are among `broken`."""

    root: Node
    edges: Mapping[str, Node]
    broken: tuple[str, ...] = ()

    def run(self, commits: int) -> list[float]:
        """The root's x after each of its commits."""
        queue: Queue = [(self.root, ex.Begin())]
        xs: list[float] = []
        while len(xs) < commits:
            at, given = queue.pop(0)
            for effect in at.handle(given, 0.0):
                if isinstance(effect, CommitRecord) and at is self.root:
                    xs.append(float(at.model["x"]))
                queue += self.consequences(at, effect)
        return xs

    def consequences(self, at: Node, effect: ex.Effect) -> Queue:
        match effect:
            case ex.Assign(task, model, _) if at is self.root:
                return [(self.edges[task.client], ex.Given(task, model))]
            case ex.Assign(task, _, _) if task.client in self.broken:
                return [(at, ex.Fail(task.id, task.client, "broken"))]
            case ex.Assign(task, model, _):
                payload, _ = work(ALGORITHM, task, model, CLIENTS[task.client], None, 0)
                return [(at, ex.Push(task.id, task.client, payload))]
            case ex.Deliver(task, payload):
                return [(self.root, ex.Push(task.id, task.client, payload))]
            case ex.Wake(timer, when):
                return [(at, ex.Tick(timer, when))]
            case ex.Revoke(task):
                return [(at, ex.Fail(task.id, task.client, "cancelled"))]
        return []


def tree(
    outer: FedAvg = FedAvg(),
    inner: FedAvg = FedAvg(),
    *,
    commits: int = 1,
    broken: tuple[str, ...] = (),
) -> Tree:
    edges = {name: node(relay(inner, commits), clients) for name, clients in EDGES.items()}
    return Tree(node(outer, tuple(EDGES)), edges, broken)


def drift(i: int) -> float:
    return 1 - (1 - 0.1 * (1.0 + i)) ** 5


def mean(clients: tuple[str, ...], x: float) -> float:
    """One round of FedAvg among some clients, in closed form."""
    numbers = [int(client[1]) for client in clients]
    steps = [COUNTS[i] * drift(i) * (2.0 * i - 3.0 - x) for i in numbers]
    return x + sum(steps) / sum(COUNTS[i] for i in numbers)


def test_a_tree_weighted_by_examples_is_flat_fedavg() -> None:
    flat = play(ALGORITHM, CLIENTS, 12).xs[1:]
    assert tree().run(12) == pytest.approx(flat, rel=1e-13)
    assert flat[0] == pytest.approx(mean(tuple(CLIENTS), 10.0))


def test_equal_weights_at_the_root_are_not_flat_fedavg() -> None:
    (x,) = tree(FedAvg(weighting="equal")).run(1)
    edges = [mean(clients, 10.0) for clients in EDGES.values()]
    assert x == pytest.approx(sum(edges) / 2, rel=1e-13)
    assert x != pytest.approx(mean(tuple(CLIENTS), 10.0), rel=1e-3)


def test_relays_may_commit_more_than_once_per_task() -> None:
    (x,) = tree(commits=3).run(1)
    total = 0.0
    for clients in EDGES.values():
        y = 10.0
        for _ in range(3):
            y = mean(clients, y)
        total += sum(COUNTS[int(client[1])] for client in clients) * (y - 10.0)
    assert x == pytest.approx(10.0 + total / sum(COUNTS), rel=1e-13)


def test_a_relay_counts_only_the_examples_that_it_aggregated() -> None:
    (x,) = tree(broken=("c1", "c3")).run(1)
    assert x == pytest.approx(mean(("c0", "c2", "c4"), 10.0), rel=1e-13)


def test_relays_over_select_and_go_on() -> None:
    grown = tree(inner=FedAvg(cohort=1, over_selection=2.0))
    assert len(grown.run(20)) == 20
    for edge in grown.edges.values():
        assert edge.held == {}
        assert edge.parent is None or len(edge.tasks) <= 2


def test_the_root_sees_relays_as_clients() -> None:
    made = tree()
    queue: Queue = [(made.root, ex.Begin())]
    ended: list[TaskRecord] = []
    while len(ended) < 2:
        at, given = queue.pop(0)
        for effect in at.handle(given, 0.0):
            if isinstance(effect, TaskRecord) and at is made.root:
                ended.append(effect)
            queue += made.consequences(at, effect)
    assert [(task.client, task.num_examples) for task in ended] == [("edge0", 8), ("edge1", 10)]
