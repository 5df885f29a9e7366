"""Files of payloads, and those that nobody needs any more, kept to be written over.

A file is larger than its payload: its last bytes say how many of the payload's are here. The blocks
of a spare file on disk and its pages in memory are there already: a payload that takes one waits
for neither, and its sync writes nothing but its own bytes.
"""

import contextlib
import ctypes
import errno
import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from shoal.errors import CheckpointError
from shoal.journal import in_use

SPARE = ".spare"
LARGER = 4  # a spare file may be so many times larger than what it is taken for
_MARK = 8  # bytes behind a payload: how many of it are here
_GRAIN = 64 << 10  # bytes: payloads whose sizes differ a little fit into each other's files
_AT_ONCE = 8  # files that are synced
_SYNC_WRITE = 2  # of sync_file_range: begin to write, wait for nothing


class Spares:
    """The spare files of one directory; for any thread.

    Args:
        directory: of the payloads.
        most: bytes kept at most.
    """

    def __init__(self, directory: Path, most: int) -> None:
        self._directory, self._most = directory, most
        self._lock = threading.Lock()
        self._count = 0
        self._syncs: dict[str, Future[None]] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="shoal-sync")
        self._kept: list[tuple[int, Path]] = []  # bytes and where
        self.clear()

    @property
    def bytes(self) -> int:
        """Of all that is kept."""
        return sum(size for size, _ in self._kept)

    def give(self, path: Path) -> None:
        """Keep a file that no journal names; one that is missing is passed over.

        It is removed if there is no room, or if something still lies in it.

        Raises:
            OSError: if it cannot be renamed or removed.
        """
        with self._lock, contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            if size + self.bytes > self._most or in_use(path):
                path.unlink()
                return
            self._count += 1
            where = self._directory / f"{self._count}{SPARE}"
            os.replace(path, where)
            self._kept.append((size, where))

    def made(self, path: Path, total: int) -> int:
        """A descriptor of a file at `path` with room for a payload, of which nothing is here yet.

        Raises:
            OSError: if there is no room on the disk.
        """
        size = total + _MARK
        file = self._taken(path, size)
        if file >= 0:
            return file
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(file, size + -size % _GRAIN)
            self._reserve(file)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        return file

    def sync(self, name: str, file: int) -> None:
        """Begin to bring a file to disk, and close it; `settle` waits for it.

        Raises:
            OSError: if there are no threads any more, and it cannot be written.
        """
        try:
            self._syncs[name] = self._pool.submit(_sync, file)
        except RuntimeError:  # the run rests
            _sync(file)

    def settle(self, names: Iterable[str]) -> None:
        """Wait until files are on disk; those that were there before are.

        Raises:
            CheckpointError: if one cannot be written.
        """
        for name in names:
            done = self._syncs.pop(name, None)
            if done is not None:
                try:
                    done.result()
                except OSError as error:
                    where = self._directory / name
                    raise CheckpointError(f"cannot write {where}: {error.strerror}") from error

    def close(self) -> None:
        """End the threads, once they are done."""
        self._pool.shutdown(wait=False)

    def clear(self) -> None:
        """Remove them all, also those of a server before this one."""
        with self._lock:
            self._kept.clear()
            for path in self._directory.glob(f"*{SPARE}"):
                path.unlink(missing_ok=True)

    def _taken(self, path: Path, size: int) -> int:
        """A descriptor of a spare file that is moved to `path`; -1 if none fits."""
        with self._lock:
            fitting = [found for found in self._kept if size <= found[0] <= LARGER * size]
            if not fitting:
                return -1
            best = min(fitting)
            self._kept.remove(best)
        file = os.open(best[1], os.O_RDWR)
        try:
            mark(file, 0)  # before it has a name that counts
            os.replace(best[1], path)
        except OSError:
            os.close(file)
            raise
        return file

    def _reserve(self, file: int) -> None:
        """Reserve a whole file: a full disk shows at once, and writes become faster.

        Where the system or the file system knows no such thing, nothing is done.
        """
        if sys.platform != "linux":
            return
        for last in (False, True):
            size = os.fstat(file).st_size
            code = ctypes.get_errno() if _LIBC.fallocate(file, 0, 0, size) else 0
            if code not in (errno.ENOSPC, errno.EDQUOT):
                return
            if last:
                raise OSError(code, os.strerror(code))
            self.clear()  # before anybody is refused


def _sync(file: int) -> None:
    try:
        os.fdatasync(file) if hasattr(os, "fdatasync") else os.fsync(file)
    finally:
        os.close(file)


def mark(file: int, count: int) -> None:
    """Note how many bytes of a payload are in a file."""
    os.pwrite(file, count.to_bytes(_MARK, "little"), os.fstat(file).st_size - _MARK)


def marked(path: Path) -> int:
    """Bytes of a payload that a file says to hold; 0 if there is no such file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            found = os.pread(file.fileno(), _MARK, max(0, size - _MARK))
    except FileNotFoundError:
        return 0
    count = int.from_bytes(found, "little")
    return count if count + _MARK <= size else 0  # e.g. not even the mark is there


def begin(file: int, start: int, size: int) -> None:
    """Let the disk begin with what was written; what goes wrong is told by the sync behind it."""
    if sys.platform == "linux":
        _LIBC.sync_file_range(file, start, size, _SYNC_WRITE)


if sys.platform == "linux":
    _LIBC = ctypes.CDLL(None, use_errno=True)
    _LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
    _LIBC.sync_file_range.argtypes = (
        ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint,
    )  # fmt: skip
