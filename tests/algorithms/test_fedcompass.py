import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal import exchange as ex
from shoal import plain
from shoal.algorithms.compass_groups import Bounds, CompassState, Group
from shoal.algorithms.fedcompass import FedCompass, fedcompass
from shoal.core import Algorithm, Examples
from shoal.errors import ConfigError
from shoal.messages import (
    Aggregate,
    ClientRecord,
    Commit,
    CommitRecord,
    Dispatch,
    Task,
    TaskRecord,
    Timer,
    Update,
)
from shoal.node import Node
from shoal.planes import Local
from shoal.simulation import Constant, Devices, Exponential, LogNormal, OnOff, Uniform
from shoal.staleness import Constant as Undamped
from shoal.staleness import Hinge
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from shoal.transforms import Momentum
from shoal.transports import Simulator, steps

TRAINER = Quadratic(lr=0.01, start=10.0)
Applied = list[tuple[str, int]]
Assigned = list[tuple[str, int, int]]

GOLDEN_SPEEDS = {"c0": 1.0, "c1": 1.25, "c2": 2.0, "c3": 4.0, "c4": 5.0}
# time, event, staleness of what is applied, new (client, steps, group), version after
GOLDEN: list[tuple[float, str, Applied, Assigned, int]] = [
    (100, "first c0", [("c0", 0)], [("c0", 100, 0)], 1),
    (125, "first c1", [("c1", 1)], [("c1", 60, 0)], 2),
    (200, "first c2", [("c2", 2)], [("c2", 60, 1)], 3),
    (200, "G0", [("c0", 2), ("c1", 1)], [("c0", 100, 2), ("c1", 96, 1)], 4),
    (300, "G2", [("c0", 0)], [("c0", 20, 1)], 5),
    (320, "G1", [("c2", 2), ("c1", 1), ("c0", 0)],
     [("c0", 100, 3), ("c1", 80, 3), ("c2", 50, 3)], 6),
    (400, "first c3", [("c3", 6)], [("c3", 35, 4)], 7),
    (420, "G3", [("c0", 1), ("c1", 1), ("c2", 1)],
     [("c0", 100, 5), ("c1", 96, 4), ("c2", 60, 4)], 8),
    (500, "first c4", [("c4", 8)], [("c4", 38, 6)], 9),
    (520, "G5", [("c0", 1)], [("c0", 20, 4)], 10),
    (540, "G4", [("c3", 3), ("c1", 2), ("c2", 2), ("c0", 0)],
     [("c0", 100, 7), ("c1", 80, 7), ("c2", 75, 6), ("c3", 37, 6)], 11),
    (640, "G7", [("c0", 0), ("c1", 0)], [("c0", 50, 6), ("c1", 40, 6)], 12),
    (690, "G6", [("c3", 1), ("c4", 3), ("c2", 1), ("c0", 0), ("c1", 0)],
     [("c0", 100, 8), ("c1", 80, 8), ("c2", 50, 8), ("c3", 25, 8), ("c4", 20, 8)], 13),
]  # fmt: skip
# From then on one group of all five, 100 s each.
STEADY = [("c0", 100), ("c1", 80), ("c2", 50), ("c3", 25), ("c4", 20)]


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


# O-C2: the golden trace


def test_golden_trace_in_the_simulator() -> None:
    algorithm = fedcompass(trainer=TRAINER, min_steps=20, max_steps=100, latest_time_factor=1.2)
    run = simulate(algorithm, clients(5), Devices(speeds=GOLDEN_SPEEDS))
    found = commits(run, len(GOLDEN) + 10)
    assert [step.row() for step in found[: len(GOLDEN)]] == GOLDEN
    for i, step in enumerate(found[len(GOLDEN) :]):
        time, event, applied, new, version = step.row()
        assert (time, event, version) == (790 + 100 * i, f"G{8 + i}", 14 + i)
        assert applied == [(client, 0) for client, _ in STEADY]
        assert new == [(client, n, 9 + i) for client, n in STEADY]


