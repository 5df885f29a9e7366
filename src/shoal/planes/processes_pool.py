"""Warm worker processes that take work as it becomes ready, and are replaced when they die.

There is no thread and no timer: answers are heard whenever the owner calls, and waiting for one is
a blocking wait on all pipes. The number of workers follows the expected load, ahead of it.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from shoal.errors import ConfigError, ProtocolError, ShoalError
from shoal.planes import worker
from shoal.planes.worker import Done, Work

TRIES = 5  # workers that may die of one piece of work
UTILIZATION = 0.7  # of a worker, beyond which there should be another
PATIENCE = 5.0  # seconds that a worker has to end when it is told to
THREADS = "SHOAL_KERNEL_THREADS"  # one for each worker: there are several of them already


class WorkerError(ShoalError):
    """Worker processes cannot be started, or die of what they are asked to do."""


@dataclass(eq=False)
class Job:
    """A piece of work, and who wants to know the answer.

    Attributes:
        done: is called with it, once.
        tries: workers that died of it.
    """

    work: Work
    done: Callable[[Done], None]
    tries: int = 0


class _Worker:
    """A process, this end of its pipe, and what it is doing."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.channel: Connection[Any, Any]
        self.channel, theirs = context.Pipe()
        self.job: Job | None = None
        self.process: BaseProcess = context.Process(
            target=worker.main, args=(theirs,), name="shoal-worker", daemon=True
        )
        before = os.environ.get(THREADS)
        os.environ[THREADS] = "1"
        try:
            self.process.start()
        except OSError as error:
            raise WorkerError(f"a worker process cannot be started: {error}") from error
        finally:
            if before is None:
                del os.environ[THREADS]
            else:
                os.environ[THREADS] = before
            theirs.close()


class Pool:
    """Workers that any number of planes of one thread share.

    Args:
        low: workers that are always warm.
        high: workers at most.

    Raises:
        ConfigError: unless 1 <= low <= high.
    """

    def __init__(self, low: int, high: int) -> None:
        if not 1 <= low <= high:
            raise ConfigError("workers", f"needs 1 <= least <= most, got {low} and {high}")
        self.low, self.high, self.target = low, high, low
        self._workers: list[_Worker] = []
        self._leaving: list[_Worker] = []
        self._ready: deque[Job] = deque()
        self._loads: weakref.WeakKeyDictionary[object, float] = weakref.WeakKeyDictionary()
        self._end = weakref.finalize(self, _stop, self._workers, self._leaving, os.getpid())

    @property
    def pids(self) -> list[int]:
        """The ids of the worker processes."""
        return [w.process.pid for w in self._workers if w.process.pid is not None]

    @property
    def busy(self) -> int:
        """Workers that are at work."""
        return sum(w.job is not None for w in self._workers)

    def submit(self, job: Job) -> None:
        """Have a piece of work done as soon as a worker is free."""
        self._ready.append(job)
        self._feed()

    def hear(self, *, block: bool) -> None:
        """Take in the answers that are there; if `block`, wait for at least one event."""
        self._feed()
        if block and not self.busy:
            raise ProtocolError("nobody is at work, so that nothing can be waited for")
        found = {w.channel: w for w in self._workers}
        for channel in wait(list(found), None if block else 0):
            self._listen(found[channel])  # type: ignore[index]
        self._feed()

    def expect(self, who: object, load: float) -> None:
        """Prepare for a plane's load: the mean number of workers that it will keep busy."""
        self._loads[who] = load
        self.resize(ceil(sum(self._loads.values()) / UTILIZATION))

    def resize(self, workers: int) -> None:
        """Keep so many workers, within the limits; idle ones leave, new ones start at once."""
        self.target = min(max(workers, self.low), self.high)
        for gone in [w for w in self._leaving if not w.process.is_alive()]:
            gone.channel.close()
            self._leaving.remove(gone)
        idle = [w for w in self._workers if w.job is None]
        for one in idle[: max(0, len(self._workers) - self.target)]:
            self._workers.remove(one)
            _tell(one, None)
            self._leaving.append(one)
        self._fill()

    def tidy(self) -> None:
        """Have idle workers let go of segments that are no more; others do so with their work."""
        for one in self._workers:
            if one.job is None:
                _tell(one, "tidy")

    def close(self) -> None:
        """End all workers, whatever they do."""
        self._ready.clear()
        _stop(self._workers, self._leaving, os.getpid())

    def _fill(self) -> None:
        while len(self._workers) < self.target:
            self._workers.append(_Worker())

    def _feed(self) -> None:
        while self._ready:
            self._fill()
            free = next((w for w in self._workers if w.job is None), None)
            if free is None:
                return
            free.job = self._ready.popleft()
            try:
                free.channel.send(free.job.work)
            except OSError:
                self._bury(free)

    def _listen(self, one: _Worker) -> None:
        if one not in self._workers:
            return  # found dead a moment ago
        try:
            answer: Done = one.channel.recv()
        except (EOFError, OSError):
            self._bury(one)
            return
        job, one.job = one.job, None
        if job is not None:
            job.done(answer)

    def _bury(self, one: _Worker) -> None:
        """Give a dead worker's work to another."""
        self._workers.remove(one)
        one.process.kill()  # its pipe is closed: whatever is left of it can do no harm
        one.process.join()
        one.channel.close()
        job = one.job
        if job is None:
            return
        job.tries += 1
        if job.tries < TRIES:
            self._ready.appendleft(job)
            return
        error = WorkerError(
            f"{TRIES} workers died of the same piece of work, the last with exit code "
            f"{one.process.exitcode}. If they could not start: guard the main script with "
            "`if __name__ == '__main__':`. If they were killed: is there enough memory?"
        )
        job.done(Done(error=error))


_threads = threading.local()


def warm() -> Pool:
    """The pool that the planes of this thread share: of one worker to one for each core."""
    pool: Pool | None = getattr(_threads, "pool", None)
    if pool is None:
        pool = _threads.pool = Pool(1, _cores())
    return pool


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return usable or os.cpu_count() or 1


def _tell(one: _Worker, message: str | None) -> None:
    try:
        one.channel.send(message)
    except OSError:
        return  # it is dead, as will be noticed


def _stop(workers: list[_Worker], leaving: list[_Worker], owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the server, whose workers they are not
    for one in workers:
        if one.job is None:
            _tell(one, None)
        else:
            one.process.terminate()
    for one in (*workers, *leaving):
        one.process.join(PATIENCE)
        if one.process.is_alive():
            one.process.kill()
            one.process.join()
        one.channel.close()
    workers.clear()
    leaving.clear()


def _forget() -> None:
    # The pipes of a process's pool are its own, also after a fork.
    if hasattr(_threads, "pool"):
        _threads.pool._end.detach()
        del _threads.pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
