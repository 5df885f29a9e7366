"""Train a classifier on handwritten digits over 100 unequal clients, in virtual time."""

from torch import nn

import shoal


def model() -> nn.Module:
    """A small network for 8x8 images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def hello() -> shoal.Experiment:
    """FedAvg with ten of the clients in each round."""
    return shoal.Experiment(
        model=model,
        data=shoal.data.digits(clients=100, partition=shoal.data.dirichlet(alpha=0.3)),
        algorithm=shoal.fedavg(cohort=10, trainer=shoal.torch.SGD(lr=0.1, epochs=1)),
        devices=shoal.Devices(speed=shoal.LogNormal(median=0.05, sigma=1.0)),
        commits=50,
        evaluate_every=5,
        seed=0,
    )


if __name__ == "__main__":
    for record in shoal.simulate(hello()):
        print(f"{record.time:7.1f}s  v{record.version}  accuracy {record.metrics['accuracy']:.3f}")
