"""The accumulator of rules that need the whole set of updates, and what those rules share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shoal.encoded import Array
from shoal.errors import UpdateError
from shoal.parts import blank, ranges, scatter
from shoal.tensors import Layout, Tensors

BLOCK = 1 << 18  # values at a time, so that memory beside the updates stays small


@dataclass(frozen=True, eq=False)
class Member:
    """One update of the set."""

    client: str
    weight: float
    value: Tensors


@dataclass(frozen=True, eq=False)
class Members:
    """A set of updates, in the order of arrival.

    Attributes:
        like: names and shapes, without values.
        members: the updates as they came, encoded or not.
    """

    like: Tensors
    members: tuple[Member, ...] = ()

    def add(self, value: Tensors, weight: float, client: str, *, parts: bool) -> "Members":
        """With one more update, which may cover a part of the names if `parts`.

        Raises:
            UpdateError: if it covers a part and may not, or does not fit the model.
        """
        if value.layout != self.like.layout:
            ranges(self.like.layout, value.layout)
            if not parts:
                raise UpdateError(
                    f"update of client {client!r} covers a part of the model, and this rule "
                    "compares whole updates: use Mean, Median or TrimmedMean for parts"
                )
        member = Member(client, weight, Tensors(value.layout, value.flat))
        return Members(self.like, (*self.members, member))

    def join(self, other: "Members") -> "Members":
        """Both sets."""
        return Members(self.like, self.members + other.members)

    def cleared(self) -> "Members":
        """The empty set."""
        return Members(self.like)

    def rows(self) -> list[Array]:
        """The flat values of each, shape (size,), by client; NaN where one covers nothing."""
        chosen = sorted(self.members, key=lambda member: member.client)
        if len({member.client for member in chosen}) < len(chosen):
            # Two updates of one client: only their bits give an order that arrival cannot change.
            chosen.sort(key=lambda member: (member.client, member.value.dense.tobytes()))
        return [_row(member.value, self.like.layout) for member in chosen]


def empty(layout: Layout) -> Members:
    """The empty set for a layout."""
    return Members(blank(layout))


def blocks(rows: Sequence[Array]) -> Iterator[tuple[slice, Array]]:
    """The rows side by side in float64, some columns at a time: (range, block of shape (n, k))."""
    size = rows[0].size if rows else 0
    step = max(1, BLOCK // max(1, len(rows)))
    for begin in range(0, size, step):
        where = slice(begin, min(begin + step, size))
        yield where, np.stack([row[where] for row in rows]).astype(np.float64)


def per_coordinate(
    rows: Sequence[Array], size: int, rule: Callable[[Array, Array], Array]
) -> Array:
    """Apply a rule to every coordinate; shape (size,), float64.

    Args:
        rule: of sorted values, shape (n, k), with NaN last, and how many are none, shape (k,).
    """
    out = np.zeros(size)
    for where, block in blocks(rows):
        block.sort(axis=0)
        out[where] = rule(block, len(rows) - np.isnan(block).sum(axis=0))
    return out


def middle(block: Array, counts: Array) -> Array:
    """The median of sorted columns, the average of the two central values; 0 for none."""
    low = np.take_along_axis(block, np.maximum(counts - 1, 0)[None] // 2, 0)[0]
    high = np.take_along_axis(block, np.minimum(counts // 2, len(block) - 1)[None], 0)[0]
    return np.where(counts > 0, np.where(low == high, low, 0.5 * low + 0.5 * high), 0.0)


def result(values: Array, layout: Layout) -> Tensors:
    """Values in a layout's dtype."""
    return Tensors(layout, values.astype(layout.dtype, copy=False))


def _row(value: Tensors, layout: Layout) -> Array:
    flat = value.dense
    if value.layout == layout:
        return flat
    return scatter(np.full(layout.size, np.nan, flat.dtype), layout, value.layout, flat)
