from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from shoal.aggregators import Krum
from shoal.errors import ConfigError
from shoal.tensors import Tensors


def run(rule: Krum, rows: Sequence[Any], names: Sequence[str] = "abcdefghi") -> np.ndarray:
    rows = [np.atleast_1d(np.array(row, float)) for row in rows]
    model = Tensors.of({"x": np.zeros_like(rows[0])})
    acc = rule.init(model)
    for row, name in zip(rows, names, strict=False):
        acc = rule.fold(acc, model.with_flat(row), 1.0, name)
    return rule.finish(acc)[0].dense


# Honest 0 .. .4 and two outliers, times ten, so that ties are exact.
SEVEN = [0, 1, 2, 3, 4, 100, -100]


def test_a_tie_goes_to_the_lowest_client() -> None:
    # Three neighbors: scores 14, 6, 6, 6, 14: 1, 2 and 3 tie.
    assert run(Krum(f=2), SEVEN) == 1
    assert run(Krum(f=2), SEVEN, names=["g", "f", "e", "d", "c", "b", "a"]) == 3


def test_with_four_neighbors_the_center_wins_alone() -> None:
    assert run(Krum(f=2, neighbors=4), SEVEN) == 2


def test_multi_krum_averages_the_best() -> None:
    assert run(Krum(f=2, m=3), SEVEN) == 2
    assert run(Krum(f=2, m=5), SEVEN) == 2


def test_without_outliers_and_with_m_equal_n_it_is_the_mean() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 4))
    np.testing.assert_allclose(run(Krum(f=0, m=5), rows), rows.mean(axis=0))


def test_brute_force() -> None:
    rng = np.random.default_rng(1)
    for n, f in [(5, 1), (7, 2), (9, 3), (9, 0)]:
        rows = rng.standard_normal((n, 6))
        scores = [
            np.sort([((rows[i] - rows[j]) ** 2).sum() for j in range(n) if j != i])[
                : n - f - 2
            ].sum()
            for i in range(n)
        ]
        np.testing.assert_array_equal(run(Krum(f=f), rows), rows[np.argmin(scores)])


def test_a_large_offset_does_not_swamp_the_distances() -> None:
    rows = np.array([[0.0, 1], [1, 0], [0.5, 0.5], [0, 0], [9, 9]])
    np.testing.assert_array_equal(run(Krum(f=1), rows + 2.0**40) - 2.0**40, run(Krum(f=1), rows))


@pytest.mark.parametrize("rule", [Krum(f=2), Krum(f=0, m=7), Krum(f=0, neighbors=6)], ids=repr)
def test_too_few_updates(rule: Krum) -> None:
    with pytest.raises(ConfigError, match="need 7 updates in a commit, got 6"):
        run(rule, SEVEN[:6])


@pytest.mark.parametrize("bad", [{"f": -1}, {"f": 1, "m": 0}, {"f": 1, "neighbors": 0}])
def test_bad_parameters(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Krum(**bad)
