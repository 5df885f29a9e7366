"""The model on its way to clients: whole, or as what has changed since the one that they hold.

Gruntkowska, Tyurin, Richtarik, EF21-P and Friends: Improved theoretical communication complexity
for distributed optimization with bidirectional compression, 2022, arXiv 2209.15218.
    c = C(x - w);   w <- w + c;   clients hold w, train from w, and send what they changed of w
The difference x - w is the memory of the error: what a change leaves out comes with a later one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.linalg import norm

from shoal import wire
from shoal.core import Context, Transform
from shoal.errors import ModelError
from shoal.exchange import Assign
from shoal.messages import Task
from shoal.seeds import integer
from shoal.tensors import Tensors, added, difference, equal

LENGTH = 8  # bytes before each of several changes, which say how long it is


class Whole:
    """Every task brings its whole model.

    Args:
        size: bytes of a model on the wire.
    """

    state: Any = None

    def __init__(self, size: Callable[[Tensors], int] = wire.size) -> None:
        self._size = size
        self._sizes: dict[tuple[str, ...] | None, int] = {}

    def assign(self, task: Task, model: Tensors) -> Assign:
        """A task with its model, or the part of it that the task covers."""
        if task.part is not None:
            model = model.select(task.part)
        return Assign(task, model, self._bytes(task, model))

    def ended(self, task: Task, model: Tensors) -> int:
        """The bytes that a task's model took on the wire; the task is over."""
        if task.part not in self._sizes and task.part is not None:
            model = model.select(task.part)
        return self._bytes(task, model)

    def changed(self) -> None:
        """The model is another one now."""

    def told(self, task: Task, answered: bool) -> None:
        """A task's client has answered, or the task was given up."""

    def forget(self, client: str, tasks: Iterable[Task] = ()) -> None:
        """A client holds nothing any more, and is given the models of its tasks again, whole."""

    def _bytes(self, task: Task, model: Tensors) -> int:
        if task.part not in self._sizes:  # by the layout, which never changes in a run
            self._sizes[task.part] = self._size(model)
        return self._sizes[task.part]


@dataclass(frozen=True, eq=False)
class Public:
    """The model that clients hold, and who holds which of those before it.

    Attributes:
        number: counts public models; 0 is the initial one.
        stale: whether the server's model has changed since.
        model: w.
        changes: the last of those that made it, oldest first; shorter than the model, all together.
        codec: the codec's state.
        holds: the number of the public model that a client is known to hold.
        out: of tasks that are not over, the number and the bytes of what they brought.
    """

    number: int
    stale: bool
    model: Tensors
    changes: tuple[Tensors, ...]
    codec: Any
    holds: Mapping[str, int]
    out: Mapping[int, tuple[int, int]]


