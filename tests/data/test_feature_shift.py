import numpy as np
import pytest

from shoal.core import Examples
from shoal.data import Dirichlet, FeatureShift, federate
from shoal.data.feature_shift import rotate
from shoal.errors import DataError

IMAGES = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_quarter_turns_are_exact(quarter):
    expected = np.rot90(IMAGES, quarter, axes=(-2, -1))
    assert rotate(IMAGES, 90 * quarter) == pytest.approx(expected, abs=1e-5)


def test_turning_there_and_back_keeps_a_smooth_image():
    row, column = np.mgrid[:32, :32] - 15.5
    blob = np.exp(-((row - 3) ** 2 + (column + 2) ** 2) / 30).astype(np.float32)[None]
    turned = rotate(blob, 30)
    assert np.abs(turned - blob).max() > 0.2
    assert rotate(turned, -30) == pytest.approx(blob, abs=0.04)


@pytest.mark.parametrize("kind", ["rotation", "noise", "scale"])
def test_each_client_sees_its_own_fixed_world(kind):
    shift = FeatureShift(kind, 30.0 if kind == "rotation" else 0.5)
    one = shift.transform(1, "a", IMAGES)
    assert one.dtype == np.float32 and one.shape == IMAGES.shape
    assert np.array_equal(one, shift.transform(1, "a", IMAGES))
    assert not np.allclose(one, shift.transform(1, "b", IMAGES))
    assert not np.allclose(one, shift.transform(2, "a", IMAGES))
    assert not np.allclose(one, IMAGES)


def test_levels_mean_what_they_say():
    zeros = np.zeros((1000, 20), np.float32)
    spreads = [FeatureShift("noise", 2.0).transform(0, f"c{i}", zeros).std() for i in range(100)]
    assert max(spreads) < 2.05 and np.mean(spreads) == pytest.approx(1.0, abs=0.15)
    ones = np.ones((1, 1), np.float32)
    gains = [FeatureShift("scale", 0.5).transform(0, f"c{i}", ones)[0, 0] for i in range(500)]
    assert np.log(gains).std() == pytest.approx(0.5, rel=0.1)


def test_federation_shifts_on_top_of_any_split():
    train = Examples(IMAGES, np.arange(5) % 2)
    shift = FeatureShift("scale", 0.5, Dirichlet(1.0))
    data = federate(train, train, partition=shift, clients=2, seed=4)
    plain = federate(train, train, partition=Dirichlet(1.0), clients=2, seed=4)
    for client in data.clients:
        assert np.array_equal(data.parts[client], plain.parts[client])
        assert np.array_equal(data[client].x, shift.transform(4, client, plain[client].x))


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="image=True"):
        FeatureShift("rotation", 10.0).transform(0, "a", np.zeros((4, 64), np.float32))
    with pytest.raises(DataError, match="float"):
        FeatureShift("scale", 1.0).transform(0, "a", np.zeros((4, 64), np.int64))
