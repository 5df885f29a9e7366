"""Which node takes which update: best fit by residual capacity (Qi et al. 2024, arXiv 2405.10968).

RC_i = MC_i - k_i * E_i          capacity less what is in service (arrival rate * time of one)
best fit: the smallest RC that still holds an update, among nodes in use before unused ones
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from math import floor

from shoal.errors import ConfigError, positive


@dataclass(frozen=True)
class Machine:
    """A node that can run folds.

    Attributes:
        name: of the node.
        capacity: MC, updates that it can fold at once before any has to queue.
        rate: k, arrivals of other work, per second.
        seconds: E, mean time of one fold.
    """

    name: str
    capacity: float
    rate: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive("capacity", self.capacity)
        positive("rate", self.rate, zero=True)
        positive("seconds", self.seconds, zero=True)

    @property
    def residual(self) -> float:
        """RC, in updates; an absolute number, so that nodes of different sizes compare."""
        return self.capacity - self.rate * self.seconds


def best_fit(machines: Sequence[Machine], updates: int) -> tuple[str, ...]:
    """A node for each update: as few nodes as fit, so that most partials stay where they are.

    A node that is filled first stays the tightest fit until it is full, so nodes are filled one
    after the other; what fits nowhere goes to the least loaded.
    """
    used = [m for m in _checked(machines, updates) if m.rate > 0]
    unused = [m for m in machines if m.rate <= 0]
    return _fill(
        machines,
        [*sorted(used, key=lambda m: m.residual), *sorted(unused, key=lambda m: m.residual)],
        updates,
    )


def first_fit(machines: Sequence[Machine], updates: int) -> tuple[str, ...]:
    """A node for each update: the first, in the order given, that still holds one."""
    return _fill(machines, _checked(machines, updates), updates)


def spread(machines: Sequence[Machine], updates: int) -> tuple[str, ...]:
    """A node for each update: the one with the largest residual capacity (worst fit)."""
    left = [m.residual for m in _checked(machines, updates)]
    return tuple(_least_loaded(machines, left, updates))


PLACEMENTS: dict[str, Callable[[Sequence[Machine], int], tuple[str, ...]]] = {
    "best_fit": best_fit,
    "first_fit": first_fit,
    "spread": spread,
}


def _fill(machines: Sequence[Machine], order: Sequence[Machine], updates: int) -> tuple[str, ...]:
    chosen: list[str] = []
    left = {m.name: m.residual for m in machines}
    for machine in order:
        fits = min(max(0, floor(machine.residual)), updates - len(chosen))
        chosen += [machine.name] * fits
        left[machine.name] -= fits
    rest = updates - len(chosen)
    return (*chosen, *_least_loaded(machines, [left[m.name] for m in machines], rest))


def _least_loaded(machines: Sequence[Machine], left: Sequence[float], updates: int) -> list[str]:
    heap = [(-free, at) for at, free in enumerate(left)]
    heapify(heap)
    chosen = []
    for _ in range(updates):
        free, at = heap[0]
        chosen.append(machines[at].name)
        heapreplace(heap, (free + 1.0, at))
    return chosen


def _checked(machines: Sequence[Machine], updates: int) -> Sequence[Machine]:
    if not machines:
        raise ConfigError("machines", "there are none")
    if len({m.name for m in machines}) != len(machines):
        raise ConfigError("machines", "names are not unique")
    if updates < 0:
        raise ConfigError("updates", f"must be at least 0, got {updates!r}")
    return machines
