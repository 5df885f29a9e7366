"""Random plans, updates and arrival orders."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from shoal.plans import Arrival, At, Eager, Fold, Lazy, Plan, Trigger
from shoal.tensors import Tensors

TRIGGERS: st.SearchStrategy[Trigger] = st.one_of(
    st.just(Eager()), st.builds(Lazy, st.integers(0, 4)), st.builds(At, st.floats(0, 20))
)
PLACES = st.sampled_from(["", "a", "b"])


@st.composite
def forests(draw: st.DrawFn, updates: int, shard: tuple[int, int]) -> list[Fold]:
    """A random tree over all updates for one shard."""
    left: list[int | str] = list(draw(st.permutations(range(updates))))
    folds: list[Fold] = []
    while len(left) > 1 or not folds:
        count = draw(st.integers(1, len(left)))
        if len(folds) >= 8:
            count = len(left)
        taken, left = left[:count], left[count:]
        name = f"{shard[0]}.{len(folds)}"
        slots = tuple(x for x in taken if isinstance(x, int))
        names = tuple(x for x in taken if isinstance(x, str))
        folds.append(Fold(name, slots, names, shard, draw(TRIGGERS), draw(PLACES)))
        at = draw(st.integers(0, len(left)))
        left.insert(at, name)
    return folds


@st.composite
def plans(draw: st.DrawFn, updates: int, most_units: int = 5) -> Plan:
    """A random plan: ranges of units, a random tree in each."""
    units = draw(st.integers(1, most_units))
    cuts = sorted(draw(st.sets(st.integers(1, units - 1), max_size=3))) if units > 1 else []
    ends = [0, *cuts, units]
    folds: list[Fold] = []
    for shard in pairwise(ends):
        folds += draw(forests(updates, shard))
    return Plan(updates, tuple(draw(st.permutations(folds))), units)


def model() -> Tensors:
    return Tensors.of(
        {
            "w": np.zeros((3, 4), np.float32),
            "b": np.zeros(5, np.float32),
            "control/w": np.zeros((3, 4), np.float32),
            "buffer/mean": np.zeros(3, np.float32),
            "counter/batches": np.zeros(2, np.int64),
        }
    )


def arrivals(order: Sequence[int], seed: int, *, partial: bool = False) -> list[Arrival]:
    """One update for each number, in the given order; every third covers only "b" if `partial`."""
    found = []
    for at, slot in enumerate(order):
        draw = np.random.default_rng([seed, slot])
        values = {
            "w": draw.normal(size=(3, 4)).astype(np.float32),
            "b": draw.normal(size=5).astype(np.float32),
            "control/w": draw.normal(size=(3, 4)).astype(np.float32),
            "buffer/mean": draw.normal(size=3).astype(np.float32),
            "counter/batches": draw.integers(0, 99, 2),
        }
        if partial and slot % 3 == 2:
            del values["w"]
        weight = float(draw.integers(1, 100))
        found.append(Arrival(slot, Tensors.of(values), weight, f"c{slot}", float(at)))
    return found
