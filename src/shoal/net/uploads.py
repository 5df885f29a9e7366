"""Large payloads on their way in: a file a task, which grows while bytes come and can be resumed.

The file is the payload's place in the journal, so that bytes are written once; what reads them
maps the file. It is larger than the payload: its last bytes say how much of it is here. So after a
broken connection, or a server's restart, it goes on from its last byte, and a file may be written
over that held another payload before.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from shoal.errors import CheckpointError
from shoal.journal import mapped
from shoal.net.protocol import CHUNK, Hash, Raw, Refused, hasher
from shoal.net.spares import Spares, begin, mark, marked

PART, WHOLE = ".part", ".bin"
_EARLY = 1 << 20  # bytes after which the disk begins to write, while more come
Found = TypeVar("Found")
# Not many: each keeps a processor busy for as long as bytes come.
_POOL = ThreadPoolExecutor(1 + (os.cpu_count() or 1), thread_name_prefix="shoal-upload")


class Upload:
    """One payload on its way in.

    Args:
        directory: of the run's payloads.
        task: that it answers.
        total: bytes that it will have.
        kind: of its digest.
        spares: of the directory.

    Attributes:
        size: bytes that are here.
        whole: whether all are.
        data: all bytes, once it is.
        path: the finished file.
    """

    def __init__(self, directory: Path, task: int, total: int, kind: str, spares: Spares) -> None:
        self.total, self.kind, self._spares = total, kind, spares
        self._part, self.path = directory / f"{task}{PART}", directory / f"{task}{WHOLE}"
        self._lock = asyncio.Lock()
        self._owner = 0
        self._file = -1
        self.whole = self._dropped = False
        self.data = memoryview(b"")
        self._hash: Hash = hasher(kind)
        self.size = 0

    @property
    def name(self) -> str:
        """Of the finished file."""
        return self.path.name

    async def take(
        self, offset: int, want: str, blocks: AsyncIterator[Iterable[Raw]],
        moved: Callable[[], None],
    ) -> bool:  # fmt: skip
        """Write what comes, and call `moved` for it; whether the payload is whole now.

        One that is whole has its final name, and the disk syncs it: the journal's entry waits for
        that. What `blocks` gives is gone through once, in another thread. A newer request for the
        same task ends an older one.

        Args:
            offset: of the first byte that comes.
            want: the payload's digest.
            blocks: see `Call.blocks`.
            moved: a sign of life.

        Raises:
            Refused: 409 for a gap or an overtaken request, 413 for too many bytes, 422 for another
                digest, 507 for a full disk.
        """
        self._owner += 1
        mine, at = self._owner, offset
        async for some in blocks:
            async with self._held():
                if self._owner != mine or self._dropped:
                    raise _given_up()
                at = await _thread(self._taken, some, at, want)
            moved()
        return self.whole

    def drop(self) -> None:
        """Forget it; what is not finished is removed."""
        self._dropped = True
        if not self._lock.locked():  # else whoever writes just now does it
            self._let_go()

    async def give_up(self) -> None:
        """Forget it, once nobody writes any more."""
        self._dropped = True
        async with self._held():
            pass

    def fits(self, total: int, kind: str) -> bool:
        """Whether a request goes on with this upload; with one that is whole, any does."""
        return self.whole or (self.total, self.kind) == (total, kind)

    @contextlib.asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        """Alone with the file; never is it closed while a thread writes to it."""
        async with self._lock:
            try:
                yield
            finally:
                if self._dropped:
                    self._let_go()

    def _let_go(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if not self.whole:
            self._spares.give(self._part)

    def _taken(self, some: Iterable[Raw], at: int, want: str) -> int:
        """Write pieces that begin at an offset; where the next ones do."""
        if self.whole:  # by a request before this one: the rest is read and forgotten
            return at + sum(len(piece) for piece in some)
        if self._file < 0:
            self._open()
        if at > self.size:
            problem = f"offset {at}, but only {self.size} bytes are here"
            raise Refused(409, "gap", problem, f"go on from {self.size}")
        at = self._write(some, at)
        if self.size == self.total:
            self._settle(want)
        return at

    def _open(self) -> None:
        """Open the file, and take up what an earlier server left of it."""
        try:
            if self.path.exists():  # whole, but never accepted
                os.replace(self.path, self._part)
            here = marked(self._part)
            if 0 < here <= self.total:
                self._file = os.open(self._part, os.O_RDWR)
            else:
                self._file, here = self._spares.made(self._part, self.total), 0
        except OSError as error:
            raise _full(error) from error
        while self.size < here:
            data = os.pread(self._file, min(CHUNK, here - self.size), self.size)
            self._hash.update(data)
            self.size += len(data)
        os.lseek(self._file, self.size, os.SEEK_SET)

    def _write(self, some: Iterable[Raw], at: int) -> int:
        begun = self.size
        try:
            for piece in some:
                view = memoryview(piece)[max(0, self.size - at) :]
                at += len(piece)
                if at > self.total:
                    raise Refused(413, "too_large", f"more than the {self.total} bytes announced")
                done = 0
                while done < len(view):
                    done += os.write(self._file, view[done:])
                self._hash.update(view)
                self.size += len(view)
                if self.size - begun >= _EARLY:
                    begin(self._file, begun, self.size - begun)
                    begun = self.size
            mark(self._file, self.size)
        except OSError as error:  # what is here already is read again by the next request
            os.close(self._file)
            self._file, self.size, self._hash = -1, 0, hasher(self.kind)
            raise _full(error) from error
        return at

    def _settle(self, want: str) -> None:
        if f"{self.kind}={self._hash.hexdigest()}" != want:
            self._again()
            problem = f"the payload's digest is not {want:.80}"
            raise Refused(422, "digest", problem, "send it again")
        try:
            os.replace(self._part, self.path)
            file, self._file = self._file, -1
            self._spares.sync(self.name, file)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror}") from error
        self.data = mapped(self.path)[: self.total]
        self.whole = True

    def _again(self) -> None:
        """All must come again."""
        self._hash, self.size = hasher(self.kind), 0
        mark(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)


def _given_up() -> Refused:
    return Refused(409, "overtaken", "another request goes on with this upload", "ask for `offset`")


def _full(error: OSError) -> Refused:
    problem = f"the server cannot store the payload: {error.strerror}"
    return Refused(507, "storage", problem, "try again later", retry_after=1.0)


def present(directory: Path, task: int) -> int:
    """Bytes of a task's upload that lie here."""
    return max(marked(directory / f"{task}{suffix}") for suffix in (PART, WHOLE))


def tidy(directory: Path, tasks: set[int]) -> None:
    """Remove what is left of uploads for tasks that are over."""
    for path in directory.glob(f"*{PART}"):
        if not path.stem.isdecimal() or int(path.stem) not in tasks:
            path.unlink(missing_ok=True)


def _forget(some: Iterable[Raw]) -> None:
    for _ in some:
        pass


async def _thread(call: Callable[..., Found], *args: object) -> Found:
    """Run something that blocks beside the loop."""
    return await asyncio.get_running_loop().run_in_executor(_POOL, call, *args)
