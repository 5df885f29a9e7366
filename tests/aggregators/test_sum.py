import numpy as np
import pytest

from shoal.aggregators import Sum
from shoal.errors import ConfigError
from shoal.tensors import Tensors

MODEL = Tensors.of({"a": np.zeros(2), "b": np.zeros(1)})


@pytest.mark.parametrize("rule", [Sum(), Sum(exact=True), Sum(exact=True, bits=20)], ids=repr)
def test_it_never_divides(rule: Sum) -> None:
    acc = rule.init(MODEL)
    acc = rule.fold(acc, MODEL.with_flat(np.array([1.0, 2, 3])), 0.5, "a")
    acc = rule.fold(acc, MODEL.with_flat(np.array([2.0, -2, 0])), 2.0, "b")
    acc = rule.fold(acc, Tensors.of({"b": np.array([8.0])}), 1.0, "c")
    np.testing.assert_array_equal(rule.finish(acc)[0].dense, [4.5, -3, 9.5])


def test_negative_weights_subtract() -> None:
    for rule in (Sum(), Sum(exact=True)):
        acc = rule.fold(rule.init(MODEL), MODEL.with_flat(np.array([1.0, 2, 3])), -2.0, "a")
        np.testing.assert_array_equal(rule.finish(acc)[0].dense, [-2, -4, -6])


def test_sums_of_different_scales_do_not_merge() -> None:
    with pytest.raises(ConfigError, match="20 and 40 cannot be merged"):
        Sum().merge(Sum(exact=True, bits=20).init(MODEL), Sum(exact=True).init(MODEL))
