"""The plane in the server's own process: eager folding into one accumulator."""

from dataclasses import dataclass
from typing import Any

from shoal.aggregators import Routed
from shoal.core import NOTHING, Aggregator, Context, Transform
from shoal.errors import ProtocolError
from shoal.messages import Payload
from shoal.tensors import Tensors, difference

VALUES = ("buffer/", "counter/")  # groups that are sent as values and replace the model's


@dataclass(frozen=True)
class Snapshot:
    """A plane's complete state."""

    model: Tensors
    version: int
    folded: int
    accumulator: Any
    optimizer: Any
    held: dict[int, Payload]


class Local:
    """Holds updates until they are folded; memory is one accumulator and what is held.

    Args:
        aggregator: the algorithm's; buffers are always averaged plainly beside it.
        optimizer: turns the aggregate into the step that is added to the model.
        seed: of the optimizer's draws, e.g. central noise.
    """

    def __init__(self, aggregator: Aggregator[Any], optimizer: Transform[Any], seed: int = 0):
        self.aggregator = aggregator if isinstance(aggregator, Routed) else Routed(aggregator)
        self.optimizer, self.seed = optimizer, seed
        self._held: dict[int, Payload] = {}
        self._model: Tensors | None = None
        self._accumulator: Any = None
        self._optimizer: Any = None
        self.version = self.folded = 0

    def start(self, model: Tensors, version: int) -> None:
        """Take a model as the current one; server optimizer state survives a relay's restart."""
        self._model, self.version, self.folded = model, version, 0
        self._accumulator = self.aggregator.init(model)
        if self._optimizer is None:
            self._optimizer = self.optimizer.init(model)

    @property
    def model(self) -> Tensors:
        """The current model."""
        if self._model is None:
            raise ProtocolError("the plane was not started with a model")
        return self._model

    def put(self, update: int, payload: Payload) -> None:
        """Hold an update."""
        self._held[update] = payload

    def fold(self, update: int, weight: float, client: str) -> None:
        """Fold a held update and let go of it."""
        payload = self._held.pop(update)
        value = payload.tensors
        if payload.kind == "model":
            value = difference(value, self.model.select(value.layout.names))
        self._accumulator = self.aggregator.fold(self._accumulator, value, weight, client)
        self.folded += 1

    def drop(self, update: int) -> None:
        """Let go of a held update."""
        del self._held[update]

    def commit(self) -> Tensors:
        """Finish, optimize and add to the model; with nothing folded, the same model."""
        model = self.model
        self.version += 1
        if self.folded:
            value, self._accumulator = self.aggregator.finish(self._accumulator)
            if self.optimizer != NOTHING:
                context = Context(version=self.version, seed=self.seed, number=self.version)
                value, self._optimizer = self.optimizer.apply(value, self._optimizer, context)
            self._model = _add(model, value)
            self.folded = 0
        return self.model

    def abandon(self) -> None:
        """Forget what was folded since the last commit."""
        self._accumulator = self.aggregator.clear(self._accumulator)
        self.folded = 0

    def snapshot(self) -> Snapshot:
        """The complete state."""
        return Snapshot(
            self.model, self.version, self.folded, self._accumulator, self._optimizer,
            dict(self._held),
        )  # fmt: skip

    def example(self) -> Snapshot:
        """A snapshot whose parts have the right types, for decoding one."""
        model = self.model
        return Snapshot(model, 0, 0, self.aggregator.init(model), self.optimizer.init(model), {})

    def restore(self, snapshot: Snapshot) -> None:
        """Take a snapshot's state."""
        self._model, self.version, self.folded = (
            snapshot.model, snapshot.version, snapshot.folded,
        )  # fmt: skip
        self._accumulator, self._optimizer = snapshot.accumulator, snapshot.optimizer
        self._held = dict(snapshot.held)


def _add(model: Tensors, step: Tensors) -> Tensors:
    if not step.groups:
        return Tensors(model.layout, model.dense + step.dense, model.groups)
    groups = dict(model.groups)
    for prefix, group in step.groups.items():
        old = model.groups[prefix]
        groups[prefix] = group if prefix in VALUES else old.with_flat(old.dense + group.dense)
    return Tensors(model.layout, model.dense + step.dense, groups)
