import numpy as np
import pytest

from shoal.core import Context
from shoal.encoded import Sparse
from shoal.errors import ConfigError
from shoal.tensors import Tensors
from shoal.transforms import Clip, Noise, On, TopK

MODEL = Tensors.of({"w": np.zeros(3), "control/w": np.zeros(3), "buffer/m": np.ones(2)})


def test_only_the_group_is_transformed() -> None:
    value = Tensors.of({"w": [3.0, 4, 0], "control/w": [3.0, 4, 0], "buffer/m": [5.0, 5]})
    bound = On("control/", Clip(1.0))
    out, _ = bound.apply(value, bound.init(MODEL), Context())
    np.testing.assert_array_equal(out["w"], [3, 4, 0])
    np.testing.assert_allclose(out["control/w"], [0.6, 0.8, 0])
    np.testing.assert_array_equal(out["buffer/m"], [5, 5])


def test_a_group_may_be_encoded() -> None:
    value = MODEL.with_group("control/", Tensors.of({"w": [3.0, 4, 0]}))
    bound = On("control/", TopK(count=1))
    out, _ = bound.apply(value, bound.init(MODEL), Context())
    assert isinstance(out.groups["control/"].flat, Sparse)
    np.testing.assert_array_equal(out["control/w"], [0, 4, 0])


def test_equal_noise_would_cancel_so_groups_have_draws_of_their_own() -> None:
    bound, ctx = On("control/", Noise(1.0)), Context(client="a", seed=1)
    out, _ = Noise(1.0).apply(MODEL, None, ctx)
    out, _ = bound.apply(out, None, ctx)
    assert np.abs(out["w"] - out["control/w"]).min() > 1e-3


def test_a_value_without_the_group_passes() -> None:
    value, bound = Tensors.of({"w": np.ones(3)}), On("control/", Clip(1.0))
    assert bound.apply(value, bound.init(MODEL), Context())[0] is value


def test_an_unknown_prefix_and_a_model_without_the_group_are_refused() -> None:
    with pytest.raises(ConfigError, match="control/"):
        On("contrl/", Clip(1.0))
    with pytest.raises(ConfigError, match=r"no group 'mask/'; it has: buffer/, control/"):
        On("mask/", Clip(1.0)).init(MODEL)
