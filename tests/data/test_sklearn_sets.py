import numpy as np
import pytest

from shoal import plain
from shoal.data import DATASETS, Diabetes, Digits, Dirichlet, FeatureShift, Wine, digits, dirichlet
from shoal.data.sklearn_sets import standardize

pytest.importorskip("sklearn")

SIZES = {
    "digits": (1797, (64,), 10),
    "wine": (178, (13,), 3),
    "breast_cancer": (569, (30,), 2),
    "iris": (150, (4,), 3),
    "diabetes": (442, (10,), 0),
}


@pytest.mark.parametrize("name", SIZES)
def test_sets_have_their_published_sizes(name):
    total, shape, classes = SIZES[name]
    data = DATASETS[name](clients=5).load(seed=0)
    assert len(data.train) + len(data.test) == total
    assert len(data.test) == round(0.2 * total)
    assert data.train.x.shape[1:] == shape and data.train.x.dtype == np.float32
    assert len(data.classes) == classes and len(data.clients) == 5
    assert data.train.y.dtype == (np.int64 if classes else np.float32)
    if name != "digits":
        assert data.train.x.mean(axis=0) == pytest.approx(0, abs=1e-5)
        assert data.train.x.std(axis=0) == pytest.approx(1, abs=1e-4)
    if classes:
        share = np.bincount(data.test.y) / np.bincount(data.train.y)
        assert share == pytest.approx(0.25, abs=0.03)


def test_the_newcomers_line():
    data = digits(clients=100, partition=dirichlet(alpha=0.3)).load(seed=1)
    assert len(data.clients) == 100 and sum(len(data[c]) for c in data.clients) == 1438
    assert data.train.x.min() >= 0.0 and data.train.x.max() == 1.0


def test_digits_as_images_hold_the_same_pixels():
    flat, images = Digits(10).load(0), Digits(10, image=True).load(0)
    assert images.test.x.shape == (359, 1, 8, 8)
    assert np.array_equal(images.test.x.reshape(-1, 64), flat.test.x)


def test_the_test_set_is_the_same_for_every_seed_and_the_split_is_not():
    one, two = Digits(10).load(1), Digits(10).load(2)
    assert np.array_equal(one.test.x, two.test.x)
    assert not np.array_equal(one.parts["c3"], two.parts["c3"])


def test_a_nearest_centroid_classifier_works_so_inputs_and_targets_belong_together():
    data = Wine(clients=3).load(0)
    centers = np.stack([data.train.x[data.train.y == k].mean(axis=0) for k in range(3)])
    found = ((data.test.x[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    assert (found == data.test.y).mean() > 0.9


def test_regression_can_be_split_by_the_target():
    data = Diabetes(clients=5, partition=Dirichlet(0.05)).load(0)
    means = [float(data[c].y.mean()) for c in data.clients]
    assert np.ptp(means) > 0.5
    assert data.train.y.mean() == pytest.approx(0, abs=1e-5)


def test_descriptions_are_plain_data():
    described = Digits(partition=FeatureShift("rotation", 20.0, Dirichlet(0.3)), image=True)
    assert plain.encode(described) == {
        "clients": 100,
        "partition": {
            "kind": "rotation",
            "level": 20.0,
            "partition": {"alpha": 0.3, "min_size": 1},
        },
        "image": True,
    }


def test_standardize_puts_missing_values_and_constants_at_zero():
    x = np.array([[1.0, np.nan, 5.0], [3.0, 2.0, 5.0], [5.0, 4.0, 5.0], [99.0, np.nan, 6.0]])
    found = standardize(x, np.array([0, 1, 2]))
    assert found[:3, 0] == pytest.approx(np.array([-1.2247, 0, 1.2247]), abs=1e-4)
    assert found[:, 1].tolist() == [0.0, -1.0, 1.0, 0.0]
    assert found[:, 2].tolist() == [0.0, 0.0, 0.0, 1.0]
