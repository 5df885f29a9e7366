from itertools import islice
from typing import Any

import numpy as np
import pytest
from compass_support import (
    TRAINER,
    Applied,
    Assigned,
    clients,
    commits,
    dispatched,
    folded,
    join,
    late_then_on_time,
    next_arrival,
    round_trip,
    simulate,
)

from shoal import plain
from shoal.algorithms.compass_groups import CompassState, Group
from shoal.algorithms.fedcompass import FedCompass, fedcompass
from shoal.errors import ConfigError
from shoal.messages import (
    Aggregate,
    Commit,
    Update,
)
from shoal.simulation import Constant, Devices
from shoal.staleness import Constant as Undamped
from shoal.staleness import Hinge
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from shoal.transforms import Momentum

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
    script = Script(FedCompass(weighting="examples", alpha=0.5, staleness=Undamped()))
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
    script.wait(100)
    script.update("a", num_examples=30, steps=100)
    script.update("b", num_examples=10, steps=100)
    without_c = script.leave("c")  # which counts no longer
    weights = [act.weight for act in without_c if isinstance(act, Aggregate)]
    assert weights == pytest.approx([0.5 * 30 / 40, 0.5 * 10 / 40])


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
        ("weighting", "size"),
    ],
)
def test_bad_hyperparameters_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        fedcompass(trainer=TRAINER, **{name: value})
    assert error.value.field == name