def test_golden_trace_as_a_script() -> None:
    """Without trainer, devices and simulator: arrivals in order of time, then of dispatch."""
    script = Script(FedCompass()).join(*GOLDEN_SPEEDS)
    script.start()
    rows = []
    while len(rows) < len(GOLDEN):
        task = next_arrival(script, GOLDEN_SPEEDS)
        state, staleness = script.state, {}
        for update in [*script.node.held.values()]:
            staleness[update.update.id] = (update.update.client, update.update.version)
        staleness[task.id] = (task.client, task.version)
        version = script.node.version
        actions = script.update(task.client, steps=task.config["steps"])
        if Commit() not in actions:
            continue
        applied = [(staleness[u][0], version - staleness[u][1]) for u in folded(actions)]
        new = [(c, n, script.state.group_of(c)) for c, n in dispatched(actions)]
        group = state.group_of(task.client)
        event = f"first {task.client}" if group < 0 else f"G{group}"
        rows.append((script.node.now, event, applied, new, script.node.version))
    assert rows == GOLDEN


# O-C1: equal speeds


@pytest.mark.parametrize("speed", [0.1, 0.3, 1 / 3, 0.7, 1.0, 1e-3, 12.345])
def test_equal_speeds_are_fedavg_from_the_second_group_on(speed: float) -> None:
    m, alpha, lr = 4, 0.5, 0.003
    algorithm = fedcompass(trainer=Quadratic(lr=lr, start=10.0), alpha=alpha, staleness=Hinge())
    xs, groups = [], []
    for node, step in simulate(algorithm, clients(m), Devices(Constant(speed))):
        if step.committed:
            xs.append(float(node.model["x"]))
            groups.append([record.staleness for record in step.applied])
            assert {task.config["steps"] for task in step.tasks} == {100}
            assert len(step.after.groups) == 1
        if len(xs) == 30:
            break
    assert groups[:m] == [[i] for i in range(m)]
    assert groups[m] == [*reversed(range(m))]
    assert groups[m + 1 :] == [[0] * m] * (30 - m - 1)
    a, b = 1.0 + np.arange(m), np.arange(m)
    moved = 1 - (1 - lr * a) ** 100
    for x, following in zip(xs[m:], xs[m + 1 :], strict=False):
        assert following == pytest.approx(x + alpha * float(np.mean(moved * (b - x))), rel=1e-12)


def test_first_arrivals_and_their_groups_weigh_as_the_formula_says() -> None:
    """x <- x + alpha s(tau) delta / m for each first arrival, by hand."""
    m, alpha, lr, x = 3, 0.8, 0.002, 10.0
    algorithm = fedcompass(trainer=Quadratic(lr=lr, start=x), alpha=alpha)
    run = simulate(algorithm, clients(m), Devices(speeds={"c0": 1.0, "c1": 1.1, "c2": 1.2}))
    current = x
    xs = [float(n.model["x"]) for n, step in islice(run, 40) if step.committed]
    for i in range(m):
        moved = 1 - (1 - lr * (1 + i)) ** 100
        current += alpha * (1 + i) ** -0.5 * moved * (i - x) / m
        assert xs[i] == pytest.approx(current, rel=1e-12)


def test_momentum_is_fedcompass_m() -> None:
    m, alpha, lr, beta = 3, 0.5, 0.001, 0.8
    algorithm = fedcompass(
        trainer=Quadratic(lr=lr, start=10.0), alpha=alpha, optimizer=Momentum(beta)
    )
    xs = []
    for node, step in simulate(algorithm, clients(m), Devices()):
        if step.committed:
            xs.append(float(node.model["x"]))
        if len(xs) == 20:
            break
    a, b = 1.0 + np.arange(m), np.arange(m)
    moved = 1 - (1 - lr * a) ** 100
    for old, x, following in zip(xs[m:], xs[m + 1 :], xs[m + 2 :], strict=False):
        plain_step = alpha * float(np.mean(moved * (b - x)))
        assert following == pytest.approx(x + beta * (x - old) + plain_step, rel=1e-10)


