import sys

import numpy as np
import pytest

from shoal.aggregators import Mean
from shoal.encoded import Sparse
from shoal.errors import ConfigError
from shoal.tensors import Tensors

MODEL = Tensors.of({"a": np.zeros(2), "b": np.zeros(3)})


def mean(rule: Mean, *given: tuple[Tensors, float], model: Tensors = MODEL) -> Tensors:
    acc = rule.init(model)
    for i, (value, weight) in enumerate(given):
        acc = rule.fold(acc, value, weight, f"c{i}")
    return rule.finish(acc)[0]


@pytest.mark.parametrize("rule", [Mean(), Mean(exact=True)], ids=repr)
def test_weighted_mean(rule: Mean) -> None:
    one, two = MODEL.with_flat(np.arange(5.0)), MODEL.with_flat(np.ones(5))
    np.testing.assert_allclose(mean(rule, (one, 3.0), (two, 1.0)).dense, [0.25, 1, 1.75, 2.5, 3.25])


@pytest.mark.parametrize("rule", [Mean(), Mean(exact=True)], ids=repr)
def test_coverage_is_counted_for_each_coordinate(rule: Mean) -> None:
    whole, part = MODEL.with_flat(np.ones(5)), Tensors.of({"b": np.full(3, 5.0)})
    np.testing.assert_allclose(mean(rule, (part, 3.0), (whole, 1.0)).dense, [1, 1, 4, 4, 4])
    np.testing.assert_allclose(mean(rule, (part, 3.0)).dense, [0, 0, 5, 5, 5])


@pytest.mark.parametrize("rule", [Mean(), Mean(exact=True)], ids=repr)
def test_weight_zero_gives_zeros(rule: Mean) -> None:
    assert not mean(rule, (MODEL.with_flat(np.ones(5)), 0.0)).dense.any()


def test_a_sparse_part_folds_into_its_range() -> None:
    part = Tensors.of({"b": np.zeros(3)}).with_flat(Sparse(3, np.array([1]), np.array([6.0])))
    np.testing.assert_array_equal(mean(Mean(), (part, 2.0)).dense, [0, 0, 0, 6, 0])


def test_exact_is_within_its_resolution() -> None:
    rng = np.random.default_rng(0)
    model = Tensors.of({"x": np.zeros(100_000)})
    rows, weights = rng.standard_normal((7, 100_000)), rng.uniform(0.1, 50, 7)
    given = [(model.with_flat(row), w) for row, w in zip(rows, weights, strict=True)]
    got = mean(Mean(exact=True), *given, model=model).dense
    expected = (weights[:, None] * rows).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(got, expected, atol=7 * 2.0**-40, rtol=1e-12)


def test_exact_products_are_not_rounded_to_float32() -> None:
    model = Tensors.of({"x": np.zeros(1, np.float32)})
    value, weight = np.float32(1 / 3), 1 / 7
    acc = Mean(exact=True).fold(
        Mean(exact=True).init(model), model.with_flat(np.array([value])), weight, "c"
    )
    assert int(acc.total[0]) == round(float(value) * weight * 2**40)


def test_exact_rounds_to_the_nearest_unit() -> None:
    rule, units = Mean(exact=True, bits=10), np.array([0.4, 0.6, -0.4, -0.6, 1.5])
    acc = rule.fold(rule.init(MODEL), MODEL.with_flat(units / 1024), 1.0, "c")
    np.testing.assert_array_equal(acc.total, [0, 1, 0, -1, 2])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_overflow_is_refused_in_any_order_and_says_what_to_do(order: tuple[int, ...]) -> None:
    rule, model = Mean(exact=True), Tensors.of({"x": np.zeros(1)})
    # The sum would fit; sums on the way to it would, in some orders only.
    given = [(model.with_flat(np.array([x])), 1.0) for x in (5e6, -3e6, 2e6)]
    with pytest.raises(ConfigError, match=r"bits: .* less than 2\*\*23: lower bits"):
        mean(rule, *(given[i] for i in order), model=model)


def test_overflow_is_refused_in_a_merge() -> None:
    rule, model = Mean(exact=True), Tensors.of({"x": np.zeros(1)})
    half = rule.fold(rule.init(model), model.with_flat(np.array([5e6])), 1.0, "a")
    other = rule.fold(rule.init(model), model.with_flat(np.array([5e6])), 1.0, "b")
    with pytest.raises(ConfigError, match="bits"):
        rule.merge(half, other)


def test_just_below_the_bound_is_exact() -> None:
    rule, model = Mean(exact=True, bits=40), Tensors.of({"x": np.zeros(2)})
    acc = rule.init(model)
    for i in range(2):
        acc = rule.fold(acc, model.with_flat(np.array([4194303.0, -4194303.0])), 1.0, f"c{i}")
    np.testing.assert_array_equal(rule.finish(acc)[0].dense, [4194303.0, -4194303.0])


@pytest.mark.parametrize("covers", ["a", "ab"])
def test_weights_that_overflow_are_refused(covers: str) -> None:
    given = [(MODEL.select([*covers]), 3e6)] * 3
    with pytest.raises(ConfigError, match="sum of weight may reach"):
        mean(Mean(exact=True), *given)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_exact_refuses_what_is_not_finite(bad: float) -> None:
    rule = Mean(exact=True)
    with pytest.raises(ConfigError, match="finite"):
        rule.fold(rule.init(MODEL), MODEL.with_flat(np.array([0, 0, bad, 0, 0])), 1.0, "c")
    with pytest.raises(ConfigError, match="finite"):
        rule.fold(rule.init(MODEL), MODEL, bad, "c")


@pytest.mark.parametrize("bits", [0, 63])
def test_bad_bits(bits: int) -> None:
    with pytest.raises(ConfigError, match="bits"):
        Mean(exact=True, bits=bits)


@pytest.mark.parametrize("rule", [Mean(), Mean(exact=True)], ids=repr)
def test_a_full_update_takes_no_python_for_each_name(rule: Mean) -> None:
    def calls(names: int) -> int:
        model, other = (
            Tensors.of({f"n{i}": np.zeros(4000 // names) for i in range(names)}) for _ in range(2)
        )
        acc, seen = rule.init(model), 0

        def count(frame: object, event: str, arg: object) -> None:
            nonlocal seen
            seen += 1

        sys.setprofile(count)
        rule.fold(acc, other, 0.5, "c")
        sys.setprofile(None)
        return seen

    assert calls(2000) == calls(1) < 100
