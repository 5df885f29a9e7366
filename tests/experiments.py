"""Experiments that tests refer to by name."""

from dataclasses import replace

import shoal


def softmax() -> shoal.Experiment:
    """FedAvg with rough clients on the bundled digits; a second or so."""
    return shoal.Experiment(
        model=None,
        data=shoal.data.digits(clients=20, partition=shoal.data.dirichlet(alpha=0.5)),
        algorithm=shoal.fedavg(
            5,
            over_selection=1.2,
            trainer=shoal.numpy.Softmax(lr=0.5, features=64, classes=10),
            upload=shoal.chain(shoal.Clip(5.0), shoal.ErrorFeedback(shoal.TopK(0.2))),
            aggregator=shoal.Mean(exact=True),
        ),
        commits=30,
        evaluate_every=5,
        devices=shoal.Devices(speed=shoal.LogNormal(1.0, 0.8), dropout=0.05, jitter=0.2),
        name="softmax",
    )


def both() -> list[shoal.Experiment]:
    """FedAvg and FedBuff on the same clients."""
    one = softmax()
    trainer = one.algorithm.trainer
    buffered = shoal.fedbuff(4, concurrency=8, trainer=trainer)
    return [one, replace(one, algorithm=buffered, name="buffered")]


def tree() -> shoal.Experiment:
    """Three relays between server and clients."""
    one = softmax()
    relays = shoal.Relays(3, one.algorithm.coordinator, shoal.Mean(), commits=2)
    upper = shoal.fedavg(3, trainer=one.algorithm.trainer)
    return replace(one, algorithm=upper, relays=relays, commits=6, evaluate_every=1, name="tree")


def not_an_experiment() -> int:
    """Wrong on purpose."""
    return 3
