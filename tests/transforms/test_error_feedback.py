"""Error feedback on five quadratics with exact gradients: what it promises, and what it cures."""

import numpy as np

from shoal.core import Context, Transform
from shoal.tensors import Tensors
from shoal.transforms import ErrorFeedback, TopK

N, D = 5, 6
MODEL = Tensors.of({"x": np.zeros(D)})


def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    m = rng.standard_normal((N, D, D))
    a = m @ m.transpose(0, 2, 1) / D + 0.2 * np.eye(D)
    b = 3 * rng.standard_normal((N, D))
    best = np.linalg.solve(a.sum(axis=0), np.einsum("nij,nj->i", a, b))
    return a, b, best


def descend(codec: Transform, lr: float, rounds: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The last iterate, the optimum, and how far the virtual iterate was from plain descent."""
    a, b, best = problem()
    x, states, off = np.zeros(D), [codec.init(MODEL) for _ in range(N)], 0.0
    for number in range(rounds):
        gradients = np.einsum("nij,nj->ni", a, x - b)
        virtual = x + mean_residual(states)
        for i in range(N):
            value = Tensors.of({"x": -lr * gradients[i]})
            sent, states[i] = codec.apply(value, states[i], Context(f"c{i}", number=number))
            x = x + sent.dense / N
        expected = virtual - lr * gradients.mean(axis=0)
        off = max(off, float(np.abs(x + mean_residual(states) - expected).max()))
    return x, best, off


def mean_residual(states: list) -> np.ndarray:
    if states[0] is None:
        return np.zeros(D)
    return np.mean([state.residual.dense for state in states], axis=0)


def test_the_virtual_iterate_follows_gradient_descent() -> None:
    assert descend(ErrorFeedback(TopK(count=1)), 0.05, 500)[2] < 1e-12


def test_it_comes_close_where_plain_top_1_stalls() -> None:
    x, best, _ = descend(ErrorFeedback(TopK(count=1)), 0.02, 1000)
    stalled, _, _ = descend(TopK(count=1), 0.02, 1000)
    assert np.linalg.norm(x - best) < 0.35
    assert np.linalg.norm(stalled - best) > 1.0


def test_a_smaller_step_comes_closer() -> None:
    codec = ErrorFeedback(TopK(count=1))
    far, best, _ = descend(codec, 0.02, 1000)
    near, _, _ = descend(codec, 0.004, 4000)
    assert np.linalg.norm(near - best) < 0.4 * np.linalg.norm(far - best)


def test_of_a_part_only_its_residual_moves() -> None:
    model = Tensors.of({"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros(1)})
    codec = ErrorFeedback(TopK(count=1))
    state = codec.init(model)
    _, state = codec.apply(model.with_flat(np.array([1.0, 2, 3, 4, 5])), state, Context())
    np.testing.assert_array_equal(state.residual.dense, [1, 2, 3, 4, 0])
    part = Tensors.of({"a": np.zeros(2), "c": np.array([7.0])})
    sent, state = codec.apply(part, state, Context())
    np.testing.assert_array_equal(sent.dense, [0, 0, 7])
    assert sent.layout == part.layout
    np.testing.assert_array_equal(state.residual.dense, [1, 2, 3, 4, 0])


def test_a_value_that_is_not_finite_leaves_no_trace() -> None:
    codec = ErrorFeedback(TopK(count=1))
    _, state = codec.apply(MODEL.with_flat(np.arange(6.0)), codec.init(MODEL), Context())
    sent, after = codec.apply(MODEL.with_flat(np.full(D, np.nan)), state, Context())
    assert not sent.finite()
    assert after is state
