"""TiFL: each round takes clients of one tier, so that none waits for a much slower one.

Chai et al., TiFL: A tier-based federated learning system, 2020, arXiv 2001.09249; from memory.
    profile seconds per task; drop clients above a limit; m tiers by speed, fastest first
    each round: draw a tier with its probability, then clients uniformly inside it
    adaptive: every I rounds, a tier's probability is its share of loss; credits limit its rounds

The paper adapts to each tier's test accuracy, when it has not improved. A server has none by tier:
here it is the mean reported training loss, always. Clients are profiled in their first task, unless
`seconds` tells. Tiers without idle clients are not drawn.
"""

from typing import Any

from shoal.aggregators import Mean
from shoal.algorithms._selection import Selecting, cohort_of
from shoal.algorithms.fedavg import FedAvg
from shoal.algorithms.tifl_tiers import ByTier, Profile
from shoal.core import Aggregator, Algorithm, Chain, Trainer, Transform


def tifl(
    cohort: int | None = None, *, trainer: Trainer[Any], tier: ByTier = ByTier(),
    rounds: FedAvg = FedAvg(), aggregator: Aggregator[Any] = Mean(),
    upload: Transform[Any] = Chain(), optimizer: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedAvg whose rounds are of one tier each."""
    coordinator = Selecting(cohort_of(rounds, cohort), tier)
    return Algorithm(coordinator, trainer, aggregator, upload, optimizer, "tifl")


__all__ = ["ByTier", "Profile", "tifl"]
