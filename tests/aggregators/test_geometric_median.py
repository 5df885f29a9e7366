from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest

from shoal.aggregators import GeometricMedian
from shoal.errors import ConfigError
from shoal.tensors import Tensors


def run(rule: GeometricMedian, rows: Sequence[Any]) -> np.ndarray:
    rows = [np.atleast_1d(np.array(row, float)) for row in rows]
    model = Tensors.of({"x": np.zeros_like(rows[0])})
    acc = rule.init(model)
    for i, row in enumerate(rows):
        acc = rule.fold(acc, model.with_flat(row), 1.0, f"c{i}")
    return rule.finish(acc)[0].dense


def distance(point: np.ndarray, rows: Any) -> float:
    return float(np.linalg.norm(np.array(rows) - point, axis=1).sum())


TRIANGLE = [(0, 0), (1, 0), (0, 1)]


def test_the_triangle() -> None:
    # The coordinate median is a corner, and Weiszfeld leaves a corner slowly.
    point = run(GeometricMedian(passes=100), TRIANGLE)
    np.testing.assert_allclose(point, [0.211325, 0.211325], atol=1e-6)
    assert distance(point, TRIANGLE) == pytest.approx(np.sqrt(2 + np.sqrt(3)), abs=1e-6)


def test_the_objective_never_rises() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.standard_cauchy((7, 3))
        totals = [distance(run(GeometricMedian(passes=p), rows), rows) for p in range(1, 12)]
        assert all(b <= a + 1e-6 for a, b in pairwise(totals))


def test_in_one_dimension_with_odd_n_it_is_the_median() -> None:
    assert run(GeometricMedian(), [3, 1, 100, 2, -50]) == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("lie", [1e3, 1e9, 1e150])
def test_a_minority_moves_it_little_however_far_it_goes(lie: float) -> None:
    rows = [(0.0, 0.1), (0.1, 0.0), (0.0, -0.1), (lie, lie), (-0.1, 0.0)]
    assert np.linalg.norm(run(GeometricMedian(), rows)) < 0.2


def test_two_updates_of_one_client_may_come_in_any_order() -> None:
    model, rule = Tensors.of({"x": np.zeros(3)}), GeometricMedian()
    values = [model.with_flat(row) for row in np.random.default_rng(2).standard_normal((6, 3))]
    seen = set()
    for order in permutations(range(4)):
        acc = rule.init(model)
        for i in (*order, 4, 5):
            acc = rule.fold(acc, values[i], 1.0, "same")
        seen.add(rule.finish(acc)[0].dense.tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize("bad", [{"passes": 0}, {"nu": 0.0}])
def test_bad_parameters(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GeometricMedian(**bad)
