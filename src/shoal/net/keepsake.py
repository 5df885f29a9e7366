"""What a client keeps between tasks, on disk: a client that was killed goes on where it was.

The state behind a task is written before the task is answered, under the task's number. After a
restart the server says which of the client's tasks counted last: the state of that one is taken.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shoal.client import ClientState
from shoal.errors import CheckpointError, ConfigError, ModelError
from shoal.net.client import Client
from shoal.plain import Store, decode, encode
from shoal.store import pack, unpack

SUFFIX, NEW = ".state", ".new"
log = logging.getLogger("shoal.net")


def home() -> Path:
    """Where the states of this user's clients lie if nothing else is said."""
    found = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(found) / "shoal" / "clients"


class Keepsake:
    """The state of one client in one run, in memory and in a directory of its own.

    A state that says no more than that of a new client is not written. A file is a state:
    SHA-256 of what follows (32 bytes), u64 n, n bytes of JSON, the tensors as `store.pack` does.

    Args:
        client: that has joined.
        base: holds a directory for each client and run, made when there is something to write.

    Raises:
        ConfigError: if the server gave the run no proper id.
    """

    def __init__(self, client: Client, base: Path) -> None:
        if not re.fullmatch("[0-9a-f]{32}", client.run_id):
            raise ConfigError("run_id", f"{client.run_id!r:.80} is none; update the server")
        run = f"{_safe(client.run_name)}-{client.run_id[:12]}"
        self.folder = base / _safe(client.name) / run
        self._client = client
        self._known = False
        self._fresh = self._state = self._next = ClientState(None, None)
        self._task = -1  # that is behind `_next`

    def state(self, fresh: Callable[[], ClientState]) -> ClientState:
        """The state to begin a task with.

        Args:
            fresh: makes the state of a new client, which says what states are made of.

        Raises:
            CheckpointError: if the directory cannot be read.
        """
        if not self._known:
            self._fresh, self._known = fresh(), True
            self._state = self._load()
        return self._state

    def keep(self, task: int, state: ClientState) -> None:
        """Write the state behind a task whose answer is to be sent.

        Raises:
            CheckpointError: if it cannot be written.
        """
        self._next, self._task = state, task
        store: Store = {}
        plain = encode(state, store)
        if not store and plain == encode(self._fresh, {}) and not self._kept():
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self._path(task), plain, store)
        except OSError as error:
            problem = f"cannot write to {self.folder}: {error.strerror}"
            raise CheckpointError(f"{problem}. Free space, or give another --state") from error

    def settled(self, counted: bool) -> None:
        """Whether the answer of that task counts: what the server never got must not count here."""
        if self._task < 0:
            return
        if counted:
            self._state = self._next
        else:
            self._path(self._task).unlink(missing_ok=True)
        self._task = -1

    def over(self) -> None:
        """The run is over: nothing of it is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self) -> ClientState:
        there, last = self._kept(), self._client.accepted()
        for path in there:
            if path != self._path(last):
                path.unlink(missing_ok=True)
        if self._path(last) in there:
            return _read(self._path(last), self._fresh)
        if last >= 0 and (there or _tensors(self._fresh)):
            told = "%s: what it kept after task %d is not in %s: it begins anew"
            log.warning(told, self._client.name, last, self.folder)
        return self._fresh

    def _kept(self) -> list[Path]:
        return list(self.folder.glob(f"*{SUFFIX}"))

    def _path(self, task: int) -> Path:
        return self.folder / f"{task}{SUFFIX}"


def _write(path: Path, plain: Any, store: Store) -> None:
    """Bring a state to disk, whole or not at all."""
    text = json.dumps(plain).encode()
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(8, "little"), text, pack(store)]
    made = hashlib.sha256()
    for part in parts:
        made.update(part)
    new = path.with_suffix(NEW)
    with new.open("wb") as file:
        file.writelines([made.digest(), *parts])
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _read(path: Path, like: ClientState) -> ClientState:
    try:
        data = memoryview(path.read_bytes())
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise ValueError("it is not what was written")
        end = 40 + int.from_bytes(data[32:40], "little")
        plain, store = json.loads(bytes(data[40:end])), unpack(data[end:])
        found: ClientState = decode(ClientState, plain, store, like=like)
    except (OSError, ValueError, ConfigError, ModelError) as error:
        problem = f"{path} cannot be used: {error}"
        raise CheckpointError(f"{problem}. Move it away to begin anew") from error
    return found


def _tensors(state: ClientState) -> Store:
    store: Store = {}
    encode(state, store)
    return store


def _safe(name: str) -> str:
    """A name as that of a directory."""
    found = quote(name, safe=" @=+,")
    return f"%2E{found[1:]}" if found.startswith(".") else found
