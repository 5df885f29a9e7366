"""FedProx between FedAvg (mu = 0) and standing still (mu to infinity)."""

from dataclasses import replace

import pytest

from shoal import exchange as ex
from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.algorithms.fedprox import fedprox
from shoal.client import work
from shoal.core import Algorithm
from shoal.errors import ConfigError
from shoal.node import Node
from shoal.planes import Local
from shoal.trainers.quadratic import Quadratic
from support import Q3_A, Q3_B, Q3_P, play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
ROWS = [(0.1, 0.931256), (1.0, 1.114754), (10.0, 1.451064)]


def fixed_point(algorithm: Algorithm) -> float:
    """Of one round, which is affine on quadratics."""
    at = [
        play(replace(algorithm, trainer=replace(algorithm.trainer, start=start)), q3(), 1).xs[1]
        for start in (0.0, 1.0)
    ]
    return at[0] / (1 - (at[1] - at[0]))


@pytest.mark.parametrize(("mu", "expected"), ROWS)
def test_exact_solutions_have_the_fixed_point_of_the_reference(mu: float, expected: float) -> None:
    exact = fedavg(trainer=replace(TRAINER, exact_prox=mu))
    assert round(fixed_point(exact), 6) == expected


@pytest.mark.parametrize(("mu", "expected"), ROWS)
def test_enough_local_steps_come_to_the_same(mu: float, expected: float) -> None:
    assert round(fixed_point(fedprox(mu, trainer=replace(TRAINER, local_steps=250))), 6) == expected


def test_rounds_converge_to_it() -> None:
    played = play(fedprox(1.0, trainer=replace(TRAINER, local_steps=100)), q3(), 40)
    assert round(played.xs[-1], 6) == 1.114754


def test_without_mu_it_is_fedavg() -> None:
    plain = play(fedavg(2, trainer=TRAINER), q3(), 12, seed=3)
    assert play(fedprox(0.0, cohort=2, trainer=TRAINER), q3(), 12, seed=3).xs == plain.xs


def test_a_huge_mu_leaves_the_model_where_it_is() -> None:
    huge = replace(TRAINER, lr=1e-9, local_steps=50)
    assert play(fedprox(1e8, trainer=huge), q3(), 3).xs == pytest.approx([10.0] * 4, abs=1e-5)
    exact = fedavg(trainer=replace(TRAINER, exact_prox=1e9))
    assert play(exact, q3(), 3).xs == pytest.approx([10.0] * 4, abs=1e-6)


def test_partial_work_of_stragglers_is_used() -> None:
    algorithm = fedprox(0.5, trainer=TRAINER)
    model = algorithm.trainer.initial(0)
    node = Node(algorithm.coordinator, Local(algorithm.aggregator, algorithm.optimizer), model)
    for client in q3():
        node.handle(ex.Join(client), 0.0)
    assigned = [e for e in node.handle(ex.Begin(), 0.0) if isinstance(e, ex.Assign)]
    done = {"c0": 5, "c1": 2, "c2": 1}
    expected = 10.0
    for effect, a, b, p in zip(assigned, Q3_A, Q3_B, Q3_P, strict=True):
        task, data = effect.task, q3()[effect.task.client]
        less = replace(task, config={"steps": done[task.client]})
        payload, _ = work(algorithm, less, effect.model, data, None, 0)
        assert payload.steps == done[task.client]
        node.handle(ex.Push(task.id, task.client, payload), 1.0)
        y = 10.0
        for _ in range(payload.steps):
            y -= 0.1 * (a * (y - b) + 0.5 * (y - 10.0))
        expected += p / sum(Q3_P) * (y - 10.0)
    assert node.version == 1
    assert float(node.model["x"]) == pytest.approx(expected, rel=1e-14)


def test_its_rounds_are_those_of_fedavg() -> None:
    rounds = FedAvg(deadline=9.0, weighting="equal")
    assert fedprox(cohort=3, rounds=rounds, trainer=TRAINER).coordinator == replace(
        rounds, cohort=3
    )


def test_bad_hyperparameters() -> None:
    with pytest.raises(ConfigError, match="mu"):
        fedprox(-0.1, trainer=TRAINER)
    with pytest.raises(ConfigError, match="cohort"):
        fedprox(cohort=0, trainer=TRAINER)
