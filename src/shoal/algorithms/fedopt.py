"""FedAdagrad, FedAdam and FedYogi: FedAvg with an adaptive optimizer at the server.

Reddi et al., Adaptive federated optimization, 2020, arXiv 2003.00295.
    d = sum_S w_k delta_k / sum_S w_k;  m <- b1 m + (1 - b1) d
    v <- its own rule;  x <- x + lr m / (sqrt(v) + tau)             no bias correction

`v` starts at `v0`, tau^2 if None. Tune `lr` together with the clients' learning rate.
"""

from typing import Any

from shoal.aggregators import Mean
from shoal.algorithms.fedavg import FedAvg, schedule
from shoal.core import Aggregator, Algorithm, Chain, Trainer, Transform
from shoal.transforms import Adagrad, Adam, Yogi


def fedadagrad(
    cohort: int | None = None, *, trainer: Trainer[Any], lr: float = 0.01, b1: float = 0.9,
    tau: float = 1e-3, v0: float | None = None, rounds: FedAvg = FedAvg(),
    aggregator: Aggregator[Any] = Mean(), upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedAdagrad: v <- v + d^2; the paper has b1 = 0."""
    step = Adagrad(lr, b1, tau, v0)
    return Algorithm(schedule(cohort, rounds), trainer, aggregator, upload, step, "fedadagrad")


def fedadam(
    cohort: int | None = None, *, trainer: Trainer[Any], lr: float = 0.1, b1: float = 0.9,
    b2: float = 0.99, tau: float = 1e-3, v0: float | None = None, rounds: FedAvg = FedAvg(),
    aggregator: Aggregator[Any] = Mean(), upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedAdam: v <- b2 v + (1 - b2) d^2."""
    step = Adam(lr, b1, b2, tau, v0)
    return Algorithm(schedule(cohort, rounds), trainer, aggregator, upload, step, "fedadam")


def fedyogi(
    cohort: int | None = None, *, trainer: Trainer[Any], lr: float = 0.01, b1: float = 0.9,
    b2: float = 0.99, tau: float = 1e-3, v0: float | None = None, rounds: FedAvg = FedAvg(),
    aggregator: Aggregator[Any] = Mean(), upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedYogi: v <- v - (1 - b2) d^2 sign(v - d^2)."""
    step = Yogi(lr, b1, b2, tau, v0)
    return Algorithm(schedule(cohort, rounds), trainer, aggregator, upload, step, "fedyogi")
