"""AFA-CD and AFA-CS against FedBuff, FedAvg and each other; the memory of AFA-CS."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shoal import plain
from shoal.aggregators.latest import Latest
from shoal.algorithms.anarchic import Anarchic, afa_cd, afa_cs
from shoal.algorithms.fedavg import fedavg
from shoal.algorithms.fedbuff import fedbuff
from shoal.core import chain
from shoal.errors import ConfigError
from shoal.messages import Aggregate, Commit, Dispatch, Timer
from shoal.simulation import Devices
from shoal.staleness import Constant
from shoal.tensors import Tensors, equal
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from shoal.transforms import Scale
from support import Q3_A, Q3_B, play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
UNEQUAL = Devices(speeds={"c0": 1.0, "c1": 1.7, "c2": 5.3})
READY = Timer("ready", 0.0)


def test_updates_are_normalized_by_their_steps() -> None:
    script = Script(Anarchic(arrivals=2)).join("a", "b")
    assert script.start() == [Dispatch("a"), Dispatch("b")]
    assert script.update("a", steps=4) == [Aggregate(0, 0.25), READY]
    assert script.update("b", steps=0) == [Aggregate(1, 1.0), Commit(), READY]
    assert script.wait(0) == [Dispatch("a"), Dispatch("b")]
    script.fail("a")
    assert script.wait(0) == [Dispatch("a")]
    assert script.arrive("c") == [Dispatch("c")]


def test_steps_are_drawn_for_each_task_of_each_client() -> None:
    played = play(afa_cd(3, min_steps=2, max_steps=6, trainer=TRAINER), q3(), 200, devices=UNEQUAL)
    drawn = Counter(task.steps for task in played.tasks if task.outcome == "aggregated")
    assert set(drawn) == {2, 3, 4, 5, 6}
    assert min(drawn.values()) > 60
    again = play(afa_cd(3, min_steps=2, max_steps=6, trainer=TRAINER), q3(), 200, devices=UNEQUAL)
    assert again.records == played.records


def test_twice_the_steps_of_equal_gradients_send_the_same() -> None:
    """With tiny local steps every gradient is that of the start: G does not depend on K."""
    fine = replace(TRAINER, lr=1e-9)
    short = play(afa_cd(3, lr=0.1, trainer=fine), q3(), 1)
    long = play(afa_cd(3, lr=0.1, trainer=replace(fine, local_steps=10)), q3(), 1)
    gradient = np.mean(np.array(Q3_A) * (10.0 - np.array(Q3_B)))
    assert short.xs[1] == pytest.approx(10.0 - 0.1 * gradient, rel=1e-6)
    assert long.xs[1] == pytest.approx(short.xs[1], rel=1e-6)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("arrivals", lambda: Anarchic(arrivals=0)),
        ("min_steps", lambda: Anarchic(min_steps=0, max_steps=3)),
        ("max_steps", lambda: Anarchic(min_steps=3, max_steps=2)),
        ("max_steps", lambda: Anarchic(min_steps=3)),
        ("lr", lambda: afa_cd(lr=0.0, trainer=TRAINER)),
        ("local_lr", lambda: afa_cs(clients=3, local_lr=-1.0, trainer=TRAINER)),
        ("clients", lambda: Latest(0)),
    ],
)
def test_bad_hyperparameters_name_their_field(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}:"):
        make()


def test_cross_device_is_fedbuff_on_normalized_deltas_without_damping() -> None:
    anarchic = play(afa_cd(2, lr=0.3, trainer=TRAINER), q3(), 60, devices=UNEQUAL)
    buffered = play(
        fedbuff(
            2, lr=0.3 / 0.1, staleness=Constant(), upload=chain(Scale(1 / 5)), trainer=TRAINER
        ),
        q3(), 60, devices=UNEQUAL,
    )  # fmt: skip
    assert [t.client for t in anarchic.tasks] == [t.client for t in buffered.tasks]
    assert max(task.staleness for task in anarchic.tasks) > 1
    assert anarchic.xs == pytest.approx(buffered.xs, rel=1e-13)


def test_with_all_fresh_both_are_fedavg_with_a_scaled_rate() -> None:
    """lr / (K local_lr) = 1: the mean delta itself; up to rounding."""
    average = play(fedavg(3, weighting="equal", trainer=TRAINER), q3(), 30)
    for algorithm in (
        afa_cd(3, lr=0.5, trainer=TRAINER), afa_cs(3, clients=3, lr=0.5, trainer=TRAINER),
    ):  # fmt: skip
        played = play(algorithm, q3(), 30)
        assert {task.staleness for task in played.tasks} == {0}
        assert played.xs == pytest.approx(average.xs, rel=1e-13)


def test_cross_silo_counts_every_client_the_same_however_often_it_comes() -> None:
    c = 1 - (1 - 0.1 * np.array(Q3_A)) ** 5
    trainer = replace(TRAINER, start=1.0)
    fair = sum(c * Q3_B) / sum(c)
    arrivals = np.array([1.0, 1 / 1.7, 1 / 5.3])
    biased = sum(arrivals * c * Q3_B) / sum(arrivals * c)
    silo = play(afa_cs(1, clients=3, lr=0.01, trainer=trainer), q3(), 2500, devices=UNEQUAL)
    device = play(afa_cd(1, lr=0.01, trainer=trainer), q3(), 2500, devices=UNEQUAL)
    assert np.mean(silo.xs[1500:]) == pytest.approx(fair, abs=0.01)
    assert np.mean(device.xs[1500:]) == pytest.approx(biased, abs=0.02)
    assert abs(fair - biased) > 0.5


# The memory.

MODEL = Tensors.of({"a": np.zeros(3), "b": np.zeros(2)}, np.float32)


def value(*numbers: float) -> Tensors:
    return MODEL.with_flat(np.array(numbers, np.float32))


def test_the_last_update_of_each_client_counts_in_every_commit() -> None:
    rule = Latest(4)
    acc = rule.fold(rule.init(MODEL), value(4, 0, 0, 0, 0), 1.0, "a")
    acc = rule.fold(acc, value(0, 8, 0, 0, 0), 0.5, "b")
    mean, acc = rule.finish(acc)
    assert mean.dense.tolist() == [1, 1, 0, 0, 0]
    assert equal(rule.finish(acc)[0], mean)
    acc = rule.fold(acc, value(0, 0, 12, 0, 0), 1.0, "a")
    assert rule.finish(acc)[0].dense.tolist() == [0, 1, 3, 0, 0]
    assert mean.dense.tolist() == [1, 1, 0, 0, 0]


def test_a_part_replaces_what_it_covers() -> None:
    rule = Latest(1)
    acc = rule.fold(rule.init(MODEL), value(1, 2, 3, 4, 5), 1.0, "a")
    acc = rule.fold(acc, value(9, 9, 9, 7, 8).select(["b"]), 2.0, "a")
    assert rule.finish(acc)[0].dense.tolist() == [1, 2, 3, 14, 16]


def test_more_clients_than_said_are_counted() -> None:
    rule = Latest(1)
    acc = rule.init(MODEL)
    for client in "abcd":
        acc = rule.fold(acc, value(1, 1, 1, 1, 1), 1.0, client)
    assert rule.finish(acc)[0].dense.tolist() == [1] * 5


def test_a_branch_of_a_tree_brings_what_is_new() -> None:
    rule = Latest(2)
    start = rule.fold(rule.init(MODEL), value(2, 0, 0, 0, 0), 1.0, "a")
    _, remembered = rule.finish(rule.fold(start, value(0, 2, 0, 0, 0), 1.0, "b"))
    branch = rule.fold(rule.init(MODEL), value(0, 0, 2, 0, 0), 1.0, "a")
    for merged in (rule.merge(remembered, branch), rule.merge(branch, remembered)):
        assert rule.finish(merged)[0].dense.tolist() == [0, 1, 1, 0, 0]


def test_the_running_sum_is_the_sum_after_a_hundred_thousand_folds() -> None:
    rule, draws = Latest(20), np.random.default_rng(0)
    model = Tensors.of({"x": np.zeros(8)}, np.float32)
    given = [model.with_flat(draws.standard_normal(8).astype(np.float32)) for _ in range(500)]
    who = [f"c{i}" for i in draws.integers(0, 20, 100_000)]
    scale = 10.0 ** draws.integers(-3, 4, 100_000)
    acc = rule.init(model)
    for i, client in enumerate(who):
        acc = rule.fold(acc, given[i % 500], float(scale[i]), client)
        if i % 7 == 0:
            _, acc = rule.finish(acc)
    recomputed = np.sum([row.astype(np.float64) for row in acc.latest.values()], axis=0)
    np.testing.assert_allclose(acc.total, recomputed, rtol=0, atol=1e-9)
    assert acc.summed().total.tolist() == pytest.approx(recomputed.tolist(), abs=1e-12)


def test_the_memory_survives_a_checkpoint() -> None:
    rule = Latest(3)
    acc = rule.fold(rule.init(MODEL), value(1, 2, 3, 4, 5), 0.5, "a")
    _, acc = rule.finish(rule.fold(acc, value(5, 4, 3, 2, 1), 0.25, "b"))
    acc = rule.fold(acc, value(1, 1, 1, 1, 1), 1.0, "a")
    store: plain.Store = {}
    restored = plain.decode(
        type(acc), plain.encode(acc, store, "acc"), store, path="acc", like=rule.init(MODEL)
    )
    assert plain.same(acc, restored)
    one, two = (rule.fold(a, value(2, 2, 2, 2, 2), 1.0, "b") for a in (acc, restored))
    assert equal(rule.finish(one)[0], rule.finish(two)[0])
