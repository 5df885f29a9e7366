"""What a plane knows of its sums while others add them: weights, coverage and bounds.

The ledger is an accumulator of the same rule for a model with one value under each name. It is told
the largest value of each update, so that it refuses, at once, what the sums could not take.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from shoal import kernels
from shoal.aggregators import Routed
from shoal.encoded import Array
from shoal.planes.state import check_sum
from shoal.sums import WeightedSum
from shoal.tensors import Layout, Tensors


class Ledger:
    """The books of one commit.

    Args:
        base: the accumulator that it begins with; None for an empty one.
    """

    def __init__(self, aggregator: Routed, model: Tensors, base: Any = None) -> None:
        self.count = 0
        self._aggregator = aggregator
        self._acc = aggregator.init(_small(model, largest=False))
        if base is not None:
            parts = map(_like, self._acc.parts, base.parts)
            self._acc = replace(self._acc, counts=base.counts, parts=tuple(parts))

    @property
    def exact(self) -> bool:
        """Whether the largest values matter."""
        sums = (part for part in self._acc.parts if isinstance(part, WeightedSum))
        return any(part.bits is not None for part in sums)

    def fold(self, value: Tensors, weight: float, client: str) -> None:
        """Note an update; its values are looked at only if the sums are exact.

        Raises:
            ConfigError: if a fixed-point sum could overflow.
            UpdateError: if the aggregator cannot take the update.
        """
        small = _small(value, largest=self.exact)
        self._acc = self._aggregator.fold(self._acc, small, weight, client)
        self.count += 1

    def check(self, folded: int) -> None:
        """Raise `ProtocolError` if a mean would divide by weights that sum to zero."""
        check_sum(self._aggregator, self._acc, folded)


def _small(value: Tensors, *, largest: bool) -> Tensors:
    """One value for each name: zeros, and the largest magnitude under the first."""
    groups = {prefix: _small(group, largest=largest) for prefix, group in value.groups.items()}
    layout = value.layout
    # Names without values stay so: they must not count as covered.
    shapes = tuple((1,) if all(shape) else (0,) for shape in layout.shapes)
    small = Layout(layout.names, shapes, layout.dtype)
    flat = np.zeros(small.size, small.dtype)
    if largest and flat.size:
        flat[0] = _peak(value.dense)
    return Tensors(small, flat, groups)


def _peak(values: Array) -> float:
    if values.dtype.kind == "f":
        return kernels.peak(values)
    return max(float(values.max()), -float(values.min()))


def _like(empty: Any, part: Any) -> Any:
    """What a sum says beside its values, for one of the ledger's size."""
    if not isinstance(part, WeightedSum):
        return empty
    plain = {
        field.name: getattr(part, field.name)
        for field in fields(part)
        if isinstance(getattr(part, field.name), int | float)
    }
    coverage = None
    if part.coverage is not None:
        most = part.coverage.max() if part.coverage.size else 0
        coverage = np.full_like(empty.total, most)
    return replace(empty, coverage=coverage, **plain)
