"""Server optimizers on the three quadratics of closed form: F_i(x) = a_i/2 (x - b_i)^2."""

from typing import Any

import numpy as np
import pytest

from shoal.core import Context, Transform
from shoal.errors import ConfigError
from shoal.tensors import Tensors
from shoal.transforms import Adagrad, Adam, Momentum, Yogi

A, B, P = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.3, 0.2])
ETA, K = 0.1, 5


def iterates(optimizer: Transform[Any], rounds: int, dtype: Any = np.float64) -> list[float]:
    """x after each round of FedAvg with K local steps of size ETA, from 10."""
    x = Tensors.of({"x": np.array(10.0, dtype)})
    state, seen = optimizer.init(x), []
    shrink = 1 - (1 - ETA * A) ** K
    for _ in range(rounds):
        delta = x.with_flat((P * shrink * (B - x.dense)).sum(keepdims=True).astype(dtype))
        step, state = optimizer.apply(delta, state, Context())
        x = x.with_flat(x.dense + step.dense)
        seen.append(float(x["x"]))
    return seen


GOLDEN = [
    (Momentum(beta=0.0, lr=1.0), (4.84605, 2.737564, 1.874980)),  # plain FedAvg
    (Momentum(beta=0.9, lr=0.1), (9.484605, 8.535809, 7.253017)),
    (Adam(lr=0.1, b1=0.9, b2=0.99, tau=1e-3), (9.900194, 9.765732, 9.608809)),
    (Yogi(lr=0.1, b1=0.9, b2=0.99, tau=1e-3), (9.900194, 9.766072, 9.609946)),
    (Adagrad(lr=0.1, b1=0.9, tau=1e-3), (9.990002, 9.976569, 9.960926)),
]


@pytest.mark.parametrize(("optimizer", "expected"), GOLDEN, ids=lambda v: repr(v)[:20])
def test_first_three_rounds_to_the_printed_digits(
    optimizer: Transform[Any], expected: tuple[float, ...]
) -> None:
    assert iterates(optimizer, 3) == pytest.approx(expected, abs=5.1e-7)
    assert iterates(optimizer, 3, np.float32) == pytest.approx(expected, abs=1e-5)


def test_plain_fedavg_reaches_its_fixed_point() -> None:
    assert iterates(Momentum(beta=0.0), 60)[-1] == pytest.approx(1.277782, abs=5e-7)


def test_momentum_reaches_the_same_fixed_point() -> None:
    assert iterates(Momentum(beta=0.9, lr=0.1), 600)[-1] == pytest.approx(1.277782, abs=5e-7)


def test_adam_with_huge_tau_tends_to_momentum() -> None:
    tau, eta = 1e8, 0.5
    adam = iterates(Adam(lr=eta * tau, b1=0.9, tau=tau, v0=1e-6), 10)
    # Its average has the factor 1 - b1 that FedAvgM has not.
    assert adam == pytest.approx(iterates(Momentum(beta=0.9, lr=eta * 0.1), 10), rel=1e-6)


@pytest.mark.parametrize("optimizer", [Adam(), Yogi(), Adagrad(), Momentum()], ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slots_keep_dtype_and_a_zero_delta_moves_nothing_without_momentum(
    optimizer: Transform[Any], dtype: Any
) -> None:
    model = Tensors.of({"a": np.zeros((2, 2), dtype), "b": np.zeros(3, dtype)})
    step, state = optimizer.apply(model, optimizer.init(model), Context())
    assert not step.dense.any()
    slots = [state] if isinstance(state, Tensors) else [state.m, state.v]
    assert all(slot.layout == model.layout and slot.dense.dtype == dtype for slot in slots)
    _, state = optimizer.apply(model.with_flat(np.ones(7, dtype)), state, Context())
    step, _ = optimizer.apply(model, state, Context())
    assert (step.dense > 0).all()


def test_v0_defaults_to_tau_squared() -> None:
    model = Tensors.of({"a": np.zeros(2)})
    for kind in (Adam, Yogi, Adagrad):
        np.testing.assert_array_equal(kind(tau=0.5).init(model).v.dense, 0.25)
        np.testing.assert_array_equal(kind(tau=0.5, v0=2.0).init(model).v.dense, 2.0)


@pytest.mark.parametrize("kind", [Adam, Yogi, Adagrad])
@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"b1": 1.0}, {"tau": 0.0}, {"v0": 0.0}])
def test_bad_parameters(kind: Any, bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        kind(**bad)


def test_bad_momentum() -> None:
    with pytest.raises(ConfigError, match="beta"):
        Momentum(beta=1.0)
