"""Models as bytes for downloads: made once a version, shared by all who pull it, never copied.

What is downloaded is the whole model, or the changes that lead to it from one that clients hold.
"""

import threading
from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

from shoal import downlink, wire
from shoal.exchange import Assign
from shoal.net.protocol import INLINE, Raw, hasher
from shoal.tensors import Tensors

SLICE = 1 << 20  # bytes handed to a socket at once
Key = tuple[int, tuple[str, ...] | None, int, int]


class Volume:
    """One model version as one safetensors file in memory, the values where they lie.

    Args:
        model: that its task starts from.
        number, changes: as of an `Assign`.

    Attributes:
        size: bytes of the file, or of the changes in place of it.
        room: bytes of the file.
    """

    __slots__ = (
        "__weakref__", "_digests", "_lock", "_model", "_parts", "changes", "model", "number",
        "room", "size", "version",
    )  # fmt: skip

    def __init__(
        self, model: Tensors, version: int, number: int = -1,
        changes: tuple[Tensors, ...] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.version, self.number, self.changes = model, version, number, changes
        whole = wire.parts(model)
        found: list[Raw] = [*(whole if changes is None else downlink.pieces(changes))]
        self.room, self.size = _length(whole), _length(found)
        if self.size <= INLINE:
            found = [b"".join(found)]
        self._parts = [memoryview(part).cast("B") for part in found if len(part)]
        self._model = whole if changes is not None else found
        self._digests: dict[tuple[str, bool], str] = {}
        self._lock = threading.Lock()

    @property
    def base(self) -> int:
        """The number of the model that the changes begin with; -1 for the file."""
        return -1 if self.changes is None else self.number - len(self.changes)

    @property
    def small(self) -> bool:
        """Whether it travels with its task."""
        return self.size <= INLINE

    @property
    def whole(self) -> memoryview:
        """All bytes of a small one."""
        return self._parts[0] if self._parts else memoryview(b"")

    def slices(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`, in pieces."""
        at = 0
        for part in self._parts:
            low, high = max(start - at, 0), min(stop - at, len(part))
            for begin in range(low, high, SLICE):
                yield part[begin : min(begin + SLICE, high)]
            at += len(part)

    def digest(self, kind: str, *, model: bool = False) -> str:
        """`kind=hex` of all bytes, or of the file that the changes lead to; computed once."""
        with self._lock:
            if (kind, model) not in self._digests:
                made = hasher(kind)
                for part in self._model if model else self._parts:
                    made.update(part)
                self._digests[kind, model] = f"{kind}={made.hexdigest()}"
            return self._digests[kind, model]


class Shelf:
    """The volumes that tasks in flight refer to; one is forgotten with its last task."""

    def __init__(self) -> None:
        self._volumes: WeakValueDictionary[Key, Volume] = WeakValueDictionary()

    def get(self, given: Assign) -> Volume:
        """The volume of a task's model."""
        task, model, changes = given.task, given.model, given.changes
        key = (task.version, task.part, given.number, -1 if changes is None else len(changes))
        volume = self._volumes.get(key)
        if volume is None or (volume.model is not model and task.part is None):
            volume = Volume(model, task.version, given.number, changes)
            self._volumes[key] = volume
        return volume


def _length(pieces: Sequence[Raw]) -> int:
    return sum(memoryview(piece).nbytes for piece in pieces)
