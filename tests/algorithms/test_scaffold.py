"""SCAFFOLD reaches the optimum where FedAvg drifts, and keeps c the mean of the clients' c_i."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.algorithms.scaffold import CONTROL, scaffold
from shoal.combinators import until
from shoal.core import Algorithm, Examples
from shoal.errors import ConfigError
from shoal.messages import CommitRecord
from shoal.node import Node
from shoal.planes import Local
from shoal.rules import Proximal
from shoal.simulation import Devices
from shoal.tensors import Tensors
from shoal.trainers.quadratic import Quadratic
from shoal.transports import Simulator, steps
from support import Q3_A, Q3_B, play, q3

Array = NDArray[np.float64]
N, D, LR, K = 5, 6, 0.05, 10
SCALAR = Quadratic(lr=0.1, local_steps=5, start=10.0)
VECTOR = Quadratic(lr=LR, local_steps=K, start=(0.0,) * D)


@dataclass(frozen=True)
class Problem:
    """f_i(x) = 1/2 (x - b_i)' A_i (x - b_i), A_i random and positive definite."""

    a: Array
    b: Array

    @property
    def clients(self) -> dict[str, Examples]:
        return {f"c{i}": Examples(self.a[i : i + 1], self.b[i : i + 1]) for i in range(N)}

    @property
    def optimum(self) -> Array:
        return balance(self.a, self.b)

    def gradients(self, x: Array) -> Array:
        return np.einsum("nij,nj->ni", self.a, x - self.b)


def balance(matrices: Array, points: Array) -> Array:
    """(sum M_i)^-1 sum M_i b_i."""
    return np.linalg.solve(matrices.sum(0), np.einsum("nij,nj->i", matrices, points))


@pytest.fixture(scope="module")
def problem() -> Problem:
    rng = np.random.default_rng(0)
    m = rng.normal(size=(N, D, D))
    a = np.stack([x @ x.T / D + 0.2 * np.eye(D) for x in m])
    return Problem(a, 3 * rng.normal(size=(N, D)))


def rounds(
    algorithm: Algorithm, clients: dict[str, Examples], commits: int, devices: Devices, seed: int
) -> Iterator[tuple[Tensors, dict[str, Array]]]:
    """The model and all clients' control variates after each commit."""
    model = algorithm.trainer.initial(seed)
    plane = Local(algorithm.aggregator, algorithm.optimizer, seed)
    node = Node(until(algorithm.coordinator, commits=commits), plane, model, seed)
    simulator = Simulator(algorithm, clients, devices, seed=seed)
    for effects in steps(node, simulator):
        if any(isinstance(effect, CommitRecord) for effect in effects):
            states = {client: state.trainer.dense for client, state in simulator.store.items()}
            yield node.model, states


def test_the_problem_is_the_one_of_the_closed_forms(problem: Problem) -> None:
    assert np.linalg.eigvalsh(problem.a).max() == pytest.approx(4.2009, abs=1e-4)


def test_it_takes_the_drift_out_of_scalar_clients() -> None:
    a, b = np.array(Q3_A), np.array(Q3_B)
    c = 1 - (1 - 0.1 * a) ** 5
    drifting = play(fedavg(trainer=SCALAR, weighting="equal"), q3(), 80).xs[-1]
    assert drifting == pytest.approx(c @ b / c.sum(), abs=1e-12)
    corrected = play(scaffold(trainer=SCALAR, population=3), q3(), 250).xs[-1]
    assert corrected == pytest.approx(a @ b / a.sum(), abs=1e-12)
    assert abs(drifting - corrected) > 0.1


def test_it_reaches_the_optimum_with_two_clients_of_five_and_fedavg_does_not(
    problem: Problem,
) -> None:
    algorithm = scaffold(2, trainer=VECTOR, population=N)
    *_, (model, controls) = rounds(algorithm, problem.clients, 1500, Devices(), 0)
    np.testing.assert_allclose(model.dense, problem.optimum, atol=1e-12)
    gradients = problem.gradients(problem.optimum)
    for client, gradient in zip(sorted(controls), gradients, strict=True):
        np.testing.assert_allclose(controls[client], gradient, atol=1e-11)
    np.testing.assert_allclose(model.groups[CONTROL].dense, 0, atol=1e-12)

    drifting = play(fedavg(trainer=VECTOR, weighting="equal"), problem.clients, 400).models[-1]
    moved = np.stack([np.eye(D) - np.linalg.matrix_power(np.eye(D) - LR * a, K) for a in problem.a])
    np.testing.assert_allclose(drifting.dense, balance(moved, problem.b), atol=1e-12)
    assert np.linalg.norm(drifting.dense - problem.optimum) > 0.1


@pytest.mark.parametrize(
    "plan", [FedAvg(2), FedAvg(2, over_selection=1.5), FedAvg(2, deadline=12.0)]
)
@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_c_is_the_mean_of_all_control_variates_at_any_time(
    problem: Problem, plan: FedAvg, lr: float
) -> None:
    algorithm = scaffold(trainer=VECTOR, population=N, lr=lr, rounds=plan)
    devices = Devices(jitter=0.5, dropout=0.2)
    count = 0
    for model, controls in rounds(algorithm, problem.clients, 60, devices, 4):
        mean = sum(controls.values()) / N  # a client not seen yet has c_i = 0
        np.testing.assert_allclose(model.groups[CONTROL].dense, mean, atol=1e-12)
        count += 1
    assert count == 60
    assert len(controls) == N


def test_the_first_round_is_fedavg(problem: Problem) -> None:
    plain = play(fedavg(2, trainer=VECTOR, weighting="equal"), problem.clients, 1).models[1]
    first = play(scaffold(2, trainer=VECTOR, population=N), problem.clients, 1).models[1]
    np.testing.assert_array_equal(first.dense, plain.dense)


def test_one_step_of_everyone_is_gradient_descent(problem: Problem) -> None:
    trainer = Quadratic(lr=LR, local_steps=1, start=(0.0,) * D)
    played = play(scaffold(trainer=trainer, population=N), problem.clients, 30)
    x = np.zeros(D)
    for model in played.models[1:]:
        x = x - LR * problem.gradients(x).mean(0)
        np.testing.assert_allclose(model.dense, x, atol=1e-13)


def test_the_server_rate_scales_the_model_and_not_the_control_variate(problem: Problem) -> None:
    whole, half = (
        play(scaffold(2, trainer=VECTOR, population=N, lr=lr), problem.clients, 1).models[1]
        for lr in (1.0, 0.5)
    )
    np.testing.assert_allclose(half.dense, whole.dense / 2)
    np.testing.assert_array_equal(half.groups[CONTROL].dense, whole.groups[CONTROL].dense)


def test_bad_hyperparameters() -> None:
    for field, values in (
        ("population", {"population": 0}),
        ("population", {"population": 3, "cohort": 4}),
        ("lr", {"population": 3, "lr": 0.0}),
        ("rounds.quorum", {"population": 3, "rounds": FedAvg(quorum=2)}),
    ):
        with pytest.raises(ConfigError) as caught:
            scaffold(trainer=SCALAR, **values)  # type: ignore[arg-type]
        assert caught.value.field == field


def test_it_brings_its_own_step_rule() -> None:
    trainer = Quadratic(lr=0.1, rule=Proximal(1.0))
    assert scaffold(trainer=trainer, population=3) == scaffold(
        trainer=Quadratic(lr=0.1), population=3
    )
