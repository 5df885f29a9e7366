"""One run with whole models, with uploads picked by the links, and with both ways compressed.

    shoal run examples/compressed.py:compare --out runs/compressed
    shoal show runs/compressed

Links take 5 kB a second up and 20 kB down, so what is not sent is time won.
"""

from dataclasses import replace

import shoal

SMALL = shoal.chain(shoal.TopK(0.1), shoal.Quantize(8), shoal.Entropy())


def whole() -> shoal.Experiment:
    """FedAvg on digits over slow links."""
    return shoal.Experiment(
        model=None,
        data=shoal.data.digits(clients=20, partition=shoal.data.dirichlet(alpha=0.3)),
        algorithm=shoal.fedavg(
            10, trainer=shoal.numpy.Softmax(lr=0.1, features=64, classes=10, local_steps=10)
        ),
        commits=30,
        evaluate_every=10,
        devices=shoal.Devices(
            speed=shoal.LogNormal(median=0.01, sigma=0.3),
            up=shoal.LogNormal(median=5e3, sigma=0.5),
            down=shoal.LogNormal(median=20e3, sigma=0.5),
        ),
        name="whole",
    )


def auto() -> shoal.Experiment:
    """Uploads that take no longer than training does."""
    return replace(whole(), upload="auto", name="auto")


def both() -> shoal.Experiment:
    """A tenth of the values up and down; what is left out comes later."""
    upload = shoal.chain(
        shoal.ErrorFeedback(shoal.chain(shoal.TopK(0.1), shoal.Quantize(8))), shoal.Entropy()
    )
    return replace(whole(), upload=upload, downlink=SMALL, name="both")


def compare() -> list[shoal.Experiment]:
    """All three."""
    return [whole(), auto(), both()]


if __name__ == "__main__":
    for experiment in compare():
        for record in shoal.simulate(experiment):
            accuracy = record.metrics["accuracy"]
            print(f"{experiment.name:6} {record.time:7.1f}s  v{record.version}  {accuracy:.3f}")
