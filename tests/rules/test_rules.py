"""Step rules: their formulas, on NumPy arrays and torch tensors alike."""

import numpy as np
import pytest
import torch

from shoal.errors import ConfigError, ModelError
from shoal.rules import RULES, ControlVariate, Plain, Proximal
from shoal.tensors import Tensors, equal, zeros

MODEL = Tensors.of({"w": np.array([1.0, 2.0], np.float32), "b": np.float32(3)})


def with_control(model, values):
    flat = np.asarray(values, np.float32)
    return model.with_group("control/", Tensors(model.layout, flat))


@pytest.mark.parametrize("rule", [Plain(), Proximal(0.0)])
def test_rules_that_change_nothing(rule):
    grad, local, base = np.float32([1, -2]), np.float32([3, 4]), np.float32([5, 7])
    assert rule.gradient(grad, local, base, ()).tobytes() == grad.tobytes()
    assert rule.end(MODEL, rule.init(MODEL), grad, 3, 0.1) == ({}, ())
    assert rule.groups(MODEL) == {}


def test_proximal_pulls_towards_the_base():
    got = Proximal(0.5).gradient(np.float32([1, 1]), np.float32([3, 4]), np.float32([1, 8]), ())
    assert got.tolist() == [2.0, -1.0] and got.dtype == np.float32


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_proximal_refuses_a_bad_strength(mu):
    with pytest.raises(ConfigError, match="mu"):
        Proximal(mu)


def test_control_variate_by_hand():
    rule = ControlVariate()
    model = with_control(MODEL, [1, 2, 3])
    state = Tensors(MODEL.layout, np.float32([0.5, 0.5, 4]))
    (correction,) = rule.begin(model, state)
    assert correction.tolist() == [0.5, 1.5, -1.0]
    assert rule.gradient(np.float32([1, 1, 1]), None, None, (correction,)).tolist() == [1.5, 2.5, 0]
    delta = np.float32([-2, 0, 4])  # K lr = 2, so the mean direction was (1, 0, -2)
    groups, new = rule.end(model, state, delta, 4, 0.5)
    # c_i+ = c_i - c - delta / (K lr)
    assert new.dense.tolist() == [0.5 - 1 + 1, 0.5 - 2 - 0, 4 - 3 - 2]
    assert groups["control/"].dense.tolist() == (new.dense - state.dense).tolist()
    assert groups["control/"].layout == MODEL.layout
    assert state.dense.tolist() == [0.5, 0.5, 4]


def test_control_variate_is_the_mean_gradient_of_the_local_steps():
    rule, rng = ControlVariate(), np.random.default_rng(0)
    model, lr = with_control(MODEL, rng.normal(size=3)), 0.1
    state = Tensors(MODEL.layout, rng.normal(size=3).astype(np.float32))
    constants, local, seen = rule.begin(model, state), model.dense.copy(), []
    for _ in range(5):
        seen.append(rng.normal(size=3).astype(np.float32))
        local -= lr * rule.gradient(seen[-1], local, model.dense, constants)
    _, new = rule.end(model, state, local - model.dense, 5, lr)
    assert new.dense == pytest.approx(np.mean(seen, 0), abs=1e-5)


def test_a_fresh_client_and_a_fresh_server_have_zero_control():
    rule = ControlVariate()
    assert equal(rule.init(MODEL), zeros(MODEL.layout))
    assert equal(rule.groups(MODEL)["control/"], zeros(MODEL.layout))


def test_a_model_without_control_is_refused():
    with pytest.raises(ModelError, match="control/"):
        ControlVariate().begin(MODEL, zeros(MODEL.layout))


@pytest.mark.parametrize("rule", [Plain(), Proximal(0.3), ControlVariate()])
def test_torch_and_numpy_agree(rule):
    rng = np.random.default_rng(1)
    grad, local, base, extra = rng.normal(size=(4, 50)).astype(np.float32)
    want = rule.gradient(grad, local, base, (extra,))
    tensors = [torch.from_numpy(v.copy()) for v in (grad, local, base, extra)]
    got = rule.gradient(*tensors[:3], tensors[3:])
    assert got.dtype == torch.float32
    assert got.numpy() == pytest.approx(want, rel=1e-6, abs=1e-6)


def test_every_rule_has_a_row():
    assert set(RULES.values()) == {Plain, Proximal, ControlVariate}