def test_normalized_is_fedcompass_n() -> None:
    """Each delta per step, times the mean steps: weights in the inverse ratio of the steps."""
    script = Script(FedCompass(normalize=True, alpha=0.6, staleness=Undamped()))
    join(script, a=1.0, b=2.0)  # at 100 and 200; a waits in no group but works for G0
    a, b = script.task("a"), script.task("b")
    assert (a.config["steps"], b.config["steps"]) == (100, 60)
    script.update("a", steps=100)  # G0 is a alone
    actions = []
    while len(folded(actions)) < 2:
        task = next_arrival(script, {"a": 1.0, "b": 2.0})
        done = {t.id: t.config["steps"] for t in script.node.tasks.values()}
        done |= {h.update.id: h.update.steps for h in script.node.held.values()}
        actions = script.update(task.client, steps=task.config["steps"])
    weights = {act.update: act.weight for act in actions if isinstance(act, Aggregate)}
    taken = [done[u] for u in weights]
    assert len(set(taken)) == 2
    mean = sum(taken) / 2
    assert list(weights.values()) == pytest.approx([0.6 / 2 * mean / n for n in taken])
    assert sum(w * n for w, n in zip(weights.values(), taken, strict=True)) == pytest.approx(
        0.6 * mean
    )


def test_weights_by_examples() -> None:
    script = Script(FedCompass(weights="examples", alpha=0.5, staleness=Undamped()))
    script.join("a", "b", "c")
    script.start()
    script.wait(100)
    # Nobody else is known: the others count as much as it does.
    assert Aggregate(0, 0.5 / 3) in script.update("a", num_examples=30, steps=100)
    # Two of three are known, 30 and 10 examples: the third counts as 20.
    assert Aggregate(1, pytest.approx(0.5 * 10 / 60)) in script.update(
        "b", num_examples=10, steps=100
    )
    assert Aggregate(2, pytest.approx(0.5 * 60 / 100)) in script.update(
        "c", num_examples=60, steps=100
    )
    script.wait(100)
    script.update("a", num_examples=30, steps=100)
    script.update("b", num_examples=10, steps=100)
    together = script.update("c", num_examples=60, steps=100)
    weights = [act.weight for act in together if isinstance(act, Aggregate)]
    assert weights == pytest.approx([0.15, 0.05, 0.3])


def test_m_counts_who_is_present_or_contributes() -> None:
    script = Script(FedCompass(alpha=0.5, staleness=Undamped()))
    join(script, a=1.0, b=1.0, c=1.0)
    script.wait(100)
    script.update("a", steps=100)
    script.leave("a")
    script.leave("b")
    script.arrive("d")
    actions = script.update("c", steps=100)
    weights = [act.weight for act in actions if isinstance(act, Aggregate)]
    assert weights == pytest.approx([0.5 / 3] * 2)  # c and d are there, and a's update is in it


# Late arrivals, leaves, failures


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


def test_a_late_and_an_on_time_update_of_one_client_both_count() -> None:
    script, late = late_then_on_time()
    script.wait(88)
    on_time = script.task("a").id
    script.update("a", steps=70)
    assert script.node.held.keys() == {late, on_time}
    script.wait(2)
    b = script.task("b").id
    actions = script.update("b", steps=100)
    assert folded(actions) == [late, on_time, b]
    assert actions.count(Commit()) == 1
    assert not script.node.held
    weights = {act.update: act.weight for act in actions if isinstance(act, Aggregate)}
    # The late one has seen three commits fewer: b's first, G0 ... its staleness is asked now.
    assert weights[late] == pytest.approx(0.9 * (1 + 2) ** -0.5 / 2)
    assert weights[on_time] == weights[b] == pytest.approx(0.9 / 2)


def test_late_updates_are_committed_when_no_group_is_left_to_do_it() -> None:
    script, late = late_then_on_time()
    assert folded(script.leave("b")) == []  # a is still at work and will bring it in
    actions = script.leave("a")
    assert folded(actions) == [late]
    assert Commit() in actions
    assert not script.node.held and not script.state.groups


