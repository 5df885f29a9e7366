"""FedSGD is gradient descent on everyone's examples, whatever the trainer would do by itself."""

from itertools import pairwise

import numpy as np
import pytest

from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.algorithms.fedsgd import fedsgd
from shoal.core import Examples
from shoal.messages import Dispatch
from shoal.seeds import rng
from shoal.testing import Script
from shoal.trainers.numpy import MLP
from shoal.trainers.quadratic import Quadratic
from support import play, q3

ONE = Quadratic(lr=0.1, start=10.0)
MANY = Quadratic(lr=0.1, local_steps=7, start=10.0)


def test_each_client_is_asked_for_one_gradient_of_all_its_examples() -> None:
    script = Script(fedsgd(2, trainer=MANY).coordinator).join("a", "b")
    task = {"steps": 1, "batch": 0}
    assert script.start() == [Dispatch("a", task), Dispatch("b", task)]


def test_other_overrides_are_kept() -> None:
    rounds = FedAvg(deadline=9.0, config={"lr": 0.2, "steps": 5})
    coordinator = fedsgd(2, trainer=MANY, rounds=rounds).coordinator
    assert coordinator == FedAvg(cohort=2, deadline=9.0, config={"lr": 0.2, "steps": 1, "batch": 0})


def test_iterates_on_the_quadratic_federation() -> None:
    played = play(fedsgd(trainer=MANY), q3(), 120)
    x, expected = 10.0, [10.0]
    for _ in range(120):
        x -= 0.1 * (0.5 * 1 * x + 0.3 * 2 * (x - 1) + 0.2 * 4 * (x - 3))
        expected.append(x)
    assert played.xs == pytest.approx(expected, rel=1e-14)
    assert round(played.xs[-1], 6) == 1.578947
    limit = 30 / 19
    assert (played.xs[6] - limit) / (played.xs[5] - limit) == pytest.approx(0.81, abs=1e-12)
    assert {task.steps for task in played.tasks if task.outcome == "aggregated"} == {1}


def test_it_is_fedavg_with_one_full_batch_step() -> None:
    assert play(fedsgd(trainer=MANY), q3(), 9).xs == play(fedavg(trainer=ONE), q3(), 9).xs


def test_it_is_centralized_gradient_descent_on_a_network() -> None:
    draws = rng(0, "data")
    x, y = draws.normal(size=(60, 4)).astype(np.float32), draws.integers(0, 3, 60)
    cuts = [0, 5, 25, 60]
    parts = {f"c{i}": Examples(x[a:b], y[a:b]) for i, (a, b) in enumerate(pairwise(cuts))}
    trainer = MLP(lr=0.5, epochs=3, batch=4, hidden=(8,), features=4, classes=3)
    apart = play(fedsgd(trainer=trainer), parts, 20).models
    together = play(fedsgd(trainer=trainer), {"c": Examples(x, y)}, 20).models
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(one.dense, other.dense, atol=2e-6)
    assert np.abs(apart[-1].dense - apart[0].dense).max() > 0.1
