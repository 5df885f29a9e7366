"""Convolutional networks in compiled steps, against the same clients one by one."""

import numpy as np
import pytest
from cohorts import CLASSES, assert_close, bits, jobs_of, labeled, one_by_one
from torch import nn

from shoal.core import Examples
from shoal.errors import DataError
from shoal.rules import ControlVariate, Proximal
from shoal.trainers import _choice, _dense, _notes, _structure
from shoal.trainers.torch import SGD

LOCAL = {
    "plain": {},
    "proximal": {"rule": Proximal(0.3)},
    "control variate": {"rule": ControlVariate()},
    "all": {"rule": Proximal(0.1), "clip": 0.5, "momentum": 0.5, "weight_decay": 0.01},
}
# channels, height, width, kernel, border, pool
PLAIN = (1, 8, 8, 5, 2, 2)
SHAPES = [PLAIN, (3, 9, 7, 3, 1, 2), (2, 11, 12, 4, 0, 3), (17, 6, 7, 3, 0, 1), (1, 33, 5, 1, 0, 1)]


@pytest.fixture(autouse=True)
def _untold(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path))
    monkeypatch.setattr(_choice, "_known", {})
    monkeypatch.setattr(_notes, "_told", set())


def network(shape=PLAIN, act=nn.ReLU, pool_first=False):
    """Two convolutions, whose widths are no multiples of a vector's, and two linear layers."""
    channels, high, wide, kernel, border, pool = shape
    pooled = [(n + 2 * border - kernel + 1) // pool for n in (high, wide)]
    between = [act(), nn.MaxPool2d(pool)] if pool > 1 else [act()]
    return nn.Sequential(
        nn.Conv2d(channels, 6, kernel, padding=border), *between[:: -1 if pool_first else 1],
        nn.Sequential(nn.Conv2d(6, 18, 3, padding="same", bias=False), act()), nn.Flatten(),
        nn.Linear(18 * pooled[0] * pooled[1], 9), act(), nn.Linear(9, CLASSES),
    )  # fmt: skip


def trained(make, shape=PLAIN, sizes=(23, 10, 3, 1, 12), backend="native", **settings):
    """What the backend makes of some jobs, and what single clients do."""
    trainer = SGD(**{"lr": 0.1, "epochs": 2, **settings}, backend=backend).bind(make)

    def data(n, seed=0):
        return labeled(n, seed, shape[:3])

    found = trainer.train_many(jobs_of(trainer, data, sizes))
    return trainer, found, one_by_one(trainer, data, sizes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_images_of_all_shapes_agree_with_single_clients(shape, act):
    trainer, found, wanted = trained(lambda: network(shape, act), shape)
    assert trainer._cohorts._choice.backend == "native"
    assert_close(found, wanted, 1e-4)


@pytest.mark.parametrize("local", LOCAL)
def test_all_local_steps_agree_with_single_clients(local):
    trainer, found, wanted = trained(network, **LOCAL[local])
    assert trainer._cohorts._choice.backend == "native"
    assert_close(found, wanted, 2e-4)


def test_pooling_before_the_activation_is_the_same():
    for act in (nn.ReLU, nn.Tanh):
        _, found, _ = trained(lambda a=act: network(act=a))
        _, other, wanted = trained(lambda a=act: network(act=a, pool_first=True))
        assert bits(found) == bits(other)
        assert_close(other, wanted, 1e-4)


def test_bits_depend_neither_on_the_cohort_nor_on_threads_nor_on_a_neighbor(monkeypatch):
    def data(n, seed=0):
        return labeled(n, seed, PLAIN[:3])

    trainer = SGD(lr=0.1, epochs=2, backend="native").bind(network)
    whole = bits(trainer.train_many(jobs_of(trainer, data)))
    jobs = jobs_of(trainer, data)
    assert bits([trainer.train_many([job])[0] for job in jobs]) == whole
    jobs = jobs_of(trainer, data)
    huge = Examples(jobs[0].data.x * np.float32(1e30), jobs[0].data.y)
    wild = jobs[0]._replace(data=huge, rng=np.random.default_rng(5))
    mixed = trainer.train_many([wild, *jobs[::-1]])
    assert not np.isfinite(mixed[0][0].tensors.dense).all()
    assert bits(mixed[:0:-1]) == whole
    monkeypatch.setattr("shoal.kernels.threads.SMALL", 1)
    assert bits(trainer.train_many(jobs_of(trainer, data))) == whole


OTHERS = {
    "stride": (lambda: [nn.Conv2d(1, 2, 3, stride=2), nn.ReLU()], 18),
    "another border": (lambda: [nn.Conv2d(1, 2, 2, padding="same"), nn.ReLU()], 128),
    "dilation": (lambda: [nn.Conv2d(1, 2, (3, 1)), nn.ReLU()], 96),
    "than zeros": (lambda: [nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")], 128),
    "overlap": (lambda: [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 1)], 32),
    "border": (lambda: [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(4, ceil_mode=True)], 8),
    "no activation": (lambda: [nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)], 18),
    "AvgPool2d": (lambda: [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2)], 18),
    "holds ReLU": (lambda: [nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.ReLU()], 18),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_other_networks_are_trained_one_by_one_and_why(reason, capsys):
    layers, inside = OTHERS[reason]
    trainer, found, wanted = trained(
        lambda: nn.Sequential(*layers(), nn.Flatten(), nn.Linear(inside, CLASSES))
    )
    assert trainer._cohorts._choice.backend == "sequential"
    assert reason in trainer._cohorts._choice.reason and reason in capsys.readouterr().err
    assert bits(found) == bits(wanted)


def test_convolutions_are_measured_and_may_be_native():
    trainer, found, wanted = trained(network, backend="auto")
    choice = trainer._cohorts._choice
    assert " ms native" in choice.reason
    assert_close(found, wanted, 1e-4)


def test_layers_that_do_not_fit_the_images_are_no_network():
    trainer = SGD(lr=0.1, backend="native").bind(network)
    found = _structure.compiled_net(trainer._replica(), "cross_entropy", (1, 8, 8))
    assert isinstance(found, _dense.Net) and found.size == trainer.initial(0).layout.size
    for shape in ((1, 10, 10), (3, 8, 8), (64,)):
        assert isinstance(_structure.compiled_net(trainer._replica(), "cross_entropy", shape), str)


def test_a_client_with_images_of_another_shape_is_named():
    trainer = SGD(lr=0.1, backend="native").bind(network)
    jobs = jobs_of(trainer, lambda n, seed=0: labeled(n, seed, PLAIN[:3]))
    jobs[1] = jobs[1]._replace(data=labeled(9, 1, (1, 4, 16)))
    with pytest.raises(DataError, match=r"'c1'.*\(1, 4, 16\)"):
        trainer.train_many(jobs)
