"""Where client states live between tasks: in memory, or spilled to one file."""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from shoal import wire
from shoal.client import ClientState
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

    Args:
        path: of the file; made anew.
        like: a fresh client's state, which says what the states are made of.
        budget: how many states to keep in memory.
    """

    def __init__(self, path: Path, like: ClientState, budget: int = 1024) -> None:
        self._recent: OrderedDict[str, ClientState] = OrderedDict()
        self._like, self._budget = like, budget
        path.unlink(missing_ok=True)
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode=OFF")
        self._file.execute("PRAGMA synchronous=OFF")
        self._file.execute(
            "CREATE TABLE states (client TEXT PRIMARY KEY, plain TEXT, tensors BLOB)"
        )

    def get(self, client: str) -> ClientState | None:
        """The state of a client, None if it has not worked yet."""
        if client in self._recent:
            self._recent.move_to_end(client)
            return self._recent[client]
        row = self._file.execute(
            "SELECT plain, tensors FROM states WHERE client = ?", (client,)
        ).fetchone()
        return None if row is None else self._decode(*row)

    def put(self, client: str, state: ClientState) -> None:
        """Keep a client's state, spilling the least recently used one beyond the budget."""
        self._recent[client] = state
        self._recent.move_to_end(client)
        if len(self._recent) > self._budget:
            self._spill(*self._recent.popitem(last=False))

    def items(self) -> Iterator[tuple[str, ClientState]]:
        """All clients and their states, sorted."""
        rows = self._file.execute("SELECT client FROM states").fetchall()
        for client in sorted({row[0] for row in rows} | set(self._recent)):
            state = self._recent.get(client) or self.get(client)
            assert state is not None
            yield client, state

    def clear(self) -> None:
        """Forget all."""
        self._recent.clear()
        self._file.execute("DELETE FROM states")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _spill(self, client: str, state: ClientState) -> None:
        found: Store = {}
        plain = json.dumps(encode(state, found))
        packed = _pack(found)
        self._file.execute("REPLACE INTO states VALUES (?, ?, ?)", (client, plain, packed))

    def _decode(self, plain: str, packed: bytes) -> ClientState:
        state: ClientState = decode(
            ClientState, json.loads(plain), _unpack(packed), like=self._like
        )
        return state


def _pack(found: Store) -> bytes:
    parts = [(path, wire.dump(tensors)) for path, tensors in found.items()]
    index = json.dumps([(path, len(data)) for path, data in parts]).encode()
    return b"".join([len(index).to_bytes(8, "little"), index, *(data for _, data in parts)])


def _unpack(packed: bytes) -> Store:
    view = memoryview(packed)
    start = 8 + int.from_bytes(view[:8], "little")
    found: dict[str, Tensors] = {}
    for path, length in json.loads(bytes(view[8:start])):
        found[path] = wire.load(view[start : start + length])[0]
        start += length
    return found
