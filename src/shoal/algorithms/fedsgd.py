"""FedSGD: rounds of one full-batch gradient per client, which is large-batch gradient descent.

McMahan et al., Communication-efficient learning of deep networks from decentralized data, 2016,
arXiv 1602.05629: FedAvg with E = 1 and B = infinity.
    x <- x - lr sum_S n_k grad F_k(x) / sum_S n_k
"""

from dataclasses import replace
from typing import Any

from shoal.aggregators import Mean
from shoal.algorithms.fedavg import FedAvg, schedule
from shoal.core import Aggregator, Algorithm, Chain, Trainer, Transform


def fedsgd(
    cohort: int | None = None, *, trainer: Trainer[Any], rounds: FedAvg = FedAvg(),
    aggregator: Aggregator[Any] = Mean(), upload: Transform[Any] = Chain(),
    optimizer: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedSGD at the trainer's learning rate, however much work it would do by itself."""
    planned = schedule(cohort, rounds)
    one = replace(planned, config={**planned.config, "steps": 1, "batch": 0})
    return Algorithm(one, trainer, aggregator, upload, optimizer, "fedsgd")
