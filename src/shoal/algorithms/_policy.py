"""What a selection method decides: who takes part, with how much work, and with what weight.

A policy is a frozen dataclass; what it remembers is plain data beside it.
"""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from shoal.core import View
from shoal.errors import ConfigError
from shoal.messages import Config, Task, Update

M = TypeVar("M")
Arrived = frozenset[str]


class Policy(ABC, Generic[M]):
    """Decisions of a selection method; what is not overridden is as in FedAvg."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Metrics that every update must report."""
        return ()

    def init(self) -> M:
        """The memory before the first round."""
        raise NotImplementedError

    def check(self, view: View) -> None:
        """Raise `ConfigError` if a run cannot begin with these clients."""

    def choose(self, memory: M, n: int, view: View, name: str) -> tuple[list[str], M]:
        """At most n of `view.idle` for a round of this name; at least one if there is one."""
        return view.sample(n, "cohort", name), memory

    def config(self, memory: M, client: str, config: Config) -> Config:
        """The work of a client that was chosen."""
        return config

    def weight(self, memory: M, update: Update, weight: float) -> float:
        """The weight of an update, from what FedAvg would give it."""
        return weight

    def seen(self, memory: M, update: Update, view: View) -> M:
        """An update came; its weight was decided before."""
        return memory

    def failed(self, memory: M, task: Task, view: View) -> M:
        """A task ended without an update, other than by being cancelled."""
        return memory

    def ended(self, memory: M, arrived: Arrived, view: View) -> M:
        """A round is over, with updates of these clients in its commit."""
        return memory

    def deadline(self, memory: M, invited: Arrived) -> float | None:
        """Seconds for a round that begins now; None for FedAvg's own."""
        return None


def known(field: str, values: Mapping[str, Any], view: View) -> None:
    """Raise `ConfigError` unless a statistic is there for every client present."""
    missing = [client for client in view.clients if client not in values]
    if missing:
        some = ", ".join(missing[:5])
        raise ConfigError(field, f"nothing is known of {len(missing)} clients ({some}): add them")


def reported(update: Update, metric: str) -> float:
    """A metric of an update.

    Raises:
        ConfigError: if its trainer does not report it.
    """
    if metric not in update.metrics:
        raise ConfigError(
            "trainer", f"reports no {metric!r}, which this method chooses by: wrap it in Measured"
        )
    return update.metrics[metric]


def some(pool: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    """At most n of a pool, uniformly."""
    return [pool[i] for i in rng.permutation(len(pool))[:n]]
