"""What many tests share: the quadratic federation of closed forms, and a way to run on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.combinators import until
from shoal.core import Algorithm, Examples
from shoal.exchange import Effect
from shoal.messages import CommitRecord, Record, TaskRecord
from shoal.node import Node
from shoal.planes import Local
from shoal.simulation import Devices
from shoal.tensors import Tensors
from shoal.transports import Simulator, steps

Q3_A, Q3_B, Q3_P = (1.0, 2.0, 4.0), (0.0, 1.0, 3.0), (5, 3, 2)


def q3() -> dict[str, Examples]:
    """Three quadratic clients whose example counts are in the ratio .5 : .3 : .2."""
    return {
        f"c{i}": Examples(np.full((n, 1), a), np.full(n, b))
        for i, (a, b, n) in enumerate(zip(Q3_A, Q3_B, Q3_P, strict=True))
    }


@dataclass
class Played:
    """What happened in a run.

    Attributes:
        models: the model of each version, from 0.
        records: all records, in order.
    """

    node: Node
    models: list[Tensors]
    records: list[Record] = field(default_factory=list)

    @property
    def xs(self) -> list[float]:
        """The scalar "x" of each version."""
        return [float(model["x"]) for model in self.models]

    @property
    def tasks(self) -> list[TaskRecord]:
        """The records of ended tasks."""
        return [r for r in self.records if isinstance(r, TaskRecord)]

    @property
    def commits(self) -> list[CommitRecord]:
        """The records of commits."""
        return [r for r in self.records if isinstance(r, CommitRecord)]


def play(
    algorithm: Algorithm,
    clients: Mapping[str, Examples],
    commits: int,
    *,
    devices: Devices | None = None,
    seed: int = 0,
) -> Played:
    """Run an algorithm in virtual time for some commits, keeping every model version."""
    model = algorithm.trainer.initial(seed)
    node = Node(
        until(algorithm.coordinator, commits=commits),
        Local(algorithm.aggregator, algorithm.optimizer, seed),
        model,
        seed,
    )
    played = Played(node, [model])
    simulator = Simulator(algorithm, clients, devices or Devices(), seed=seed)
    for effects in steps(node, simulator):
        keep(played, effects)
    return played


def keep(played: Played, effects: Sequence[Effect]) -> None:
    """Note the records among the effects, and the model after a commit."""
    for effect in effects:
        if isinstance(effect, Record):
            played.records.append(effect)
            if isinstance(effect, CommitRecord):
                played.models.append(played.node.model)
