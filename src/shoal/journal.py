"""The journal of a served run: what entered its node, in order, on disk before it counts.

A node is a function of its inputs, so the last checkpoint and the journal since then give a run's
bits again after any crash. A segment is one file, begun with each checkpoint; an entry of it is

    "SHJ1" | u32 length of a | u64 length of b | u32 CRC-32 of a and b | a: JSON | b: a payload

A payload lies as it was received: in the entry, or, if it is large, at the beginning of a file of
its own that the entry names. Entries are written together and synced once; an entry cut short by a
crash was never acknowledged, and ends the journal.
"""

import contextlib
import json
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

from shoal import exchange as ex
from shoal.errors import CheckpointError, ConfigError, ModelError
from shoal.packing import pack, unpack
from shoal.plain import decode, encode

PREFIX, SUFFIX, PAYLOADS = "journal-", ".log", "payloads"
_MAGIC, _HEAD = b"SHJ1", struct.Struct("<4sIQI")
_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (ex.Begin, ex.Join, ex.Leave, ex.Fail, ex.Tick, ex.Assessed)
}  # fmt: skip
Raw = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Entry:
    """One input and its time in seconds; `file` names where a large payload lies."""

    given: ex.Input
    now: float
    file: str = ""


class Journal:
    """Appends inputs to a run's journal.

    Args:
        directory: of the run.
        segment: the number of the checkpoint that it follows; 0 for none.
        settle: waits until files of payloads are on disk.

    Raises:
        CheckpointError: from every method, naming the file, if it cannot be written.
    """

    def __init__(
        self, directory: Path, segment: int,
        settle: Callable[[list[str]], None] = lambda names: None,
    ) -> None:  # fmt: skip
        self._directory, self._settle, self.bytes = directory, settle, 0
        self._pending: list[Raw] = []
        self._named: list[str] = []  # files that the pending entries name
        self._large = 0  # their bytes
        self._open(segment)

    def append(self, given: ex.Input, now: float, raw: Raw = b"", file: str = "") -> None:
        """Add an input; `raw` or `file` is a push's payload as it was received."""
        table: dict[str, Any] = {"now": now, "kind": type(given).__name__}
        if isinstance(given, ex.Push):
            table |= {"task": given.task, "client": given.client, "nbytes": given.nbytes}
            if file:
                table["file"] = file
                self._named.append(file)
                self._large += given.nbytes
            elif not raw:
                raw = pack(given.payload)
        else:
            table["data"] = encode(given)
        meta = json.dumps(table, separators=(",", ":")).encode()
        check = zlib.crc32(raw, zlib.crc32(meta))
        self._pending += [_HEAD.pack(_MAGIC, len(meta), len(raw), check), meta, raw]

    def sync(self) -> None:
        """Bring to disk all that was added."""
        if not self._pending:
            return
        data, large = b"".join(self._pending), self._large
        try:
            if self._named:
                self._settle(self._named)
                _sync_names(self._directory / PAYLOADS)
            _write_all(self._file, data)
            os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):  # else `mend` cuts what was half written
                os.ftruncate(self._file, self._end)
            raise CheckpointError(
                f"cannot write {self._path}: {error.strerror}. Free space and serve again"
            ) from error
        finally:
            self._pending.clear()  # never a second time behind what may be half an entry
            self._named.clear()
            self._large = 0
        self.bytes += len(data) + large
        self._end += len(data)

    def rotate(self, segment: int, keep: int | None, drop: Callable[[Path], None]) -> None:
        """Begin a segment after a checkpoint.

        Args:
            segment: its number.
            keep: those before it are dropped; None for none.
            drop: takes the payloads' files of those that are.
        """
        self.sync()
        os.close(self._file)
        self._open(segment)
        self.bytes = 0
        if keep is not None:
            for number, path in segments(self._directory):
                if number < keep:
                    for file in _files(path):
                        drop(self._directory / PAYLOADS / file)
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Bring to disk what was added, and close the file."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _open(self, segment: int) -> None:
        self._path = self._directory / f"{PREFIX}{segment:010d}{SUFFIX}"
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._end = os.fstat(self._file).st_size
        except OSError as error:
            raise CheckpointError(f"cannot write {self._path}: {error.strerror}") from error


