"""Handwritten digits over 50 unequal clients with skewed classes, in virtual time.

    shoal run examples/digits.py:compare     four algorithms, two kinds of unequal speed
    shoal run examples/digits.py:hello       FedAvg alone

No download: the digits come with scikit-learn.
"""

from dataclasses import replace

from torch import nn

import shoal

TARGET = 0.90
CLIENTS = 50


def model() -> nn.Module:
    """A small convolutional network for 8x8 images: 5 thousand parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def hello() -> shoal.Experiment:
    """FedAvg with ten of the clients a round, whose speeds are log-normal."""
    return shoal.Experiment(
        model=model,
        data=shoal.data.digits(
            clients=CLIENTS, partition=shoal.data.dirichlet(alpha=0.3), image=True
        ),
        algorithm=shoal.fedavg(10, trainer=shoal.torch.SGD(lr=0.2, local_steps=20, batch=16)),
        devices=shoal.Devices(
            speed=shoal.LogNormal(median=0.05, sigma=0.6),  # seconds per local step
            down=shoal.LogNormal(median=1e6, sigma=0.5),  # bytes per second
            up=shoal.LogNormal(median=2.5e5, sigma=0.5),
            jitter=0.1,
        ),
        commits=1000,
        target=TARGET,
        evaluate_every=1,
        name="FedAvg",
    )


def compare() -> list[shoal.Experiment]:
    """The same clients under four algorithms, with log-normal and with exponential speeds."""
    trainer = shoal.torch.SGD(lr=0.2, local_steps=20, batch=16)
    algorithms = {
        "FedAvg": shoal.fedavg(10, trainer=trainer),
        "FedBuff": shoal.fedbuff(10, trainer=trainer),
        "FedAsync": shoal.fedasync(alpha=0.6, trainer=trainer),
        "FedCompass": shoal.fedcompass(min_steps=8, max_steps=40, trainer=trainer),
    }
    speeds: dict[str, shoal.Distribution] = {
        "log-normal": shoal.LogNormal(median=0.05, sigma=0.6),
        "exponential": shoal.Exponential(mean=0.06),
    }
    base = hello()
    return [
        replace(
            base,
            algorithm=algorithm,
            devices=replace(base.devices, speed=speed),
            name=f"{title}, {law}",
        )
        for law, speed in speeds.items()
        for title, algorithm in algorithms.items()
    ]
