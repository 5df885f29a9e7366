from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.aggregators import Median, TrimmedMean
from shoal.core import Aggregator
from shoal.errors import ConfigError
from shoal.tensors import Tensors


def run(rule: Aggregator[Any], rows: Sequence[Any]) -> np.ndarray:
    model = Tensors.of({"x": np.zeros_like(np.atleast_1d(np.array(rows[0], float)))})
    acc = rule.init(model)
    for i, row in enumerate(rows):
        value = model.with_flat(np.atleast_1d(np.array(row, float)))
        acc = rule.fold(acc, value, 10.0**i, f"c{i}")
    return rule.finish(acc)[0].dense


def test_printed_values() -> None:
    assert run(Median(), [1, 2, 3, 4, 100]) == 3
    assert run(Median(), [1, 2, 4, 100]) == 3  # the average of the central two, not the lower
    assert run(TrimmedMean(f=1), [1, 2, 3, 4, 100]) == 3
    assert run(TrimmedMean(fraction=0.2), [1, 2, 3, 4, 100]) == 3
    assert run(TrimmedMean(f=0), [1, 2, 3, 4, 100]) == 22
    assert run(TrimmedMean(fraction=0.19), [1, 2, 3, 4, 100]) == 22


@given(
    rows=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), min_size=1, max_size=12)
)
def test_median_agrees_with_numpy(rows: list[list[float]]) -> None:
    expected = np.median(np.array(rows), axis=0)
    np.testing.assert_allclose(run(Median(), rows), expected, rtol=1e-15, atol=1e-300)


@given(
    honest=st.lists(st.floats(-10, 10), min_size=3, max_size=7),
    lies=st.lists(st.floats(-1e30, 1e30), max_size=2),
)
def test_a_minority_cannot_leave_the_honest_range(honest: list[float], lies: list[float]) -> None:
    rules: list[Aggregator[Any]] = [Median()]
    if len(honest) > len(lies):
        rules.append(TrimmedMean(f=len(lies)))
    for rule in rules:
        (got,) = run(rule, [*lies, *honest])
        slack = 1e-12 * max(map(abs, honest))
        assert min(honest) - slack <= got <= max(honest) + slack


def test_many_columns_are_done_block_by_block() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 200_001))
    np.testing.assert_array_equal(run(Median(), rows), np.median(rows, axis=0))


def test_too_few_updates_for_f() -> None:
    with pytest.raises(ConfigError, match="more than 4 updates in a commit, got 4"):
        run(TrimmedMean(f=2), [1, 2, 3, 4])


@pytest.mark.parametrize(("fraction", "f"), [(None, None), (0.1, 1), (0.5, None), (None, -1)])
def test_bad_parameters(fraction: float | None, f: int | None) -> None:
    with pytest.raises(ConfigError):
        TrimmedMean(fraction, f)
