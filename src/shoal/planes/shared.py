"""Objects in shared memory: written once, found by key, used again when nobody refers to them.

An object lies in one segment, a file in a private folder that is mapped into memory: of the memory
file system where there is one, of the system's temporary folder elsewhere. It begins with its key,
128 random bits, so that whoever comes with an outdated key is refused. Only references travel;
readers get NumPy views of the segment itself. A folder is locked by the process that owns it: what
a crashed one left behind is swept by its workers, or by the next one that starts.
"""

import errno
import mmap
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from shoal.encoded import Array, Encoded
from shoal.errors import ShoalError
from shoal.tensors import Layout, Leaf, Tensors

PREFIX, OWNER = "shoal-plane-", "owner"
KEY = 16  # bytes of a key
ALIGN = 64  # of every array, and the room for the key
GRAIN = 1 << 16  # segments are multiples of it, so that nearly equal objects share them


class SharedMemoryError(ShoalError):
    """An object cannot be put into shared memory, or is not there any more."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Where an object is.

    Attributes:
        key: 16 random bytes.
        segment: path of the file that it lies in.
    """

    key: bytes
    segment: str


@dataclass(frozen=True, slots=True)
class Placed:
    """An array in a segment."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def view(self, memory: Array) -> Array:
        """The array itself, read-only."""
        count = int(np.prod(self.shape))
        found = np.frombuffer(memory, self.dtype, count, self.offset).reshape(self.shape)
        found.flags.writeable = False
        return found


@dataclass(frozen=True, slots=True)
class Coded:
    """An encoded buffer in a segment."""

    codec: type[Encoded]
    fields: Mapping[str, int | float | str]
    parts: "Mapping[str, Placed | Coded]"


@dataclass(frozen=True, slots=True)
class Content:
    """Tensors in a segment."""

    layout: Layout
    flat: Placed | Coded
    groups: "Mapping[str, Content]"


@dataclass(frozen=True, slots=True)
class Stored:
    """Tensors in shared memory: small enough to travel."""

    ref: Ref
    content: Content


class Writer:
    """Fills a segment with arrays, one after the other.

    Args:
        memory: of the segment, uint8.
    """

    def __init__(self, memory: Array) -> None:
        self._memory, self._next = memory, ALIGN
        self._start = memory.ctypes.data

    def home(self, array: Array) -> Array:
        """A copy of an array in the segment, which may be written to.

        Raises:
            SharedMemoryError: if there is no room.
        """
        stop = self._next + array.nbytes
        if stop > self._memory.size:
            raise SharedMemoryError(
                f"an object of at least {stop} bytes does not fit a segment of {self._memory.size}"
            )
        room = np.frombuffer(self._memory, array.dtype, array.size, self._next)
        np.copyto(room.reshape(array.shape), array)
        self._next = stop + -stop % ALIGN
        return room.reshape(array.shape)

    def put(self, array: Array) -> Placed:
        """Where an array is in the segment; it is copied unless it lies there already."""
        offset = array.ctypes.data - self._start
        if not (array.size and 0 <= offset < self._memory.size and array.flags.c_contiguous):
            offset = self.home(array).ctypes.data - self._start if array.size else 0
        return Placed(offset, array.dtype, array.shape)

    def tensors(self, value: Tensors) -> Content:
        """Put tensors, encoded ones as they are encoded."""
        groups = {prefix: self.tensors(group) for prefix, group in value.groups.items()}
        return Content(value.layout, self._leaf(value.flat), groups)

    def _leaf(self, leaf: Leaf) -> Placed | Coded:
        if isinstance(leaf, np.ndarray):
            return self.put(leaf)
        parts = {name: self._leaf(part) for name, part in leaf.parts().items()}
        return Coded(type(leaf), dict(leaf.fields()), parts)


def find(content: Content, memory: Array) -> Tensors:
    """Tensors as views of the segment that they lie in."""
    groups = {prefix: find(group, memory) for prefix, group in content.groups.items()}
    return Tensors(content.layout, _find(content.flat, memory), groups)


def room(value: Tensors) -> int:
    """Bytes that tensors take at most in a segment."""
    return sum(_room(part.flat) for part in (value, *value.groups.values()))


def swap(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The same accumulator with each value of a type in it changed; tensors stay whole."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        return tuple(swap(item, kind, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: swap(item, kind, change) for name, item in inner.items()})
    return value


def _find(placed: Placed | Coded, memory: Array) -> Leaf:
    if isinstance(placed, Placed):
        return placed.view(memory)
    parts = {name: _find(part, memory) for name, part in placed.parts.items()}
    leaf: Encoded = placed.codec(**placed.fields, **parts)
    return leaf


def _room(leaf: Leaf) -> int:
    if isinstance(leaf, np.ndarray):
        return leaf.nbytes + ALIGN
    return sum(_room(part) for part in leaf.parts().values())


class Store:
    """The segments that a process owns, under a byte budget, and how often each object is used.

    Args:
        budget: bytes of all segments together.
        folder: where the private folder is made; None for the memory file system if it has room.

    Raises:
        SharedMemoryError: if no folder can be made.
    """

    def __init__(self, budget: int, folder: Path | None = None) -> None:
        self.budget, base = budget, folder or _base(budget)
        sweep(base)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            self._owner = _lock(self.folder)
        except OSError as error:
            raise SharedMemoryError(f"no folder can be made in {base}: {error}") from error
        self._maps: dict[str, Array] = {}
        self._free: dict[int, list[str]] = {}
        self._uses: dict[bytes, int] = {}
        self._number = 0
        self.closed, self._pid = False, os.getpid()
        self.taken = 0  # bytes of objects
        self.mapped = 0  # bytes of segments, those that wait to be used again included
        self.removed = 0  # segments that are no more

    @property
    def objects(self) -> int:
        """How many objects there are."""
        return len(self._uses)

    def fits(self, nbytes: int, reserve: int = 0) -> bool:
        """Whether an object of so many bytes fits the budget and leaves a reserve."""
        return self.taken + _size(nbytes) + reserve <= self.budget

    def allocate(self, nbytes: int) -> Ref:
        """A new object, used once.

        Raises:
            SharedMemoryError: with the numbers, if the budget or the system has no room.
        """
        size = _size(nbytes)
        if not self.fits(nbytes):
            raise SharedMemoryError(
                f"{size} bytes do not fit: {self.taken} of {self.budget} bytes are taken"
            )
        waiting = self._free.get(size)
        path = waiting.pop() if waiting else self._made(size)
        key = secrets.token_bytes(KEY)
        self._maps[path][:KEY] = np.frombuffer(key, np.uint8)
        self._uses[key] = 1
        self.taken += size
        return Ref(key, path)

    def write(self, value: Tensors) -> Stored:
        """Tensors as a new object."""
        ref = self.allocate(room(value))
        return Stored(ref, Writer(self.memory(ref)).tensors(value))

    def memory(self, ref: Ref) -> Array:
        """The segment of an object, uint8."""
        if ref.key not in self._uses:
            raise SharedMemoryError(f"object {ref.key.hex()} was released before")
        return self._maps[ref.segment]

    def retain(self, ref: Ref, times: int = 1) -> None:
        """Use an object more often."""
        self._uses[ref.key] += times

    def release(self, ref: Ref) -> None:
        """Use an object once less; its segment is free after the last time."""
        if self.closed:
            return  # somebody was still at work when everything was let go of
        self._uses[ref.key] -= 1
        if not self._uses[ref.key]:
            del self._uses[ref.key]
            size = self._maps[ref.segment].size
            self.taken -= size
            self._free.setdefault(size, []).append(ref.segment)

    def close(self) -> None:
        """Remove everything; views that are still in use stay valid."""
        self.closed = True
        self._maps.clear()
        self._free.clear()
        self._uses.clear()
        self.taken = self.mapped = 0
        if os.getpid() == self._pid:  # not in a fork of the process that owns it
            self._owner.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _made(self, size: int) -> str:
        while self.mapped + size > self.budget and any(self._free.values()):
            self._remove(next(paths for paths in self._free.values() if paths).pop())
        self._number += 1
        path = str(self.folder / f"{self._number}")
        try:
            self._maps[path] = _create(path, size)
        except OSError as error:
            raise SharedMemoryError(
                f"no {size} bytes of shared memory in {self.folder}, where {self.mapped} are in "
                f"use: {error.strerror or error}. Lower the budget or enlarge it"
            ) from error
        self.mapped += size
        return path

    def _remove(self, path: str) -> None:
        self.mapped -= self._maps.pop(path).size
        self.removed += 1
        with suppress(OSError):  # where mapped files cannot be removed, closing does it
            Path(path).unlink(missing_ok=True)


class Space:
    """What a worker sees of the objects of others: segments are mapped when first asked for."""

    def __init__(self) -> None:
        self._maps: dict[str, Array] = {}

    def memory(self, ref: Ref) -> Array:
        """The segment of an object, uint8.

        Raises:
            SharedMemoryError: if it is not there, or holds another object by now.
        """
        if ref.segment not in self._maps:
            try:
                with open(ref.segment, "r+b") as file:
                    self._maps[ref.segment] = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)
            except (OSError, ValueError) as error:
                raise SharedMemoryError(f"object {ref.key.hex()} is not there: {error}") from error
        memory = self._maps[ref.segment]
        if memory[:KEY].tobytes() != ref.key:
            raise SharedMemoryError(f"object {ref.key.hex()} was released before")
        return memory

    def tidy(self) -> None:
        """Let go of segments that are no more."""
        for path in [path for path in self._maps if not os.path.exists(path)]:
            del self._maps[path]

    def bury(self) -> None:
        """Remove the folders of an owner that died, once it is dead."""
        for folder in {Path(path).parent for path in self._maps}:
            if _wait(folder):
                shutil.rmtree(folder, ignore_errors=True)


def sweep(base: Path) -> None:
    """Remove the folders whose owners are no more."""
    for folder in base.glob(f"{PREFIX}*"):
        # A folder without an owner is only just being made.
        if (folder / OWNER).exists() and _abandoned(folder / OWNER):
            shutil.rmtree(folder, ignore_errors=True)


def _base(budget: int) -> Path:
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= budget:
        return memory
    return Path(tempfile.gettempdir())


def _size(nbytes: int) -> int:
    size = nbytes + 2 * ALIGN
    return size + -size % GRAIN


def _create(path: str, size: int) -> Array:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            # Without it, a full file system would not be an error but a signal, on first use.
            os.posix_fallocate(handle, 0, size)
        else:
            os.truncate(handle, size)
        return np.frombuffer(mmap.mmap(handle, size), np.uint8)
    except OSError as error:
        os.unlink(path)
        raise error if error.errno else OSError(errno.ENOSPC, "no space") from error
    finally:
        os.close(handle)


if sys.platform == "win32":  # an open file cannot be removed there

    def _lock(folder: Path) -> IO[bytes]:
        return open(folder / OWNER, "wb")

    def _abandoned(owner: Path) -> bool:
        try:
            owner.unlink()
        except OSError:
            return False
        return True

    def _wait(folder: Path) -> bool:
        return False  # the next start sweeps
else:
    import fcntl

    def _lock(folder: Path) -> IO[bytes]:
        file = open(folder / f"{OWNER}.new", "wb")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / f"{OWNER}.new").rename(folder / OWNER)  # locked from the moment it appears
        return file

    def _abandoned(owner: Path) -> bool:
        return _try_lock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _wait(folder: Path) -> bool:
        return _try_lock(folder / OWNER, fcntl.LOCK_SH)  # blocks until the owner is gone

    def _try_lock(owner: Path, how: int) -> bool:
        try:
            with open(owner, "rb") as file:
                fcntl.flock(file, how)
        except OSError:
            return False
        return True
