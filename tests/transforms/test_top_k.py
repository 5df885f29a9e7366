import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core import Context
from shoal.encoded import Sparse
from shoal.errors import ConfigError
from shoal.tensors import Tensors
from shoal.transforms import TopK

numbers = st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=40)


def kept(flat: list[float], codec: TopK) -> np.ndarray:
    return codec.apply(Tensors.of({"a": np.array(flat)}), None, Context())[0].dense


def test_the_largest_magnitudes_stay() -> None:
    np.testing.assert_array_equal(kept([1, -5, 3, 0, -2], TopK(count=2)), [0, -5, 3, 0, 0])


def test_ties_go_to_the_lowest_index() -> None:
    np.testing.assert_array_equal(kept([1, -1, 2, 1, -1], TopK(count=3)), [1, -1, 2, 0, 0])
    np.testing.assert_array_equal(kept([0, 0, 0, 0], TopK(0.5)), [0, 0, 0, 0])


def test_the_buffer_is_sparse_over_all_names() -> None:
    value = Tensors.of({"a": np.array([[9.0, 0.0]]), "b": np.arange(8.0)})
    sent, _ = TopK(0.2).apply(value, None, Context())
    assert isinstance(sent.flat, Sparse)
    assert sent.flat.check() == ""
    assert sent.flat.indices.dtype == np.int32
    assert list(sent.flat.indices) == [0, 9]
    assert sent.nbytes == 2 * (4 + 8)


@given(flat=numbers, fraction=st.floats(0.01, 1.0))
def test_contraction(flat: list[float], fraction: float) -> None:
    u = np.array(flat)
    k = max(1, round(fraction * u.size))
    out = kept(flat, TopK(fraction))
    assert np.count_nonzero(out) <= k
    bound = (1 - k / u.size) * (u**2).sum()
    assert ((out - u) ** 2).sum() <= bound * (1 + 1e-9) + 1e-12


def test_contraction_is_tight_when_all_are_equal() -> None:
    u = np.ones(10)
    assert ((kept([1.0] * 10, TopK(0.3)) - u) ** 2).sum() == pytest.approx(0.7 * 10)


@pytest.mark.parametrize(
    ("fraction", "count"), [(None, None), (0.1, 3), (0.0, None), (1.5, None), (None, 0)]
)
def test_bad_parameters(fraction: float | None, count: int | None) -> None:
    with pytest.raises(ConfigError):
        TopK(fraction, count)
