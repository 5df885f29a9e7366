"""SCAFFOLD: control variates take the clients' drift out of their local steps.

Karimireddy et al., SCAFFOLD: Stochastic controlled averaging for federated learning, 2019,
arXiv 1910.06378; local steps and c_i, option II, are in `rules.ControlVariate`.
    x <- x + lr / |S| sum_S (y_i - x)
    c <- c + 1 / N sum_S (c_i+ - c_i)           N the population, not the cohort
"""

from dataclasses import replace
from typing import Any

from shoal.aggregators import Mean, Routed, Sum
from shoal.algorithms.fedavg import FedAvg, schedule
from shoal.core import Aggregator, Algorithm, Chain, Trainer, Transform, chain, with_rule
from shoal.errors import ConfigError, positive
from shoal.rules import ControlVariate
from shoal.transforms import On, Scale

CONTROL = "control/"


def scaffold(
    cohort: int | None = None, *, trainer: Trainer[Any], population: int, lr: float = 1.0,
    rounds: FedAvg = FedAvg(), aggregator: Aggregator[Any] = Mean(),
    upload: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """SCAFFOLD with equal weights.

    Args:
        cohort: clients per round; None for everyone present.
        trainer: of plain local steps: momentum breaks option II.
        population: N, all clients that there are; c is the mean of their c_i at any time.
        lr: server learning rate.
        rounds: the schedule. A client keeps its new c_i when the server throws its update away, so
            a quorum above 1 is refused; lost uploads move c off the mean as well.
        aggregator: of the deltas; control variates are summed.
        upload: works on the deltas; bind a transform to "control/" with `On`.

    Raises:
        ConfigError: if the population is smaller than the cohort, or a round could be abandoned.
    """
    positive("population", population)
    positive("lr", lr)
    planned = replace(schedule(cohort, rounds), weighting="equal")
    if planned.cohort is not None and planned.cohort > population:
        raise ConfigError("population", f"{population} is less than the cohort of {planned.cohort}")
    if planned.quorum > 1:
        raise ConfigError("rounds.quorum", "an abandoned round would lose control variates: use 1")
    return Algorithm(
        planned, with_rule(trainer, ControlVariate()), Routed(aggregator, {CONTROL: Sum()}),
        upload, chain(Scale(lr), On(CONTROL, Scale(1 / population))), "scaffold",
    )  # fmt: skip
