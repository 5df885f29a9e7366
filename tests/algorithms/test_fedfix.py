"""FedFix against FedAvg, and its weights against the bias of unequal speeds."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shoal.algorithms.fedavg import fedavg
from shoal.algorithms.fedfix import FedFix, Restart, fedfix
from shoal.errors import ConfigError
from shoal.messages import Aggregate, Commit, Dispatch, Timer
from shoal.simulation import Devices, Exponential
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from support import Q3_A, Q3_B, Q3_P, play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
C = 1 - (1 - 0.1 * np.array(Q3_A)) ** 5
P = np.array(Q3_P) / 10
# Seconds per step; a task has five.
SPEEDS = {"c0": 0.3, "c1": 0.9, "c2": 2.3}
T = {client: 5 * seconds for client, seconds in SPEEDS.items()}


def fixed_point(weights: np.ndarray) -> float:
    return float(sum(weights * C * Q3_B) / sum(weights * C))


def test_a_window_ends_with_a_commit_and_work_for_the_idle() -> None:
    script = Script(FedFix(10.0, shares="equal")).join("a", "b")
    assert script.start() == [Dispatch("a"), Dispatch("b"), Timer("tick 0", 10.0)]
    script.wait(4.0)
    assert script.update("a") == [Aggregate(0, 0.5)]
    assert script.wait(6.0) == [Commit(), Dispatch("a"), Timer("tick 1", 20.0)]
    script.wait(5.0)
    assert script.update("b") == [Aggregate(1, 1.0)]  # two windows
    assert script.wait(5.0) == [Commit(), Dispatch("b"), Timer("tick 2", 30.0)]
    assert script.wait(10.0) == [Commit(), Timer("tick 3", 40.0)]  # nothing came
    assert script.node.version == 3


def test_updates_wait_only_while_shares_are_unknown() -> None:
    script = Script(FedFix(10.0)).join("a", "b")
    script.start()
    assert script.update("a", num_examples=3) == []
    assert script.update("b", num_examples=1) == [Aggregate(1, 0.25)]
    assert script.wait(10.0)[:2] == [Aggregate(0, 0.75), Commit()]
    assert script.update("a", num_examples=3) == [Aggregate(2, 0.75)]
    script.arrive("c")
    assert script.wait(10.0)[:2] == [Commit(), Dispatch("a")]
    assert script.update("a", num_examples=3) == []
    assert script.leave("a") == [Aggregate(4, 0.5)]  # 3 of 3 + 1 + an expected 2
    assert script.wait(10.0)[0] == Commit()


def test_immediate_restarts_count_the_share_of_the_window() -> None:
    script = Script(FedFix(10.0, "immediate", shares="equal")).join("a", "b")
    script.start()
    script.wait(5.0)
    assert script.update("a") == [Aggregate(0, 0.25), Dispatch("a")]
    script.wait(10.0)
    assert script.update("b") == [Aggregate(1, 0.75), Dispatch("b")]
    assert script.fail("a") == [Dispatch("a")]
    assert script.arrive("c") == [Dispatch("c")]


def test_given_times_go_before_measured_ones() -> None:
    given = {"a": 25.0, "b": 20.0}
    script = Script(FedFix(10.0, shares="equal", seconds=given)).join("a", "b")
    script.start()
    assert script.update("a") == [Aggregate(0, 1.5)]
    assert script.update("b") == [Aggregate(1, 1.0)]


def test_no_window_is_open_while_nobody_is_there() -> None:
    script = Script(FedFix(10.0, shares="equal"))
    assert script.start() == []
    assert script.arrive("a") == [Dispatch("a"), Timer("tick 0", 10.0)]
    assert script.arrive("b") == []
    assert script.fail("a") == []
    assert script.wait(10.0)[1:3] == [Dispatch("a"), Dispatch("b")]
    script.leave("a")
    script.leave("b")
    assert script.wait(10.0) == [Commit()]
    assert script.wait(100.0) == []
    assert script.arrive("a") == [Dispatch("a"), Timer("tick 2", 130.0)]


def test_a_departed_clients_waiting_update_still_counts() -> None:
    script = Script(FedFix(10.0)).join("a", "b")
    script.start()
    assert script.update("a") == []
    assert script.leave("a") == [Aggregate(0, 0.5)]
    assert script.leave("b") == []
    assert script.wait(10.0) == [Commit()]


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("window", lambda: FedFix(0.0)),
        ("restart", lambda: FedFix(1.0, "now")),  # type: ignore[arg-type]
        ("shares", lambda: FedFix(1.0, shares="all")),  # type: ignore[arg-type]
        (r"seconds\['a'\]", lambda: FedFix(1.0, seconds={"a": 0.0})),
        ("lr", lambda: fedfix(1.0, lr=-1.0, trainer=TRAINER)),
    ],
)
def test_bad_hyperparameters_name_their_field(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}:"):
        make()


@pytest.mark.parametrize("window", [max(T.values()), 100.0])
@pytest.mark.parametrize("given", [{}, T])
def test_a_window_as_long_as_the_slowest_is_fedavg(window: float, given: dict[str, float]) -> None:
    """Up to rounding: FedAvg divides the sum, here every weight is divided."""
    devices = Devices(speeds=SPEEDS)
    fixed = play(fedfix(window, seconds=given, trainer=TRAINER), q3(), 30, devices=devices)
    average = play(fedavg(trainer=TRAINER), q3(), 30, devices=devices)
    assert fixed.xs == pytest.approx(average.xs, rel=1e-14)
    assert fixed.xs[:4] == pytest.approx([10, 4.84605, 2.737564, 1.874980], abs=1e-5)
    assert [commit.updates for commit in fixed.commits] == [3] * 30
    assert [commit.time for commit in fixed.commits] == pytest.approx(
        [window * k for k in range(1, 31)]
    )


def settled(algorithm_lr: float, devices: Devices, **options: object) -> float:
    trainer = replace(TRAINER, start=1.0)
    algorithm = fedfix(2.0, lr=algorithm_lr, trainer=trainer, **options)  # type: ignore[arg-type]
    played = play(algorithm, q3(), 1500, devices=devices)
    return float(np.mean(played.xs[400:]))


@pytest.mark.parametrize(
    "speeds",
    [SPEEDS, {"c0": 2.3, "c1": 0.1, "c2": 0.7}, {"c0": 0.9, "c1": 2.9, "c2": 0.2}],
)
@pytest.mark.parametrize("restart", ["tick", "immediate"])
def test_calibrated_weights_have_the_fixed_point_of_fedavg(
    speeds: dict[str, float], restart: Restart
) -> None:
    x = settled(0.03, Devices(speeds=speeds), restart=restart)
    assert x == pytest.approx(fixed_point(P), abs=0.01)


@pytest.mark.parametrize("restart", ["tick", "immediate"])
def test_measured_times_calibrate_clients_whose_times_vary(restart: Restart) -> None:
    x = settled(0.03, Devices(speeds=SPEEDS, jitter=0.6), restart=restart)
    assert x == pytest.approx(fixed_point(P), abs=0.02)


def test_uncalibrated_weights_are_biased_towards_the_fast() -> None:
    windows = np.ceil(np.array(list(T.values())) / 2.0)
    biased = fixed_point(P / windows)
    x = settled(0.03, Devices(speeds=SPEEDS), calibrate=False)
    assert x == pytest.approx(biased, abs=0.01)
    assert abs(biased - fixed_point(P)) > 0.5
    often = fixed_point(P / np.array(list(T.values())))
    x = settled(0.03, Devices(speeds=SPEEDS), calibrate=False, restart="immediate")
    assert x == pytest.approx(often, abs=0.01)


def test_windows_shorter_than_any_gap_are_asynchronous_fedavg_with_calibrated_weights() -> None:
    """d_i = (p_i / f_i) / (dt sum 1/T_j) in the limit dt -> 0, with f_i the share of arrivals."""
    dt, times = 0.01, np.array(list(T.values()))
    algorithm = fedfix(dt, lr=0.0005, shares="equal", trainer=TRAINER)
    played = play(algorithm, q3(), 10_000, devices=Devices(speeds=SPEEDS))
    f = (1 / times) / sum(1 / times)
    expected = dict(zip(q3(), (1 / 3) / f / (dt * sum(1 / times)), strict=True))
    arrived = [task for task in played.tasks if task.outcome == "aggregated"]
    assert len(arrived) > 90
    for task in arrived:
        # One window more where the sum of ticks falls short of the time by rounding.
        assert task.weight == pytest.approx(expected[task.client], abs=0.34)
        assert task.weight == pytest.approx(expected[task.client], rel=0.01)


def test_dropouts_and_churn_do_not_stop_the_ticks() -> None:
    devices = Devices(speed=Exponential(1.0), jitter=0.4, dropout=0.3)
    played = play(fedfix(6.0, lr=0.2, trainer=TRAINER), q3(), 200, devices=devices)
    assert len(played.commits) == 200
    assert {task.outcome for task in played.tasks} >= {"aggregated", "failed"}
