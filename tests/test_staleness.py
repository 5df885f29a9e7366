"""Staleness functions: one at zero, never rising, and the printed formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.staleness import SQRT, STALENESS, Constant, Hinge, Polynomial, Staleness

FUNCTIONS = st.one_of(
    st.just(Constant()),
    st.builds(Polynomial, st.floats(0, 8)),
    st.builds(Hinge, st.floats(0, 50), st.floats(0, 50)),
)


@given(s=FUNCTIONS, tau=st.integers(0, 10_000))
def test_a_fresh_update_counts_fully_and_none_more_than_a_fresher_one(
    s: Staleness, tau: int
) -> None:
    assert s(0) == 1.0
    assert 0.0 <= s(tau + 1) <= s(tau) <= 1.0


@pytest.mark.parametrize(
    ("s", "values"),
    [
        (Constant(), {0: 1.0, 7: 1.0}),
        (Polynomial(0.5), {3: 0.5, 8: 1 / 3}),
        (Polynomial(1.0), {1: 0.5, 9: 0.1}),
        (Polynomial(0.0), {5: 1.0}),
        (Hinge(10.0, 4.0), {4: 1.0, 5: 1 / 11, 6: 1 / 21}),
        (Hinge(0.5, 0.0), {0: 1.0, 2: 0.5}),
    ],
)
def test_values(s: Staleness, values: dict[int, float]) -> None:
    for tau, value in values.items():
        assert s(tau) == pytest.approx(value, rel=1e-15)


def test_the_default_is_one_over_the_square_root() -> None:
    assert Polynomial() == SQRT
    assert SQRT(15) == 0.25


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_parameters_name_their_field(bad: float) -> None:
    for make, field in ((Polynomial, "a"), (Hinge, "a"), (lambda b: Hinge(1.0, b), "b")):
        with pytest.raises(ConfigError, match=rf"^{field}:"):
            make(bad)


def test_the_dictionary_names_the_classes() -> None:
    assert {name: kind.__name__ for name, kind in STALENESS.items()} == {
        name: name for name in STALENESS
    }
