"""The seam between a node and its world, and the only loop in the system."""

from collections.abc import Iterator
from typing import Protocol

from shoal.exchange import Effect, Input
from shoal.node import Node


class Transport(Protocol):
    """Brings inputs with their times, and performs effects."""

    def receive(self) -> tuple[Input, float]:
        """The next input and its time in seconds; `Quiet` when nothing can come any more."""

    def perform(self, effect: Effect) -> None:
        """Carry out one effect."""

    def close(self) -> None:
        """Let go of threads, sockets and files."""


def steps(node: Node, transport: Transport) -> Iterator[list[Effect]]:
    """Run a node, giving the effects of each input once they are performed."""
    while not node.done:
        given, now = transport.receive()
        effects = node.handle(given, now)
        for effect in effects:
            transport.perform(effect)
        yield effects


def run(node: Node, transport: Transport) -> None:
    """Run a node to its end."""
    for _ in steps(node, transport):
        pass