def segments(directory: Path) -> list[tuple[int, Path]]:
    """The segments of a run's journal with their numbers, oldest first."""
    paths = sorted(directory.glob(f"{PREFIX}*{SUFFIX}"))
    return [(int(path.name[len(PREFIX) : -len(SUFFIX)]), path) for path in paths]


def entries(directory: Path, segment: int = 0) -> Iterator[Entry]:
    """The entries from a segment on.

    Raises:
        CheckpointError: if the segment is not there, or an entry is damaged in the middle.
    """
    found = [(number, path) for number, path in segments(directory) if number >= segment]
    if not found or found[0][0] != segment:
        raise CheckpointError(
            f"{directory} has no journal from segment {segment} on; "
            "serve with --set log=true to keep all of it"
        )
    for i, (_, path) in enumerate(found):
        for _, entry in _read(directory, path, last=i == len(found) - 1):
            yield entry


def mend(directory: Path) -> None:
    """Cut what a crash left of a half-written last entry, so that the journal can go on."""
    found = segments(directory)
    if found:
        path = found[-1][1]
        end = max((at for at, _ in _frames(path, last=True)), default=0)
        with path.open("r+b") as file:
            file.truncate(end)


class JournalReader:
    """A transport that brings the inputs of a journal and performs nothing."""

    def __init__(self, directory: Path) -> None:
        self._entries, self.now = entries(directory), 0.0

    def receive(self) -> tuple[ex.Input, float]:
        """The next input; `Quiet` at the end of the journal."""
        for entry in self._entries:
            self.now = entry.now
            return entry.given, entry.now
        return ex.Quiet(), self.now

    def perform(self, effect: ex.Effect) -> None:
        """Effects were performed when the journal was written."""

    def close(self) -> None:
        """Nothing to let go of."""


def mapped(path: Path) -> memoryview:
    """A file's bytes where they lie; pages come and go with memory pressure.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = _Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)
            found.inode = os.fstat(file.fileno()).st_ino
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    with _alive_lock:
        _alive.add(found)
    return memoryview(found)


class _Mapped(mmap.mmap):
    """A file that somebody may read."""

    inode: int


_alive: WeakSet[_Mapped] = WeakSet()
_alive_lock = threading.Lock()


def in_use(path: Path) -> bool:
    """Whether anything of this process still lies in a file that was `mapped`.

    Raises:
        OSError: if there is no such file.
    """
    inode = path.stat().st_ino
    with _alive_lock:
        return any(found.inode == inode for found in _alive)


def _sync_names(directory: Path) -> None:
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _frames(path: Path, last: bool) -> Iterator[tuple[int, tuple[Any, memoryview]]]:
    """The entries' ends, JSON tables and payloads."""
    view, at = memoryview(path.read_bytes()), 0
    while at < len(view):
        rest = view[at:]
        whole = len(rest) >= _HEAD.size
        magic, a, b, check = _HEAD.unpack(rest[: _HEAD.size]) if whole else (b"", 0, 0, 0)
        stop = _HEAD.size + a + b
        if magic != _MAGIC or len(rest) < stop or zlib.crc32(rest[_HEAD.size : stop]) != check:
            if last:
                return
            raise CheckpointError(f"{path} is damaged at byte {at}")
        meta = json.loads(bytes(rest[_HEAD.size : _HEAD.size + a]))
        at += stop
        yield at, (meta, rest[_HEAD.size + a : stop])


def _files(path: Path) -> list[str]:
    return [meta["file"] for _, (meta, _) in _frames(path, last=True) if "file" in meta]


def _read(directory: Path, path: Path, last: bool) -> Iterator[tuple[int, Entry]]:
    for at, (meta, raw) in _frames(path, last):
        try:
            yield at, _entry(directory, meta, raw)
        except (KeyError, TypeError, ConfigError, ModelError) as error:
            raise CheckpointError(f"{path} is damaged before byte {at}: {error}") from error


def _entry(directory: Path, meta: dict[str, Any], raw: memoryview) -> Entry:
    now, kind, file = meta["now"], meta["kind"], meta.get("file", "")
    if kind != "Push":
        return Entry(decode(_KINDS[kind], meta["data"], path=kind), now)
    data = mapped(directory / PAYLOADS / file)[: meta["nbytes"]] if file else raw
    push = ex.Push(meta["task"], meta["client"], unpack(data), meta["nbytes"])
    return Entry(push, now, file)
