"""FedAvg against closed forms and order statistics."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from shoal.aggregators import Mean
from shoal.algorithms.fedavg import BEGIN, fedavg
from shoal.core import Examples
from shoal.messages import (
    Timer,
)
from shoal.simulation import Devices, Exponential
from shoal.trainers.quadratic import Quadratic
from shoal.transforms import Scale
from support import Q3_A, Q3_B, Q3_P, play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
P = np.array(Q3_P) / sum(Q3_P)
NEXT = Timer(BEGIN, 0.0)


def closed_form(steps: int) -> tuple[float, float]:
    """The fixed point of FedAvg on Q3, and the factor by which a round comes closer to it."""
    c = 1 - (1 - 0.1 * np.array(Q3_A)) ** steps
    return float(P @ (c * Q3_B) / (P @ c)), float(1 - P @ c)


def test_iterates_on_the_quadratic_federation() -> None:
    xs = play(fedavg(trainer=TRAINER), q3(), 60).xs
    assert xs[0] == 10
    assert [round(x, 6) for x in xs[1:4]] == [4.846050, 2.737564, 1.874980]
    assert round(xs[-1], 6) == 1.277782
    assert xs[-1] == pytest.approx(closed_form(5)[0], abs=1e-12)
    ratios = [(b - xs[-1]) / (a - xs[-1]) for a, b in pairwise(xs[:9])]
    assert [round(ratio, 6) for ratio in ratios] == [0.409101] * 8


def test_fixed_point_of_more_local_work() -> None:
    xs = play(fedavg(trainer=replace(TRAINER, local_steps=20)), q3(), 60).xs
    assert round(xs[-1], 6) == 0.958080
    assert xs[-1] == pytest.approx(closed_form(20)[0], abs=1e-12)


def test_one_client_is_plain_training() -> None:
    data = {"c0": Examples(np.array([2.0]), np.array([1.0]))}
    alone = play(fedavg(trainer=TRAINER), data, 3).xs[-1]
    x = 10.0
    for _ in range(15):
        x -= 0.1 * 2.0 * (x - 1.0)
    assert alone == pytest.approx(x, rel=1e-15)


def test_identical_clients_agree_on_what_each_would_do() -> None:
    data = Examples(np.array([2.0, 1.0]), np.array([1.0, 5.0]))
    many = play(fedavg(trainer=TRAINER), {f"c{i}": data for i in range(4)}, 5)
    one = play(fedavg(trainer=TRAINER), {"c0": data}, 5)
    assert many.xs == one.xs  # four equal summands: no rounding


SPEEDS = ({"c0": 1.0, "c1": 2.0, "c2": 3.0}, {"c0": 3.0, "c1": 2.0, "c2": 1.0})


def test_the_order_of_arrival_does_not_matter() -> None:
    first, second = (play(fedavg(trainer=TRAINER), q3(), 5, devices=Devices(speeds=s)).xs
                     for s in SPEEDS)  # fmt: skip
    assert first == pytest.approx(second, rel=1e-14)
    exact = fedavg(trainer=TRAINER, aggregator=Mean(exact=True))
    first, second = (play(exact, q3(), 5, devices=Devices(speeds=s)).xs for s in SPEEDS)
    assert first == second


def test_an_optimizer_works_on_the_mean() -> None:
    whole = play(fedavg(trainer=TRAINER), q3(), 1).xs
    half = play(fedavg(trainer=TRAINER, optimizer=Scale(0.5)), q3(), 1).xs
    assert half[1] - 10 == pytest.approx(0.5 * (whole[1] - 10))


def test_unbiased_weights_divide_by_the_size_of_the_cohort() -> None:
    algorithm = fedavg(2, trainer=TRAINER, weighting="unbiased", mean_examples=10 / 3)
    played = play(algorithm, q3(), 12)
    c = 1 - (1 - 0.1 * np.array(Q3_A)) ** 5
    cohorts = set()
    for version, (x, after) in enumerate(pairwise(played.xs)):
        cohort = [int(task.client[1]) for task in played.tasks if task.version == version]
        assert len(cohort) == 2
        cohorts.add(tuple(sorted(cohort)))
        step = sum(P[i] * c[i] * (Q3_B[i] - x) for i in cohort) * 3 / 2
        assert after == pytest.approx(x + step, rel=1e-12)
    assert len(cohorts) == 3


def test_unbiased_weights_of_everyone_are_fedavg() -> None:
    unbiased = fedavg(trainer=TRAINER, weighting="unbiased", mean_examples=10 / 3)
    expected = play(fedavg(trainer=TRAINER), q3(), 6).xs
    assert play(unbiased, q3(), 6).xs == pytest.approx(expected, rel=1e-13)


# Order statistics


@pytest.mark.parametrize(("m", "factor"), [(10, 1.3), (10, 1.0), (5, 2.0)])
def test_over_selection_completes_with_the_expected_order_statistic(m: int, factor: float) -> None:
    data = {f"c{i}": Examples(np.array([1.0]), np.array([0.0])) for i in range(30)}
    algorithm = fedavg(m, over_selection=factor, trainer=Quadratic(lr=0.1))
    devices, mean, n = Devices(speed=Exponential(2.0)), 2.0, round(m * factor)
    times = [
        play(algorithm, data, 1, devices=devices, seed=seed).commits[0].time for seed in range(400)
    ]
    ranks = np.arange(n - m + 1, n + 1)
    expected, deviation = mean * (1 / ranks).sum(), mean * np.sqrt((1 / ranks**2).sum())
    assert abs(np.mean(times) - expected) < 4 * deviation / np.sqrt(len(times))


@pytest.mark.parametrize("replaced", [True, False])
def test_dropout_costs_updates_unless_they_are_replaced(replaced: bool) -> None:
    data = {f"c{i}": Examples(np.array([1.0]), np.array([0.0])) for i in range(20)}
    algorithm = fedavg(5, replace_failed=replaced, trainer=Quadratic(lr=0.1))
    played = play(algorithm, data, 60, devices=Devices(speed=Exponential(1.0), dropout=0.3))
    sizes = [commit.updates for commit in played.commits]
    lost = [t for t in played.tasks if t.reason == "dropped out"]
    assert lost
    assert set(sizes) == {5} if replaced else min(sizes) < 5 and np.mean(sizes) < 4.5
    assert played.node.version == 60


def test_stragglers_take_part_as_often_as_they_are_drawn() -> None:
    """Whoever was cancelled is drawn again: it is idle when the next cohort is."""
    data = {f"c{i}": Examples(np.array([1.0]), np.array([0.0])) for i in range(6)}
    devices = Devices(speeds={f"c{i}": 1.0 + i for i in range(6)})
    algorithm = fedavg(2, over_selection=1.5, trainer=Quadratic(lr=0.1))
    tasks = play(algorithm, data, 600, devices=devices).tasks
    drawn = Counter(task.client for task in tasks)
    assert max(abs(count - 300) for count in drawn.values()) < 4 * np.sqrt(150)
    taken = Counter(task.client for task in tasks if task.outcome == "aggregated")
    assert taken["c0"] > taken["c3"] > taken["c5"] == 0
