"""How a model is cut among workers, and how what they answer becomes one again."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from shoal.aggregators import Routed
from shoal.aggregators.buffers import Tops
from shoal.aggregators.routed import Split
from shoal.errors import ConfigError
from shoal.parts import blank
from shoal.plans.cut import Shard, even, layouts_of
from shoal.plans.passes import obstacles
from shoal.sums import WeightedSum
from shoal.tensors import PREFIXES, Tensors

LEAST = 1 << 16  # coordinates of a shard: fewer are folded before a message has arrived
GRAIN = 1 << 12  # shards begin at multiples of it, so that blocks of quantized values stay whole


def eager(parts: Sequence[Any]) -> bool:
    """Whether accumulators have one size, so that updates can be folded when they come."""
    return all(isinstance(part, WeightedSum | Tops) for part in parts)


def shards(
    model: Tensors, aggregator: Routed, most: int, count: int | None = None
) -> tuple[Shard, ...]:
    """The ranges that a model is cut into: one if the rule cannot do without whole updates.

    Args:
        most: ranges that are of use.
        count: ranges that are asked for; None for as many as are.

    Raises:
        ConfigError: if so many are asked for as the rule or the model does not have.
    """
    layouts, stuck = layouts_of(model), obstacles(aggregator)
    size = sum(layout.size for layout in layouts.values())
    if count is None:
        count = 1 if stuck else min(most, max(1, size // LEAST))
    elif count > 1 and (stuck or count > model.layout.size):
        problem = f"{stuck[0]} compares whole updates" if stuck else f"the model has {size} values"
        raise ConfigError("shards", f"{count} shards, but {problem}")
    return even(layouts, count, GRAIN)


def whole(pieces: Sequence[Split], like: Split) -> Split:
    """The accumulator of a whole model from those of its shards."""
    columns = zip(*(piece.parts for piece in pieces), strict=True)
    parts = (_whole(column, part) for column, part in zip(columns, like.parts, strict=True))
    return Split(like.prefixes, pieces[0].counts, tuple(parts))


def _whole(pieces: Sequence[Any], like: Any) -> Any:
    """One accumulator: arrays one after the other; of bounds that differ the one that holds."""
    found = {}
    for name in (field.name for field in fields(like) if field.init):
        values = [getattr(piece, name) for piece in pieces]
        if isinstance(values[0], np.ndarray):
            found[name] = np.concatenate(values)
        elif isinstance(values[0], int | float):
            found[name] = max(values)
        elif not isinstance(values[0], Tensors):
            found[name] = values[0]
    return replace(like, **found)


@dataclass(frozen=True)
class Ready:
    """An aggregator of one update, which is the aggregate: others have made it."""

    scope: ClassVar[str] = "coordinate"

    def init(self, model: Tensors) -> Tensors:
        """Nothing."""
        return blank(model.layout)

    def fold(self, acc: Tensors, value: Tensors, weight: float, client: str) -> Tensors:
        """The update."""
        return Tensors(value.layout, value.flat)

    def merge(self, a: Tensors, b: Tensors) -> Tensors:
        """The later one."""
        return b

    def finish(self, acc: Tensors) -> tuple[Tensors, Tensors]:
        """The update, and nothing."""
        return acc, blank(acc.layout)

    def clear(self, acc: Tensors) -> Tensors:
        """Nothing."""
        return blank(acc.layout)


READY = Routed(Ready(), {prefix: Ready() for prefix in PREFIXES if prefix != "private/"})
