"""FedAvgM: FedAvg with momentum at the server.

Hsu, Qi and Brown, Measuring the effects of non-identical data distribution for federated visual
classification, 2019, arXiv 1909.06335.
    m <- beta m + d;  x <- x + lr m             d = sum_S w_k delta_k / sum_S w_k
"""

from typing import Any

from shoal.aggregators import Mean
from shoal.algorithms.fedavg import FedAvg, schedule
from shoal.core import Aggregator, Algorithm, Chain, Trainer, Transform
from shoal.transforms import Momentum


def fedavgm(
    cohort: int | None = None, *, trainer: Trainer[Any], beta: float = 0.9, lr: float = 1.0,
    rounds: FedAvg = FedAvg(), aggregator: Aggregator[Any] = Mean(),
    upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedAvgM; beta = 0 and lr = 1 is FedAvg."""
    step = Momentum(beta, lr)
    return Algorithm(schedule(cohort, rounds), trainer, aggregator, upload, step, "fedavgm")
