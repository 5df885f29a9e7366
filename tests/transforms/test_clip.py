import numpy as np
import pytest

from shoal.core import Context
from shoal.errors import ConfigError
from shoal.tensors import Tensors
from shoal.transforms import Clip

CTX = Context()


def clipped(values: dict[str, list[float]], norm: float) -> Tensors:
    return Clip(norm).apply(Tensors.of(values), None, CTX)[0]


def test_the_norm_is_global_over_all_names() -> None:
    out = clipped({"a": [3.0], "b": [0.0, 4.0]}, 2.5)
    np.testing.assert_allclose(out["a"], [1.5])
    np.testing.assert_allclose(out["b"], [0.0, 2.0])


def test_what_is_within_passes_as_the_same_object() -> None:
    value = Tensors.of({"a": [3.0, 4.0]})
    assert Clip(5.0).apply(value, None, CTX)[0] is value


def test_zero_over_zero_is_zero() -> None:
    assert not clipped({"a": [0.0, 0.0]}, 1.0)["a"].any()


def test_float32_norm_is_bounded_over_a_large_model() -> None:
    flat = np.full(3_000_000, 0.1, np.float32)
    out, _ = Clip(1.0).apply(Tensors.of({"a": flat}), None, CTX)
    assert out.dense.dtype == np.float32
    assert np.linalg.norm(out.dense.astype(np.float64)) == pytest.approx(1.0, rel=1e-6)


def test_a_norm_whose_square_overflows_float32() -> None:
    value = Tensors.of({"a": np.array([3e25, 4e25], np.float32)})
    np.testing.assert_allclose(Clip(1.0).apply(value, None, CTX)[0].dense, [0.6, 0.8], rtol=1e-6)


def test_what_overflows_the_square_stays_within_the_bound() -> None:
    assert np.linalg.norm(clipped({"a": [1e200, 1e200]}, 1.0).dense) <= 1.0


@pytest.mark.parametrize("norm", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_norm(norm: float) -> None:
    with pytest.raises(ConfigError, match="norm"):
        Clip(norm)
