from itertools import islice
from typing import Any

import numpy as np
import pytest
from compass_support import clients, folded, next_arrival, round_trip, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.algorithms.compass_groups import CompassState
from shoal.algorithms.fedcompass import FedCompass, fedcompass
from shoal.core import Algorithm
from shoal.messages import (
    ClientRecord,
    TaskRecord,
)
from shoal.node import Node
from shoal.simulation import Constant, Devices, Exponential, LogNormal, OnOff, Uniform
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic

# O-C3: invariants


def check(node: Node, low: int, high: int) -> None:
    """What holds after every event."""
    state: CompassState = node.state
    busy = {task.client for task in node.tasks.values()}
    pending = [c for group in state.groups.values() for c in group.pending]
    waiting = [c for group in state.groups.values() for c in group.waiting]
    assert len(set(pending)) == len(pending)
    assert set(pending) <= busy
    assert sorted(waiting) == [c for c in node.clients if c not in busy]
    assert all(group.pending for group in state.groups.values())
    assert all(group.open or not group.updates for group in state.groups.values())
    assert all(f"timer group {n}" in node.timers for n in state.groups)
    assert busy or not node.clients
    assert all(low <= task.config["steps"] <= high for task in node.tasks.values())
    assert round_trip(state) == state


NAMES = [f"c{i}" for i in range(5)]
EVENTS = st.one_of(
    st.tuples(st.just("arrive"), st.floats(0.5, 2.0), st.floats(0, 1)),
    st.tuples(st.just("arrive"), st.just(1.0), st.just(1.0)),
    st.tuples(st.sampled_from(["fail", "switch"]), st.floats(0.0, 1.0), st.integers(0, 4)),
)


@settings(max_examples=100, deadline=None)
@given(
    speeds=st.lists(st.floats(0.05, 20.0), min_size=5, max_size=5),
    present=st.integers(0, 5),
    low=st.integers(1, 30),
    ratio=st.sampled_from([1, 2, 5]),
    lateness=st.sampled_from([1.0, 1.2, 3.0]),
    grace=st.sampled_from([0.0, 0.5, 5.0]),
    events=st.lists(EVENTS, min_size=30, max_size=90),
)
def test_whatever_clients_do(
    speeds: list[float],
    present: int,
    low: int,
    ratio: int,
    lateness: float,
    grace: float,
    events: list[Any],
) -> None:
    high = low * ratio
    script = Script(
        FedCompass(low, high, latest_time_factor=lateness, grace=grace, normalize=ratio == 2)
    )
    node, speed_of = script.node, dict(zip(NAMES, speeds, strict=True))
    script.join(*NAMES[:present]).start()
    sent: list[int] = []
    applied = folded(script.wait(0))
    for kind, how, what in events:
        if kind == "switch":
            applied += folded(script.wait(how * 50))
            client = NAMES[what]
            leaves = client in node.clients
            applied += folded(script.leave(client) if leaves else script.arrive(client))
        elif node.tasks:
            tasks = sorted(
                node.tasks.values(),
                key=lambda t: t.dispatched_at + t.config["steps"] * speed_of[t.client],
            )
            task = tasks[0] if kind == "arrive" else tasks[what % len(tasks)]
            due = task.dispatched_at + how * task.config["steps"] * speed_of[task.client]
            applied += folded(script.wait(max(due - node.now, 0)))
            if kind == "arrive":
                sent.append(task.id)
                done = round(what * task.config["steps"])
                applied += folded(script.update(task.client, steps=done))
            else:
                applied += folded(script.fail(task.client))
        check(node, low, high)
    for client in list(node.clients):
        applied += folded(script.leave(client))
        check(node, low, high)
    assert sorted(applied) == sorted(sent)
    assert not node.held and not script.state.groups and not script.state.late


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("low", "high"), [(20, 100), (10, 10), (5, 40)])
def test_unreliable_devices(seed: int, low: int, high: int) -> None:
    algorithm = fedcompass(
        trainer=Quadratic(lr=0.001, start=1.0), min_steps=low, max_steps=high, grace=1.0
    )
    devices = Devices(
        LogNormal(1.0, 0.8),
        availability=OnOff(Exponential(400.0), Exponential(100.0), start_online=0.7),
        dropout=0.1,
        jitter=0.4,
        up=Constant(4.0),
    )
    seen: set[int] = set()
    left: set[str] = set()
    for node, step in islice(simulate(algorithm, clients(7), devices, seed), 600):
        if node.started:
            check(node, low, high)
        ended = [r.task for r in step.effects if isinstance(r, TaskRecord)]
        assert not seen & set(ended)
        seen |= set(ended)
        left |= {r.client for r in step.effects if isinstance(r, ClientRecord)}
        assert not any(isinstance(r, TaskRecord) and r.outcome == "discarded" for r in step.effects)
    assert node.version > 40 and len(left) == 7


@given(
    fast=st.floats(0.01, 10.0),
    ratios=st.lists(st.floats(1.0, 8.0), min_size=1, max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_equal_bounds_leave_no_choice_of_steps(fast: float, ratios: list[float]) -> None:
    speeds = {f"c{i}": fast * ratio for i, ratio in enumerate([1.0, *ratios])}
    algorithm = fedcompass(trainer=Quadratic(lr=0.001, start=1.0), min_steps=30, max_steps=30)
    for _, step in islice(simulate(algorithm, clients(len(speeds)), Devices(speeds=speeds)), 60):
        assert {task.config["steps"] for task in step.tasks} <= {30}


# O-C4: lateness


def late_share(algorithm: Algorithm, n: int, devices: Devices, seed: int, events: int) -> float:
    late = updates = 0
    for _, step in islice(simulate(algorithm, clients(n), devices, seed), events):
        new = {u.id for u in step.after.late} - {u.id for u in step.before.late}
        late += len(new)
        updates += sum(r.outcome == "aggregated" for r in step.applied)
    return late / updates


@settings(max_examples=25, deadline=None)
@given(speeds=st.lists(st.floats(0.001, 50.0), min_size=2, max_size=6), scale=st.floats(1e-3, 1e3))
def test_exact_speeds_are_never_late(speeds: list[float], scale: float) -> None:
    algorithm = fedcompass(trainer=Quadratic(lr=0.001, start=1.0), latest_time_factor=1.0)
    devices = Devices(speeds={f"c{i}": scale * s for i, s in enumerate(speeds)})
    for _, step in islice(simulate(algorithm, clients(len(speeds)), devices), 100):
        assert not step.after.late
        assert all(group.open for group in step.after.groups.values())


def test_exact_speeds_are_never_late_on_a_clock_that_reads_billions() -> None:
    """Where 1e9 s are past, the clock's rounding is far more than a billionth of a step."""
    speeds = {f"c{i}": 1e-4 * (1 + i / 7) for i in range(5)}
    script = Script(FedCompass(latest_time_factor=1.0))
    script.node.now = 1.7e9
    script.join(*speeds).start()
    for _ in range(200):
        task = next_arrival(script, speeds)
        script.update(task.client, steps=task.config["steps"])
        assert not script.state.late


def test_more_patience_means_fewer_late_updates() -> None:
    devices = Devices(Uniform(1.0, 4.0), jitter=0.3)
    shares = []
    for factor in (1.0, 1.2, 1.5, 2.0, 4.0):
        algorithm = fedcompass(trainer=Quadratic(lr=0.001, start=1.0), latest_time_factor=factor)
        shares.append(np.mean([late_share(algorithm, 6, devices, seed, 400) for seed in range(3)]))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.2 and shares[-1] < 0.01
