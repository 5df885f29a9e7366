"""Small modules and data for the tests of the PyTorch trainer."""

import numpy as np
from torch import nn

from shoal.core import Examples
from shoal.messages import Task


def network():
    return nn.Sequential(nn.Linear(7, 13), nn.ReLU(), nn.Linear(13, 5), nn.Tanh(), nn.Linear(5, 3))


def normed():
    return nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def dropped():
    return nn.Sequential(nn.Linear(7, 20), nn.Dropout(0.5), nn.Linear(20, 3))


def data(n=43, seed=0):
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(size=(n, 7)).astype(np.float32), rng.integers(0, 3, n))


def train(trainer, model, examples=None, state=None, seed=1, **config):
    state = trainer.init(model) if state is None else state
    task = Task(0, "c", 0, config=config)
    return trainer.train(model, examples or data(), state, task, np.random.default_rng(seed))