def test_a_group_goes_at_once_when_its_last_pending_client_leaves() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0, c=1.0)
    script.wait(100)
    a, b = script.task("a").id, script.task("b").id
    script.update("a", steps=100)
    script.update("b", steps=100)
    actions = script.leave("c")
    assert folded(actions) == [a, b]
    assert [client for client, _ in dispatched(actions)] == ["a", "b"]
    assert script.state.groups.keys() == {1}


def test_a_failing_client_gets_a_task_after_its_group_has_gone() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    script.update("a", steps=100)
    version = script.node.version
    actions = script.fail("b")
    assert [client for client, _ in dispatched(actions)] == ["a", "b"]
    assert script.task("b").version == version + 1
    assert script.state.groups[1].pending == ("a", "b")


def test_a_client_that_leaves_while_it_waits_gives_its_update_and_gets_no_task() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    a = script.task("a").id
    script.update("a", steps=100)
    assert script.leave("a") == []
    b = script.task("b").id
    actions = script.update("b", steps=100)
    assert folded(actions) == [a, b]
    assert [client for client, _ in dispatched(actions)] == ["b"]


def test_a_client_that_comes_back_while_its_group_is_out_works_at_once() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    script.update("a", steps=100)
    script.leave("a")
    actions = script.arrive("a")
    assert dispatched(actions) == [("a", 100)]  # its speed is known: a new group, not a first
    assert script.state.group_of("a") == 1
    actions = script.update("b", steps=100)
    assert [client for client, _ in dispatched(actions)] == ["b"]


def test_everyone_leaves_and_comes_back() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=2.0)
    script.leave("a")
    script.leave("b")
    assert not script.state.groups and not script.node.held and not script.node.timers
    assert [client for client, _ in dispatched(script.arrive("b"))] == ["b"]


def test_starting_with_nobody_waits_for_joins() -> None:
    script = Script(FedCompass(max_steps=50))
    assert script.start() == []
    assert dispatched(script.arrive("a")) == [("a", 50)]


def test_a_group_without_arrivals_stays_until_the_grace_is_over() -> None:
    script = Script(FedCompass(grace=2.0))
    join(script, a=1.0)
    assert script.wait(119) == []
    assert script.wait(2) == [Timer("group 0", pytest.approx(220 + 2 * 100))]
    assert script.state.groups[0].pending == ("a",) and not script.state.groups[0].open
    script.wait(201)
    assert not script.state.groups  # lost
    late = script.task("a").id
    assert script.node.tasks  # but still out: it may yet come
    actions = script.update("a", steps=100)
    assert folded(actions) == []
    assert [update.id for update in script.state.late] == [late]
    assert [client for client, _ in dispatched(actions)] == ["a"]
    following = script.task("a")
    script.wait(following.config["steps"] * script.state.speeds["a"])
    assert folded(script.update("a", steps=following.config["steps"])) == [late, following.id]


def test_losing_the_last_client_commits_what_was_late() -> None:
    script, late = late_then_on_time()
    script.leave("b")
    committed = [folded(script.wait(1)) for _ in range(1200)]
    assert [ids for ids in committed if ids] == [[late]]


def test_an_arrival_before_an_overdue_timer_is_late() -> None:
    """On a real clock a timer may come after the update that it should have come before."""
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    b = script.task("b").id
    script.update("b", steps=100)
    script.node.now += 50
    a = script.task("a").id
    actions = script.update("a", steps=100)
    assert folded(actions) == [a, b]  # its group is over: both go now
    assert {client for client, _ in dispatched(actions)} == {"a", "b"}


def test_an_arrival_right_after_the_timer_is_late() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    script.update("b", steps=100)
    script.wait(script.state.groups[0].latest - script.node.now)
    assert not script.state.groups[0].open
    a = script.task("a").id
    assert folded(script.update("a", steps=100)) == []
    assert [update.id for update in script.state.late] == [a]


# Groups


BOUNDS = Bounds(20, 100, 1.2, 5.0)


def known(groups: dict[int, Group], **speeds: float) -> CompassState:
    return CompassState(speeds, dict.fromkeys(speeds, 1), groups, created=len(groups))


