import numpy as np
import pytest

from shoal.core import Context
from shoal.errors import ConfigError
from shoal.tensors import Tensors
from shoal.transforms import Scale


def test_it_multiplies() -> None:
    out, _ = Scale(-0.5).apply(Tensors.of({"a": [2.0, -4.0]}), None, Context())
    np.testing.assert_array_equal(out["a"], [-1.0, 2.0])


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_bad_factor(factor: float) -> None:
    with pytest.raises(ConfigError, match="factor"):
        Scale(factor)
