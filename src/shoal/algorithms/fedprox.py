"""FedProx: FedAvg with a proximal term that holds local models near the global one.

Li et al., Federated optimization in heterogeneous networks, 2018, arXiv 1812.06127.
    y <- y - lr (grad F_k(y) + mu (y - x))      as many steps as each client has time for
    x <- x + sum_S n_k (y_k - x) / sum_S n_k
"""

from typing import Any

from shoal.aggregators import Mean
from shoal.algorithms.fedavg import FedAvg, schedule
from shoal.core import Aggregator, Algorithm, Chain, Trainer, Transform, with_rule
from shoal.rules import Proximal


def fedprox(
    mu: float = 0.01, *, trainer: Trainer[Any], cohort: int | None = None,
    rounds: FedAvg = FedAvg(), aggregator: Aggregator[Any] = Mean(),
    upload: Transform[Any] = Chain(), optimizer: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedProx; partial work counts like any other, so stragglers may send what they have.

    The paper draws clients in proportion to their examples and averages equally; here they are
    drawn uniformly and weighted by `rounds`.
    """
    return Algorithm(
        schedule(cohort, rounds), with_rule(trainer, Proximal(mu)), aggregator, upload, optimizer,
        "fedprox",
    )  # fmt: skip
