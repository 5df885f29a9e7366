"""SCAFFOLD: control variates take the clients' drift out of their local steps.

Karimireddy et al., SCAFFOLD: Stochastic controlled averaging for federated learning, 2019,
arXiv 1910.06378; local steps and c_i, option II, are in `rules.ControlVariate`.
    x <- x + lr / |S| sum_S (y_i - x)
    c <- c + 1 / N sum_S (c_i+ - c_i)           N the population, not the cohort

As c_i+ - c_i = (x - y_i) / (K lr) - c, the server can tell it from y_i - x: one vector goes up, as
in FedAvg, and the results are those of two up to rounding (Huang et al., SCALLION, 2023, arXiv
2308.08165, start from this form).
"""

from typing import Any, Literal

from shoal.aggregators import Mean, Routed, Sum
from shoal.algorithms._per_step import among, per_step, plain_steps
from shoal.algorithms._shares import check_choice
from shoal.algorithms._slopes import CONTROL, Slopes
from shoal.algorithms.fedavg import FedAvg
from shoal.core import Aggregator, Algorithm, Chain, Trainer, Transform, chain
from shoal.errors import ConfigError, positive
from shoal.rules import ControlVariate
from shoal.transforms import On, Scale

Wire = Literal["one", "two"]


def scaffold(
    cohort: int | None = None, *, trainer: Trainer[Any], population: int, lr: float = 1.0,
    rounds: FedAvg = FedAvg(), aggregator: Aggregator[Any] = Mean(),
    upload: Transform[Any] = Chain(), wire: Wire = "one",
) -> Algorithm:  # fmt: skip
    """SCAFFOLD with equal weights.

    Args:
        cohort: clients per round; None for everyone present.
        trainer: of plain local steps: momentum breaks option II. Its rate must be lower than what
            FedAvg just bears: c_i feeds on itself, lr (K - 1) / 2 times the curvature each round.
        population: N, all clients that there are; c is the mean of their c_i at any time.
        lr: server learning rate.
        rounds: the schedule. A client keeps its new c_i when the server throws its update away, so
            a quorum above 1 is refused; lost uploads move c off the mean as well.
        aggregator: of the deltas; control variates are summed. Needs `wire="two"`.
        upload: works on the deltas; bind a transform to "control/" with `On`. Needs `wire="two"`.
        wire: vectors that go up. What changes deltas on their way would change c with them, so
            that is for "two"; so are relays and the functions plane.

    Raises:
        ConfigError: if the population is smaller than the cohort, a round could be abandoned, or
            one vector does not suffice.
    """
    check_choice("wire", wire, Wire)
    planned = among(cohort, rounds, population)
    positive("lr", lr)
    if wire == "two":
        local = plain_steps(trainer, ControlVariate())
        step = chain(Scale(lr), On(CONTROL, Scale(1 / population)))
        return Algorithm(
            planned, local, Routed(aggregator, {CONTROL: Sum()}), upload, step, "scaffold"
        )
    if aggregator != Mean() or upload != Chain():
        raise ConfigError("wire", 'another aggregator or an upload pipeline needs wire="two"')
    return Algorithm(
        per_step(planned, trainer), plain_steps(trainer, ControlVariate(sends=False)),
        Slopes(population), Chain(), Scale(lr), "scaffold",
    )  # fmt: skip
