"""Where client states live between tasks: in memory, or spilled to one file."""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from shoal import wire
from shoal.client import ClientState
from shoal.errors import CheckpointError, ConfigError, ModelError, positive
from shoal.plain import Store, decode, encode
from shoal.tensors import Tensors


class ClientStore(Protocol):
    """A mapping from client to state."""

    def get(self, client: str) -> ClientState | None:
        """The state of a client, None if it has not worked yet."""

    def put(self, client: str, state: ClientState) -> None:
        """Keep a client's state."""

    def items(self) -> Iterator[tuple[str, ClientState]]:
        """All clients and their states, sorted."""

    def clear(self) -> None:
        """Forget all."""

    def close(self) -> None:
        """Let go of files."""


class MemoryStore:
    """All states in memory."""

    def __init__(self) -> None:
        self._states: dict[str, ClientState] = {}

    def get(self, client: str) -> ClientState | None:
        """The state of a client, None if it has not worked yet."""
        return self._states.get(client)

    def put(self, client: str, state: ClientState) -> None:
        """Keep a client's state."""
        self._states[client] = state

    def items(self) -> Iterator[tuple[str, ClientState]]:
        """All clients and their states, sorted."""
        yield from sorted(self._states.items())

    def clear(self) -> None:
        """Forget all."""
        self._states.clear()

    def close(self) -> None:
        """Nothing to let go of."""


class SpillStore:
    """The most recently used states in memory, the others in one SQLite file.

    The file is a working copy of this process, not a checkpoint: it is made anew.

    Args:
        path: of the file.
        like: a fresh client's state, which says what the states are made of.
        budget: how many states to keep in memory.

    Raises:
        CheckpointError: from every method, naming the file, if it cannot be written or read, e.g.
            when the disk is full. A state that could not be written stays in memory.
    """

    def __init__(self, path: Path, like: ClientState, budget: int = 1024) -> None:
        positive("budget", budget)
        self._recent: OrderedDict[str, ClientState] = OrderedDict()
        self._path, self._like, self._budget = path, like, budget
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"client states cannot go to {path}: {error}") from error
        with self._guarded("cannot go to"):
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            # Nobody reads it after a crash, but a full disk must not spoil what is there.
            self._file.execute("PRAGMA journal_mode=MEMORY")
            self._file.execute("PRAGMA synchronous=OFF")
            self._file.execute(
                "CREATE TABLE states (client TEXT PRIMARY KEY, plain TEXT, tensors BLOB)"
            )

    def get(self, client: str) -> ClientState | None:
        """The state of a client, None if it has not worked yet."""
        if client in self._recent:
            self._recent.move_to_end(client)
            return self._recent[client]
        with self._guarded("cannot be read from"):
            row = self._file.execute(
                "SELECT plain, tensors FROM states WHERE client = ?", (client,)
            ).fetchone()
        return None if row is None else self._decode(*row)

    def put(self, client: str, state: ClientState) -> None:
        """Keep a client's state, spilling the least recently used ones beyond the budget."""
        self._recent[client] = state
        self._recent.move_to_end(client)
        while len(self._recent) > self._budget:
            oldest = next(iter(self._recent))
            self._spill(oldest, self._recent[oldest])
            del self._recent[oldest]

    def items(self) -> Iterator[tuple[str, ClientState]]:
        """All clients and their states, sorted; those on disk are read one at a time."""
        with self._guarded("cannot be read from"):
            rows = self._file.execute("SELECT client FROM states").fetchall()
        for client in sorted({row[0] for row in rows} | set(self._recent)):
            state = self.get(client)
            if state is not None:
                yield client, state

    def clear(self) -> None:
        """Forget all."""
        self._recent.clear()
        with self._guarded("cannot be removed from"):
            self._file.execute("DELETE FROM states")

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _spill(self, client: str, state: ClientState) -> None:
        found: Store = {}
        row = (client, json.dumps(encode(state, found)), pack(found))
        with self._guarded("cannot be written to"):
            self._file.execute("REPLACE INTO states VALUES (?, ?, ?)", row)

    def _decode(self, plain: str, packed: bytes) -> ClientState:
        try:
            state: ClientState = decode(
                ClientState, json.loads(plain), unpack(packed), like=self._like
            )
        except (ConfigError, ModelError, TypeError, ValueError) as error:
            raise CheckpointError(f"a client state in {self._path} is damaged: {error}") from error
        return state

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:  # the latter for a state of gigabytes
            raise CheckpointError(
                f"client states {what} {self._path}: {error}. "
                "Free space, or keep more states in memory (a larger budget)"
            ) from error


def pack(found: Store) -> bytes:
    """Safetensors files one after the other, each aligned, after an index of their lengths."""
    parts = [(path, wire.dump(tensors)) for path, tensors in found.items()]
    index = json.dumps([(path, len(data)) for path, data in parts]).encode()
    index += b" " * (-len(index) % 8)
    padded = (x for _, data in parts for x in (data, bytes(-len(data) % 8)))
    return b"".join([len(index).to_bytes(8, "little"), index, *padded])


def unpack(packed: bytes | memoryview) -> Store:
    """The tensors again, by path; they share the memory of what they came in."""
    view = memoryview(packed)
    start = 8 + int.from_bytes(view[:8], "little")
    found: dict[str, Tensors] = {}
    for path, length in json.loads(bytes(view[8:start])):
        found[path] = wire.load(view[start : start + length])[0]
        start += length + -length % 8
    return found