def test_the_group_with_most_steps_is_joined_and_the_last_of_equal_ones() -> None:
    groups = {n: Group(("b",), 0.0, at, 90.0) for n, at in enumerate([50.0, 60.9, 60.2, 140.0])}
    state, actions = BOUNDS.assign(known(groups, a=1.0, b=1.0), ["a"], now=10.0)
    assert actions == [Dispatch("a", {"steps": 50})]
    assert state.groups[2].pending == ("b", "a")


def test_a_new_group_aims_at_the_next_arrival_of_one_whose_time_is_not_over() -> None:
    groups = {0: Group(("b",), 0.0, 1.0, 10.0), 1: Group(("b",), 0.0, 1.0, 12.0, ("c",))}
    state = known(groups, a=2.0, b=1.0, c=0.5)
    assert BOUNDS.aimed(state, 2.0, now=9.0) == 50  # (10 + 1 * 100 - 9) / 2, not (53 / 2)
    assert BOUNDS.aimed(state, 2.0, now=10.0) == 26  # group 0 is over: (12 + .5 * 100 - 10) / 2
    assert BOUNDS.aimed(state, 2.0, now=12.0) == 100
    assert BOUNDS.aimed(state, 10.0, now=9.0) == 20  # 10 steps are too few
    assert BOUNDS.aimed(state, 0.6, now=9.0) == 88  # 168 are too many


# Speeds


@pytest.mark.parametrize(
    ("waited", "done", "speed"),
    [
        (100.0, 100, 1.0),
        (50.0, 50, 1.0),  # stopped early: the steps that it did tell its speed
        (200.0, 100, 0.1 + 0.9 * 2),
        (60.0, 60, 1.0),
        (100.0, 1, 0.1 + 0.9 * 4),  # 100 s per step is a glitch
        (0.0, 100, 0.1 + 0.9 * 0.25),
        (100.0, 0, 1.0),  # no step, nothing learned
    ],
)
def test_the_estimate_of_a_speed(waited: float, done: int, speed: float) -> None:
    script = Script(FedCompass(latest_time_factor=5.0))
    join(script, a=1.0)
    script.wait(waited)
    script.update("a", steps=done)
    assert script.state.speeds["a"] == pytest.approx(speed, rel=1e-12)


def test_a_client_that_takes_no_time_has_a_speed_above_zero() -> None:
    script = Script(FedCompass())
    script.join("a", "b")
    script.start()
    for _ in range(3):
        script.update("a", steps=100)
        assert script.state.speeds["a"] > 0
        assert 20 <= script.task("a").config["steps"] <= 100


def test_a_first_update_without_a_step_leaves_the_speed_unknown() -> None:
    script = Script(FedCompass(weights="examples"))
    script.join("a")
    script.start()
    assert dispatched(script.update("a", steps=0)) == [("a", 100)]
    assert "a" not in script.state.speeds and not script.state.groups
    script.wait(100)
    script.update("a", steps=100)
    assert script.state.speeds == {"a": 1.0}


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


# State and configuration


def test_the_state_is_plain_and_comes_back_the_same() -> None:
    script, _ = late_then_on_time()
    script.wait(88)
    script.update("a", steps=70, loss=0.5)
    state: CompassState = script.state
    assert state.late and state.groups[1].updates and state.speeds
    assert round_trip(state) == state
    assert round_trip(FedCompass().init()) == CompassState()
    group = next(iter(round_trip(state).groups.values()))
    assert isinstance(group, Group) and isinstance(group.updates[0], Update)


def test_handlers_leave_the_old_state_as_it_was() -> None:
    script, _ = late_then_on_time()
    old = script.state
    before = plain.encode(old)
    script.wait(88)
    script.update("a", steps=70)
    script.leave("b")
    script.wait(1000)
    assert plain.encode(old) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_steps", 0),
        ("max_steps", 19),
        ("latest_time_factor", 0.9),
        ("latest_time_factor", float("inf")),
        ("speed_momentum", 0.0),
        ("speed_momentum", 1.1),
        ("alpha", 0.0),
        ("alpha", -1.0),
        ("grace", -1.0),
        ("weights", "size"),
    ],
)
def test_bad_hyperparameters_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        fedcompass(trainer=TRAINER, **{name: value})
    assert error.value.field == name