class Changes:
    """Tasks bring encoded changes of a public model, the same for all clients.

    A client that is not known to hold one of the last public models gets the whole one. It is known
    by its answers; whoever joins, fails or goes is not any more. What is kept is the public model,
    its last changes (forgotten where the whole model is shorter), and one number a client.

    Args:
        codec: contractive, e.g. `chain(TopK(0.05), Quantize(8), Entropy())`.
        model: the initial one.
        seed: of the run.
    """

    def __init__(self, codec: Transform[Any], model: Tensors, seed: int) -> None:
        self._codec, self._seed = codec, integer(seed, "downlink")
        self._whole = wire.size(model)
        self._parts = Whole()
        self.state = Public(0, False, model, (), codec.init(model), {}, {})

    @property
    def state(self) -> Public:
        """All that is known, as plain data."""
        changes = tuple(change for change, _ in self._changes)
        held, out = dict(self._holds), dict(self._out)
        return Public(self._number, self._stale, self._model, changes, self._memory, held, out)

    @state.setter
    def state(self, known: Public) -> None:
        self._number, self._stale, self._model = known.number, known.stale, known.model
        self._changes = [(change, LENGTH + wire.size(change)) for change in known.changes]
        self._memory, self._holds, self._out = known.codec, dict(known.holds), dict(known.out)

    def assign(self, task: Task, model: Tensors) -> Assign:
        """A task with the public model, as it is or by the changes that lead to it.

        A part of the model is the server's own, whole.
        """
        if task.part is not None:
            found = self._parts.assign(task, model)
            self._out[task.id] = (-1, found.nbytes)
            return found
        if self._stale:
            self._advance(model, task.version)
        behind = self._number - self._holds.get(task.client, -1)
        if behind > len(self._changes):
            self._out[task.id] = (self._number, self._whole)
            return Assign(task, self._model, self._whole, self._number)
        since = self._changes[len(self._changes) - behind :]
        nbytes = sum(size for _, size in since)
        self._out[task.id] = (self._number, nbytes)
        changes = tuple(change for change, _ in since)
        return Assign(task, self._model, nbytes, self._number, changes)

    def ended(self, task: Task, model: Tensors) -> int:
        """The bytes that a task's model took on the wire; the task is over."""
        return self._out.pop(task.id)[1]

    def changed(self) -> None:
        """The server's model is another one now."""
        self._stale = True

    def told(self, task: Task, answered: bool) -> None:
        """A task's client has answered, so it has the task's model; or the task was given up."""
        number = self._out[task.id][0]
        if not answered:
            self._holds.pop(task.client, None)
        elif number >= 0:
            self._holds[task.client] = number

    def forget(self, client: str, tasks: Iterable[Task] = ()) -> None:
        """A client holds nothing any more, and is given the models of its tasks again, whole."""
        self._holds.pop(client, None)
        for task in tasks:
            number, nbytes = self._out[task.id]
            self._out[task.id] = (number, self._whole if number >= 0 else nbytes)

    def _advance(self, model: Tensors, version: int) -> None:
        """The next public model, if the server's differs from this one."""
        self._stale = False
        if equal(model, self._model):
            return
        ctx = Context(version=version, seed=self._seed, number=self._number + 1)
        wanted = difference(model, self._model)
        change, memory = self._codec.apply(wanted, self._memory, ctx)
        size = LENGTH + wire.size(change)
        public = added(self._model, change)
        self._number += 1
        if size >= self._whole or not _nearer(public, model, wanted):
            self._model, self._changes = model, []  # everybody gets it whole, without an error
            return
        self._model, self._memory = public, memory
        self._changes.append((change, size))
        while sum(each for _, each in self._changes) >= self._whole:
            del self._changes[0]


Downlink = Whole | Changes


def pieces(changes: Sequence[Tensors]) -> list[bytes | memoryview]:
    """Changes as bytes, in pieces: each a safetensors file behind its length (u64)."""
    found: list[bytes | memoryview] = []
    for change in changes:
        file = wire.parts(change)
        found += [sum(len(piece) for piece in _flat(file)).to_bytes(LENGTH, "little"), *file]
    return found


def follow(model: Tensors, data: bytes | memoryview) -> Tensors:
    """The model that changes lead to.

    Args:
        model: that they begin with.
        data: as `pieces` makes it; arrays may be views of it.

    Raises:
        ModelError: if the bytes are no changes of this model.
    """
    view = memoryview(data).cast("B")
    while len(view):
        length = int.from_bytes(view[:LENGTH], "little")
        if len(view) < LENGTH + length:
            raise ModelError(f"changes cut short: {len(view)} bytes, of {LENGTH + length}")
        change, _ = wire.load(view[LENGTH : LENGTH + length])
        _fits(change, model)
        model, view = added(model, change), view[LENGTH + length :]
    return model


def _nearer(public: Tensors, model: Tensors, wanted: Tensors) -> bool:
    """Whether a change leaves less than there was; not so of NaN."""
    return bool(norm(model.dense - public.dense) <= norm(wanted.dense))


def _flat(file: Sequence[bytes | memoryview]) -> list[memoryview]:
    return [memoryview(piece).cast("B") for piece in file]


def _fits(change: Tensors, model: Tensors) -> None:
    """Raise unless a change has the model's names, shapes and dtypes; nothing is decoded."""
    groups = [(change, model)]
    if change.groups.keys() != model.groups.keys():
        raise ModelError("a change with other groups than the model's")
    groups += [(change.groups[prefix], model.groups[prefix]) for prefix in model.groups]
    for own, known in groups:
        if own.layout != known.layout or own.flat.dtype != known.layout.dtype:
            raise ModelError(f"a change {own!r} that does not fit the model {known!r}")
