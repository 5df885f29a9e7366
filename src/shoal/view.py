"""A node as its coordinator sees it."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from shoal import messages as m
from shoal.seeds import choose, rng

if TYPE_CHECKING:
    from shoal.node import Node


class View:
    """A node as its coordinator sees it; the `core.View` of a running node."""

    __slots__ = ("_node",)

    def __init__(self, node: "Node") -> None:
        self._node = node

    @property
    def now(self) -> float:
        """Seconds on the node's clock."""
        return self._node.now

    @property
    def version(self) -> int:
        """Commits so far."""
        return self._node.version

    @property
    def clients(self) -> list[str]:
        """Everyone present, sorted."""
        return self._node.clients

    @property
    def idle(self) -> list[str]:
        """Those present without a task, sorted."""
        return self._node.idle

    @property
    def in_flight(self) -> Mapping[int, m.Task]:
        """Tasks that are out and not cancelled, by id."""
        return self._node.tasks

    def staleness(self, update: m.Update) -> int:
        """Commits since the version that the update started from, counted now."""
        return self._node.version - update.version

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """The generator of a named draw."""
        return rng(self._node.seed, "coordinator", *purpose)

    def sample(self, n: int, *purpose: str | int) -> list[str]:
        """At most n distinct idle clients, uniformly."""
        idle = self._node.idle
        return choose(idle, min(n, len(idle)), self._node.seed, "sample", *purpose)


def has(items: list[str], item: str) -> bool:
    """Whether a sorted list holds an item."""
    at = bisect_left(items, item)
    return at < len(items) and items[at] == item


def remove(items: list[str], item: str) -> bool:
    """Take an item out of a sorted list; whether it was there."""
    at = bisect_left(items, item)
    if at == len(items) or items[at] != item:
        return False
    del items[at]
    return True
