"""How many leaves, middles and tops a node runs, ahead of demand (Qi et al. 2024, 2405.10968).

Q_i = a * (k_i * E_i) + (1 - a) * Q_i          leaves_i = ceil(Q_i / I)
one middle on each node with several leaves; one top in all, where most updates are
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isnan

from shoal.errors import ConfigError, fraction, positive
from shoal.plans.plan import Eager, Fold, Plan, Trigger


@dataclass(frozen=True)
class Queue:
    """The expected number of updates at a node: an exponentially weighted moving average.

    Attributes:
        share: of the new sample in the next estimate. Published work uses 0.7 and does not agree
            on whether that is the share of the new or of the old one.
        estimate: so far; NaN before the first sample.
    """

    share: float = 0.7
    estimate: float = float("nan")

    def __post_init__(self) -> None:
        """Check the share."""
        fraction("share", self.share)

    def seen(self, rate: float, seconds: float) -> "Queue":
        """With a sample of k arrivals per second and E seconds for one; k * E are in service."""
        positive("rate", rate, zero=True)
        positive("seconds", seconds, zero=True)
        sample = rate * seconds
        if isnan(self.estimate):
            return Queue(self.share, sample)
        return Queue(self.share, self.share * sample + (1.0 - self.share) * self.estimate)


@dataclass(frozen=True)
class Roles:
    """What the workers of one node are."""

    leaves: int = 0
    middles: int = 0
    tops: int = 0

    @property
    def folds(self) -> int:
        """All folds on the node."""
        return self.leaves + self.middles + self.tops

    @property
    def workers(self) -> int:
        """Workers that are enough if those that finished change their role: one per leaf."""
        return max(self.leaves, min(1, self.folds))


@dataclass(frozen=True)
class Change:
    """What to do on one node from one cycle to the next.

    Attributes:
        start: new workers.
        keep: workers that are there and stay.
        convert: folds that a worker takes over after it finished another, in one round.
        retire: workers that are not needed.
    """

    start: int
    keep: int
    convert: int
    retire: int


def hierarchy(queues: Mapping[str, float], per_leaf: int = 2) -> dict[str, Roles]:
    """The roles on each node for the expected numbers of updates.

    Args:
        queues: Q of each node, in updates.
        per_leaf: I, updates of one leaf. 2 to 4 suit shared memory; across an object store use
            the fan-in of `plans.best_fan_in`.
    """
    if per_leaf < 1:
        raise ConfigError("per_leaf", f"must be at least 1, got {per_leaf!r}")
    for name, queue in queues.items():
        positive(f"queues.{name}", queue, zero=True)
    busy = {name: ceil(queue / per_leaf) for name, queue in queues.items() if queue > 0}
    top = max(busy, key=lambda name: queues[name], default="")
    return {name: Roles(leaves, int(leaves > 1), int(name == top)) for name, leaves in busy.items()}


def change(now: Roles, then: Roles) -> Change:
    """From one cycle's roles on a node to the next's, with warm workers used again."""
    have, need = now.workers, then.workers
    return Change(max(0, need - have), min(have, need), then.folds - need, max(0, have - need))


def hierarchy_plan(nodes: Sequence[str], per_leaf: int = 2, trigger: Trigger = Eager()) -> Plan:
    """The plan for updates that lie on nodes: leaves and a middle on each, a top on the fullest.

    Args:
        nodes: where each update is, by its number, as `best_fit` returns it.
    """
    here: dict[str, list[int]] = {}
    for slot, name in enumerate(nodes):
        here.setdefault(name, []).append(slot)
    roles = hierarchy({name: float(len(slots)) for name, slots in here.items()}, per_leaf)
    top = next((name for name, role in roles.items() if role.tops), "")
    folds, heads = [], []
    for name, slots in here.items():
        width = roles[name].leaves
        parts = (
            slots[i * len(slots) // width : (i + 1) * len(slots) // width] for i in range(width)
        )
        leaves = [
            Fold(f"{name}.leaf{i}", tuple(part), trigger=trigger, place=name)
            for i, part in enumerate(parts)
        ]
        folds += leaves
        heads += [leaf.id for leaf in leaves] if width == 1 else [f"{name}.middle"]
        if width > 1:
            ids = tuple(leaf.id for leaf in leaves)
            folds.append(Fold(heads[-1], inputs=ids, trigger=trigger, place=name))
    folds.append(Fold("top", inputs=tuple(heads), trigger=trigger, place=top))
    return Plan(len(nodes), tuple(folds), name="hierarchy")
