"""What can be known before a function starts: what a rule will refuse, what memory it takes."""

from collections.abc import Mapping

from shoal.aggregators.routed import Split
from shoal.errors import ConfigError
from shoal.members import WORK
from shoal.planes.state import VALUES, has_sets
from shoal.sums import WeightedSum
from shoal.tensors import Layout, Tensors

BASE = 96 << 20  # bytes that Python, NumPy and boto3 take in a function


def is_exact(accumulator: Split) -> bool:
    """Whether it adds in fixed point, which may overflow."""
    sums = (part for part in accumulator.parts if isinstance(part, WeightedSum))
    return any(part.bits is not None for part in sums)


def apart(value: Tensors, model: Tensors) -> Tensors:
    """The largest magnitudes that values relative to the model may have, both given as ghosts."""
    base = model.select(value.layout.names)
    groups = {
        prefix: group
        if prefix in VALUES
        else group.with_flat(group.dense + base.groups[prefix].dense)
        for prefix, group in value.groups.items()
    }
    return Tensors(value.layout, value.dense + base.dense, groups)


def check_memory(
    ceiling: int, accumulator: Split, layouts: Mapping[str, Layout], shards: int, updates: int
) -> None:
    """Raise `ConfigError` if a function would need more bytes than its ceiling."""
    sets = has_sets(accumulator)
    fixed, divisible = needed(layouts, updates, exact=is_exact(accumulator), sets=sets)
    total = fixed + divisible // shards
    if total <= ceiling:
        return
    advice = "raise the runner's memory"
    if fixed < ceiling:
        advice += f", or use {-(-divisible // (ceiling - fixed))} shards"
    what = "all of its updates" if sets else "sums"
    raise ConfigError(
        "shards",
        f"with {shards}, a function needs about {total} bytes for {what} ({updates} so far), and"
        f" its ceiling is {ceiling}: {advice}",
    )


def needed(
    layouts: Mapping[str, Layout], updates: int, *, exact: bool, sets: bool
) -> tuple[int, int]:
    """Bytes that a function takes about, whatever the shards, and those that they divide.

    Args:
        updates: that it folds.
        exact: in fixed point.
        sets: all of them are kept.
    """
    values = totals = 0
    for layout in layouts.values():
        values += layout.size * layout.dtype.itemsize
        totals += layout.size * (8 if exact else max(4, layout.dtype.itemsize))
    # Objects are made of what they hold by two copies; a merge holds three accumulators.
    divisible = values * (updates + 3) if sets else 3 * totals + values
    return BASE + (WORK if sets else 0), divisible
