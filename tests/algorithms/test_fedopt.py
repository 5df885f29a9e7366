"""Server optimizers on the quadratic federation, to the reference's digits."""

from collections.abc import Callable

import numpy as np
import pytest

from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.algorithms.fedavgm import fedavgm
from shoal.algorithms.fedopt import fedadagrad, fedadam, fedyogi
from shoal.core import Algorithm, Examples
from shoal.errors import ConfigError
from shoal.trainers.quadratic import Quadratic
from support import play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
Factory = Callable[..., Algorithm]
ALL: tuple[Factory, ...] = (fedavgm, fedadagrad, fedadam, fedyogi)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (fedavgm(trainer=TRAINER, lr=0.1), [9.484605, 8.535809, 7.253017]),
        (fedadam(trainer=TRAINER, lr=0.1), [9.900194, 9.765732, 9.608809]),
        (fedyogi(trainer=TRAINER, lr=0.1), [9.900194, 9.766072, 9.609946]),
        (fedadagrad(trainer=TRAINER, lr=0.1), [9.990002, 9.976569, 9.960926]),
    ],
    ids=lambda value: value.name if isinstance(value, Algorithm) else "",
)
def test_three_rounds_on_the_quadratic_federation(
    algorithm: Algorithm, expected: list[float]
) -> None:
    assert [round(x, 6) for x in play(algorithm, q3(), 3).xs[1:]] == expected


def test_no_momentum_at_rate_one_is_fedavg() -> None:
    plain = play(fedavg(2, trainer=TRAINER), q3(), 10, seed=1)
    assert play(fedavgm(2, beta=0.0, trainer=TRAINER), q3(), 10, seed=1).xs == plain.xs


def test_adam_with_a_huge_tau_is_momentum() -> None:
    tau, eta, b1 = 1e9, 0.5, 0.9
    adam = fedadam(trainer=TRAINER, lr=eta * tau, b1=b1, tau=tau, v0=1.0)
    momentum = fedavgm(trainer=TRAINER, lr=eta * (1 - b1), beta=b1)
    assert play(adam, q3(), 8).xs == pytest.approx(play(momentum, q3(), 8).xs, rel=1e-7)


@pytest.mark.parametrize("factory", ALL)
def test_at_the_optimum_a_zero_delta_changes_nothing(factory: Factory) -> None:
    data = {"c0": Examples(np.array([1.0]), np.array([10.0]))}
    assert play(factory(trainer=TRAINER), data, 4).xs == [10.0] * 5


@pytest.mark.parametrize("factory", ALL)
def test_slots_live_from_round_to_round(factory: Factory) -> None:
    played = play(factory(trainer=TRAINER, lr=0.1), q3(), 2)
    first, second = np.diff(played.xs)
    again = play(factory(trainer=Quadratic(0.1, 5, start=played.xs[1]), lr=0.1), q3(), 1)
    assert second != pytest.approx(np.diff(again.xs)[0], rel=1e-3)
    assert first < 0 > second


@pytest.mark.parametrize("factory", ALL)
def test_rounds_are_those_of_fedavg(factory: Factory) -> None:
    rounds = FedAvg(deadline=9.0, quorum=2)
    algorithm = factory(3, rounds=rounds, trainer=TRAINER)
    assert algorithm.coordinator == FedAvg(cohort=3, deadline=9.0, quorum=2)
    assert algorithm.name == factory.__name__


@pytest.mark.parametrize("factory", ALL)
def test_bad_hyperparameters(factory: Factory) -> None:
    with pytest.raises(ConfigError, match="lr"):
        factory(trainer=TRAINER, lr=0.0)
    decay = "beta" if factory is fedavgm else "b1"
    with pytest.raises(ConfigError, match=decay):
        factory(trainer=TRAINER, **{decay: 1.0})
