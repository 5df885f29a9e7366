"""FedDyn: a dynamic regularizer, so that clients' optima agree with the global one.

Acar et al., Federated learning based on dynamic regularization, 2021, arXiv 2111.04263; checked on
quadratics. Local steps are in `rules.Dynamic`.
    l_i <- l_i - alpha (y_i - x);    h <- h - alpha/N sum over S of (y_i - x)
    x <- mean over S of y_i - h / alpha

The wire is FedAvg's. With few of many clients in a round h can grow without bound: the cohort's
share, alpha and the local steps go together. Clients must come near the optimum of their local
problem; what the server throws away or changes on its way (a lossy upload) makes h inexact. In our
study (10 of 100 clients, ten local steps) alpha = 1 ended above FedAvg, and 0.1 below or near it.
"""

from typing import Any

from shoal.algorithms._duals import Duals
from shoal.algorithms._per_step import among
from shoal.algorithms.fedavg import FedAvg
from shoal.core import Algorithm, Chain, Trainer, Transform, with_rule
from shoal.rules import Dynamic


def feddyn(
    cohort: int | None = None, *, trainer: Trainer[Any], population: int, alpha: float = 0.1,
    rounds: FedAvg = FedAvg(), upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedDyn with equal weights.

    Args:
        cohort: clients per round; None for everyone present.
        trainer: of many local steps.
        population: N, all clients that there are.
        alpha: strength; 0.1, 0.01 and 0.001 are the paper's.
        rounds: the schedule; a quorum above 1 is refused.
        upload: works on the deltas.

    Raises:
        ConfigError: if the population is smaller than the cohort, or a round could be abandoned.
    """
    return Algorithm(
        among(cohort, rounds, population), with_rule(trainer, Dynamic(alpha)), Duals(population),
        upload, name="feddyn",
    )  # fmt: skip
