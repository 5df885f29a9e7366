import numpy as np
import pytest
from scipy import stats

from shoal.core import Context, chain
from shoal.errors import ConfigError
from shoal.tensors import Tensors
from shoal.transforms import Noise


def noise(transform: Noise, dtype: type = np.float32, n: int = 20_000) -> np.ndarray:
    value = Tensors.of({"a": np.full(n, 5.0, dtype)})
    return transform.apply(value, None, Context(client="a"))[0].dense - dtype(5.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_gaussian_with_this_deviation(dtype: type) -> None:
    drawn = noise(Noise(0.5), dtype)
    assert drawn.dtype == dtype
    assert stats.kstest(drawn, stats.norm(0, 0.5).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.03


def test_two_with_different_names_are_independent() -> None:
    both = chain(Noise(1.0), Noise(1.0, draw="second"))
    value = Tensors.of({"a": np.zeros(20_000)})
    out, _ = both.apply(value, both.init(value), Context())
    assert np.std(out.dense) == pytest.approx(np.sqrt(2), rel=0.03)


def test_bad_deviation() -> None:
    with pytest.raises(ConfigError, match="std"):
        Noise(-0.1)
