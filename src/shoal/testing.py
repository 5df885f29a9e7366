"""A script of events for testing a coordinator: no network, no model, no sleep.

    play = Script(MyCoordinator(cohort=3)).join("a", "b", "c")
    assert play.start() == [Dispatch("a"), Dispatch("b"), Dispatch("c")]
    assert play.update("a") == [Aggregate(0, weight=1)]

The script drives a real node, so a coordinator that leaks an update or books a client twice fails.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from shoal import exchange as ex
from shoal.core import Coordinator, View
from shoal.errors import ProtocolError
from shoal.messages import Action, Event, Payload, Task
from shoal.node import Node
from shoal.tensors import Tensors

MODEL = Tensors.of({"x": np.zeros(1)})


class _Spy(Coordinator[Any]):
    """Passes everything through and keeps the last actions."""

    def __init__(self, inner: Coordinator[Any]) -> None:
        self.inner = inner
        self.actions: list[Action] = []

    def init(self) -> Any:
        return self.inner.init()

    def handle(self, state: Any, event: Event, view: View) -> tuple[Any, Sequence[Action]]:
        state, actions = self.inner.handle(state, event, view)
        self.actions += actions
        return state, actions

    def held(self, state: Any) -> Sequence[int]:
        return self.inner.held(state)


class Script:
    """Plays events to a coordinator and gives the actions that it answers."""

    def __init__(self, coordinator: Coordinator[Any], *, seed: int = 0) -> None:
        from shoal.aggregators import Mean
        from shoal.core import Chain
        from shoal.planes import Local

        self._spy = _Spy(coordinator)
        self.node = Node(self._spy, Local(Mean(), Chain()), MODEL, seed)

    @property
    def state(self) -> Any:
        """The coordinator's state."""
        return self.node.state

    def join(self, *clients: str) -> Self:
        """Clients join."""
        for client in clients:
            self._play(ex.Join(client))
        return self

    def start(self) -> list[Action]:
        """The run begins."""
        return self._play(ex.Begin())

    def arrive(self, client: str) -> list[Action]:
        """A client joins."""
        return self._play(ex.Join(client))

    def leave(self, client: str) -> list[Action]:
        """A client leaves, with its task."""
        return self._play(ex.Leave(client))

    def update(
        self, client: str, *, num_examples: int = 1, steps: int = 1, loss: float | None = None
    ) -> list[Action]:
        """A client answers its task."""
        metrics = {} if loss is None else {"loss": loss}
        payload = Payload(MODEL, num_examples, steps, metrics=metrics)
        return self._play(ex.Push(self.task(client).id, client, payload))

    def fail(self, client: str, reason: str = "error") -> list[Action]:
        """A client gives its task up."""
        return self._play(ex.Fail(self.task(client).id, client, reason))

    def evaluate(self, **metrics: float) -> list[Action]:
        """The evaluation that was asked for has come."""
        return self._play(ex.Assessed(self.node.version, metrics))

    def wait(self, seconds: float) -> list[Action]:
        """Time passes; timers that are due come in their order."""
        until = self.node.now + seconds
        self._spy.actions = []
        while due := sorted((at, name) for name, at in self.node.timers.items() if at <= until):
            at, name = due[0]
            self.node.handle(ex.Tick(name, at), at)
        self.node.now = until
        return self._spy.actions

    def task(self, client: str) -> Task:
        """The task that a client is busy with."""
        for task in (*self.node.tasks.values(), *self.node.cancelled.values()):
            if task.client == client:
                return task
        raise ProtocolError(f"{client!r} has no task")

    def _play(self, given: ex.Input) -> list[Action]:
        self._spy.actions = []
        self.node.handle(given, self.node.now)
        return self._spy.actions
