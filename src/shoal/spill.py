"""Arrays on disk in place of memory: append-only files without a name, read back range by range.

A spilled array is a read-only view of a memory map, so it goes wherever an array goes: into
aggregators, snapshots and checkpoints. `read` copies a range without mapping its pages, so that
memory stays bounded by what is asked for. The files have no name from the start (where the system
knows no such files, they are deleted on closing): their space is free again as soon as the last
array in them is gone, or the process, however it ended.
"""

import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from shoal.encoded import Array, Encoded
from shoal.errors import CheckpointError
from shoal.tensors import Leaf, Tensors

SEGMENT = (
    64 << 20
)  # bytes of a file, at least; each is mapped once, whole, and sparse until written
ALIGN = 64


class _Segment(mmap.mmap):
    """The map of one file, and where its next free byte is."""

    file: IO[bytes]
    address: int
    used: int


class Spill:
    """Where arrays go that memory has no room for.

    Args:
        directory: of the files; None for the system's directory for temporary files. It should
            lie on a disk: on a file system in memory, nothing is gained.

    Raises:
        CheckpointError: naming the directory, if it cannot be made or written to.
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        self.directory = Path(tempfile.gettempdir() if directory is None else directory)
        self.written = 0
        self._current: _Segment | None = None
        self._segments: weakref.WeakSet[_Segment] = weakref.WeakSet()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(0, error) from error

    def tensors(self, value: Tensors) -> Tensors:
        """The same values on disk, encoded ones as they are encoded.

        Raises:
            CheckpointError: with the numbers, if they cannot be written; nothing is lost.
        """
        groups = {prefix: self.tensors(group) for prefix, group in value.groups.items()}
        return Tensors(value.layout, self._leaf(value.flat), groups)

    def array(self, value: Array) -> Array:
        """The same values, shape (n,), on disk."""
        if not value.size or segment_of(value) is not None:
            return value
        data = np.ascontiguousarray(value).view(np.uint8).data
        try:
            segment = self._room(len(data))
            _write(segment.file, segment.used, data)
        except OSError as error:
            raise self._failed(len(data), error) from error
        found = np.frombuffer(segment, value.dtype, value.size, segment.used)
        segment.used += len(data) + -len(data) % ALIGN
        self.written += len(data)
        return found

    @property
    def used(self) -> bool:
        """Whether something was written since the last file began."""
        return self._current is not None

    def roll(self) -> None:
        """Begin a new file: what lies in the last one is free when nothing refers to it."""
        self._current = None

    def unmap(self) -> None:
        """Give up the pages that were read through arrays; the arrays stay as they are."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for segment in list(self._segments):
                segment.madvise(mmap.MADV_DONTNEED)

    def _leaf(self, leaf: Leaf) -> Leaf:
        if isinstance(leaf, np.ndarray):
            return self.array(leaf)
        parts = {name: self._leaf(part) for name, part in leaf.parts().items()}
        made: Encoded = type(leaf)(**leaf.fields(), **parts)
        return made

    def _room(self, nbytes: int) -> _Segment:
        if self._current is None or self._current.used + nbytes > len(self._current):
            # Larger ones the more there is, so that few files are open however much it becomes.
            size = max(nbytes, SEGMENT, self.written // 4)
            self._current = _segment(self.directory, size + -size % mmap.ALLOCATIONGRANULARITY)
            self._segments.add(self._current)
        return self._current

    def _failed(self, nbytes: int, error: OSError) -> CheckpointError:
        there = self.directory if self.directory.exists() else Path.cwd()
        return CheckpointError(
            f"cannot spill {nbytes} bytes to {self.directory} after {self.written} bytes, "
            f"{shutil.disk_usage(there).free} bytes free: {error.strerror or error}. "
            "Free space, name another directory, or raise the budget"
        )


def segment_of(array: Array) -> _Segment | None:
    """The map that an array lies in; None for one in memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, _Segment) else None


def read(array: Array, begin: int, stop: int) -> Array:
    """A range of a 1-D array: a view if it lies in memory, a copy if it lies on disk.

    Raises:
        CheckpointError: if the disk cannot be read.
    """
    segment = segment_of(array)
    if segment is None or not hasattr(os, "preadv"):
        return array[begin:stop]
    out = np.empty(stop - begin, array.dtype)
    data, at = out.view(np.uint8).data, array[begin:stop].ctypes.data - segment.address
    done = 0
    while done < len(data):
        try:
            got = os.preadv(segment.file.fileno(), [data[done:]], at + done)
        except OSError as error:
            raise CheckpointError(f"cannot read spilled values: {error.strerror}") from error
        if not got:
            raise CheckpointError(f"spilled values end {len(data) - done} bytes early")
        done += got
    return out


def resident(value: Any) -> int:
    """Bytes of all arrays in memory that a state is made of; spilled ones count nothing."""
    if isinstance(value, np.ndarray):
        return 0 if segment_of(value) is not None else int(value.nbytes)
    if isinstance(value, Tensors):
        own = resident(value.flat)
        return own + sum(map(resident, value.groups.values())) if value.groups else own
    if isinstance(value, Encoded):
        return sum(map(resident, value.parts().values()))
    if isinstance(value, Mapping):
        return sum(map(resident, value.values()))
    if isinstance(value, tuple | list):
        return sum(map(resident, value))
    if is_dataclass(value) and not isinstance(value, type):
        known = getattr(value, "resident", None)
        if isinstance(known, int):
            return known
        return sum(resident(getattr(value, field.name)) for field in fields(value))
    return 0


def _segment(directory: Path, size: int) -> _Segment:
    file: Any = tempfile.TemporaryFile(prefix="shoal-", dir=directory, buffering=0)  # noqa: SIM115
    try:
        file.truncate(size)
        segment = _Segment(file.fileno(), size, access=mmap.ACCESS_READ)
    except BaseException:
        file.close()
        raise
    segment.file, segment.used = file, 0
    segment.address = np.frombuffer(segment, np.uint8).ctypes.data
    weakref.finalize(segment, file.close)
    return segment


def _write(file: IO[bytes], at: int, data: memoryview) -> None:
    # Never through the map: a full disk would be a signal there, and is an error here.
    file.seek(at)
    done = 0
    while done < len(data):
        done += file.write(data[done:])
