"""What every algorithm must keep, whatever it does: a new one joins by a row in the dictionary."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laws.examples import ALGORITHM_EXAMPLES
from shoal import exchange as ex
from shoal import snapshot
from shoal.algorithms import ALGORITHMS
from shoal.combinators import evaluate_every, until
from shoal.core import Algorithm, Examples
from shoal.messages import TaskRecord
from shoal.node import Node
from shoal.plain import Store
from shoal.planes import Local
from shoal.simulation import Devices, Exponential, Uniform
from shoal.tensors import equal
from shoal.transports import Simulator
from shoal.transports.simulator import Switch

CLIENTS = {
    f"c{i}": Examples(np.full((n, 1), a), np.full(n, b))
    for i, (a, b, n) in enumerate(
        [(1.0, 0.0, 5), (2.0, 1.0, 3), (4.0, 3.0, 2), (1.5, -1.0, 4), (3.0, 2.0, 1), (0.5, 5.0, 6)]
    )
}
ROUGH = Devices(
    speed=Exponential(2.0), up=Uniform(50.0, 500.0), down=Uniform(100.0, 900.0), jitter=0.3,
    dropout=0.05,
)  # fmt: skip
COMMITS = 12
names = pytest.mark.parametrize("name", sorted(ALGORITHMS))


def made(algorithm: Algorithm, seed: int = 0) -> tuple[Node, Simulator]:
    coordinator = evaluate_every(until(algorithm.coordinator, commits=COMMITS), 4)
    plane = Local(algorithm.aggregator, algorithm.optimizer, seed)
    node = Node(coordinator, plane, algorithm.trainer.initial(seed), seed)
    return node, Simulator(algorithm, CLIENTS, ROUGH, seed=seed)


def advance(node: Node, simulator: Simulator, events: int | None = None) -> list[Any]:
    """Run to the end, or for some events; all effects."""
    effects: list[Any] = []
    while not node.done and events != 0:
        given, now = simulator.receive()
        for effect in node.handle(given, now):
            simulator.perform(effect)
            effects.append(effect)
        events = None if events is None else events - 1
    return effects


def records(effects: list[Any]) -> list[Any]:
    return [e for e in effects if type(e).__name__.endswith("Record")]


def test_every_algorithm_has_an_example() -> None:
    assert set(ALGORITHM_EXAMPLES) == set(ALGORITHMS)


@names
def test_it_never_leaks_stalls_or_books_twice_and_ends(name: str) -> None:
    node, simulator = made(ALGORITHM_EXAMPLES[name]())
    effects = advance(node, simulator)
    assert node.version == COMMITS
    dispatched = [e.task.id for e in effects if isinstance(e, ex.Assign)]
    ended = [e.task for e in effects if isinstance(e, TaskRecord)]
    assert sorted(ended) == sorted(dispatched) == list(range(len(dispatched)))


@names
def test_same_seed_same_bits(name: str) -> None:
    one, two = (made(ALGORITHM_EXAMPLES[name](), seed=3) for _ in range(2))
    assert records(advance(*one)) == records(advance(*two))
    assert equal(one[0].model, two[0].model)


@names
def test_another_seed_is_another_run(name: str) -> None:
    one, two = (made(ALGORITHM_EXAMPLES[name](), seed=s) for s in (3, 4))
    assert records(advance(*one)) != records(advance(*two))


@names
def test_resume_at_every_event_equals_no_interruption(name: str) -> None:
    whole, simulator = made(ALGORITHM_EXAMPLES[name]())
    expected = records(advance(whole, simulator))
    events = 0
    while True:
        node, world = made(ALGORITHM_EXAMPLES[name]())
        before = records(advance(node, world, events))
        if node.done:
            break
        store: Store = {}
        text = json.dumps(
            {"node": snapshot.save(node, store, "node"), "world": world.snapshot(store, "world")}
        )
        saved = json.loads(text)
        node, world = made(ALGORITHM_EXAMPLES[name]())
        snapshot.restore(node, saved["node"], store)
        world.restore(saved["world"], store, node)
        after = records(advance(node, world))
        assert before + after == expected, f"resumed after event {events}"
        assert equal(node.model, whole.model), f"resumed after event {events}"
        events += 1
    assert events > COMMITS


@names
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_it_survives_clients_leaving_and_coming_back_at_any_event(
    name: str, data: st.DataObject
) -> None:
    churn: dict[int, list[Switch]] = {}
    for client in sorted(CLIENTS)[1:]:
        if data.draw(st.booleans(), label=f"{client} leaves"):
            gone = data.draw(st.integers(1, 40), label=f"{client} leaves at event")
            back = gone + data.draw(st.integers(1, 30), label=f"{client} is away for")
            churn.setdefault(gone, []).append(Switch(client, 0, False))
            churn.setdefault(back, []).append(Switch(client, 1, True))
    node, simulator = made(ALGORITHM_EXAMPLES[name]())
    for event in range(3000):
        if node.done:
            break
        for switch in churn.pop(event, ()):
            simulator.inject(simulator.now, switch)
        given_input, now = simulator.receive()
        if isinstance(given_input, ex.Quiet) and churn:
            # It waits for clients, and those that are away come back later: bring that on.
            churn[event + 1] = churn.pop(min(churn))
            continue
        for effect in node.handle(given_input, now):
            simulator.perform(effect)
    assert node.done
    assert node.version == COMMITS
