"""The mean of every client's last update, remembered over commits (Yang et al. 2021, 2108.09875).

g_i <- w_i * u_i      when client i sends something; 0 until it does
out = (1/N) sum over all i of g_i        as a running sum that is summed anew from time to time
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from shoal.encoded import Array
from shoal.errors import positive
from shoal.parts import blank, ranges
from shoal.sums import owned
from shoal.tensors import Tensors

ANEW = 1000  # folds after which the running sum is summed anew


@dataclass(frozen=True, eq=False)
class Memory:
    """What clients sent last. Methods reuse `total`'s memory.

    Attributes:
        like: names and shapes, without values.
        total: the sum over all clients, shape (size,), float64.
        latest: each client's last update times its weight, shape (size,).
        fresh: who sent something since the last commit.
        folds: since `total` was last summed anew.
    """

    like: Tensors
    total: Array
    latest: Mapping[str, Array] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()
    folds: int = 0

    def summed(self) -> "Memory":
        """The same with its total free of accumulated rounding."""
        total = np.zeros_like(self.total)
        for row in self.latest.values():
            total += row
        return replace(self, total=total, folds=0)


@dataclass(frozen=True)
class Latest:
    """The server's memory of N models, one for each client.

    Attributes:
        clients: N. Where more have been heard of, their number takes its place.
    """

    clients: int
    scope: ClassVar[str] = "coordinate"

    def __post_init__(self) -> None:
        """Check the number of clients."""
        positive("clients", self.clients)

    def init(self, model: Tensors) -> Memory:
        """Nobody has sent anything."""
        return Memory(blank(model.layout), np.zeros(model.layout.size))

    def fold(self, acc: Memory, value: Tensors, weight: float, client: str) -> Memory:
        """Replace a client's last update; a partial one replaces what it covers.

        Raises:
            UpdateError: if it has names that the model has not.
        """
        layout, old, flat = acc.like.layout, acc.latest.get(client), value.dense
        dtype = np.result_type(layout.dtype, np.float32)
        row = np.zeros(layout.size, dtype) if old is None else old.copy()
        for target, source in ranges(layout, value.layout):
            np.multiply(flat[source], weight, out=row[target], casting="same_kind")
        total = owned(acc.total)
        if old is not None:
            total -= old
        total += row
        latest, fresh = {**acc.latest, client: row}, acc.fresh | {client}
        new = Memory(acc.like, total, latest, fresh, acc.folds + 1)
        return new.summed() if new.folds >= max(ANEW, self.clients) else new

    def merge(self, a: Memory, b: Memory) -> Memory:
        """What was sent since the last commit goes before what either remembers."""
        newer = {c: row for c, row in b.latest.items() if c in b.fresh or c not in a.latest}
        merged = replace(a, latest={**a.latest, **newer}, fresh=a.fresh | b.fresh)
        return merged.summed()

    def finish(self, acc: Memory) -> tuple[Tensors, Memory]:
        """The mean over all clients; the accumulator remembers them."""
        layout = acc.like.layout
        mean = acc.total / max(self.clients, len(acc.latest))
        return Tensors(layout, mean.astype(layout.dtype, copy=False)), self.clear(acc)

    def clear(self, acc: Memory) -> Memory:
        """The same memory: what a client last sent stays its latest, committed or not."""
        return replace(acc, fresh=frozenset())
