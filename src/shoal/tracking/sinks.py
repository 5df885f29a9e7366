"""Where records go: the protocol, JSON lines, memory, and a guard for sinks that may fail."""

import errno
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from shoal.errors import CheckpointError, ConfigError, nearest
from shoal.messages import Record
from shoal.tracking.codec import to_line


class Sink(Protocol):
    """Takes the records of one run, in order, on one thread."""

    def write(self, record: Record) -> None:
        """Take one record."""

    def close(self) -> None:
        """No more records come; may be called twice."""


class Memory:
    """Keeps the records in a list.

    Attributes:
        records: all that was written, in order.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        """Take one record."""
        self.records.append(record)

    def close(self) -> None:
        """Nothing to do."""


class JsonLines:
    """One JSON object per line; each line reaches the file before `write` returns.

    Args:
        path: the file; its directory is made when missing.
        keep: how many records of an existing file to keep, for a resumed run that writes the
            later ones again; 0 begins anew.

    Raises:
        CheckpointError: naming the file, when it cannot be written or holds fewer than `keep`.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 0) -> None:
        self.path = Path(path)
        self.count = keep
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if keep:
                _truncate(self.path, keep)
            # Unbuffered: one write per line, so a killed process loses half a line at most and a
            # failed write leaves nothing behind that `close` would try again.
            self._file = open(self.path, "ab" if keep else "wb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _failed(self.path, error) from error

    def write(self, record: Record) -> None:
        """Append one line.

        Raises:
            CheckpointError: naming the file, e.g. on a full disk.
        """
        line = to_line(record).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _failed(self.path, error) from error
        self.count += 1

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise _failed(self.path, error) from error


class Guarded:
    """A sink whose failures never hurt the run: the first is told to `warn` and switches it off.

    Args:
        sink: what may fail, e.g. a service over a network.
        warn: called once, with a sentence.
    """

    def __init__(self, sink: Sink, warn: Callable[[str], None]) -> None:
        self._sink = sink
        self._warn = warn
        self.failed = False

    def write(self, record: Record) -> None:
        """Pass a record on, unless the sink has failed before."""
        if self.failed:
            return
        try:
            self._sink.write(record)
        except Exception as error:  # noqa: BLE001 - any error of a service: the run matters more
            self._off(error)

    def close(self) -> None:
        """Close the sink."""
        try:
            self._sink.close()
        except Exception as error:  # noqa: BLE001 - any error of a service: the run matters more
            self._off(error)

    def _off(self, error: Exception) -> None:
        if not self.failed:
            self.failed = True
            name = type(self._sink).__name__
            reason = f"{type(error).__name__}: {error}"
            self._warn(f"{name} failed and is off for the rest of this run ({reason})")


class Followed(Protocol):
    """What the sinks of an experiment need to know of it."""

    @property
    def title(self) -> str:
        """What people call the run."""

    @property
    def commits(self) -> int | None:
        """Commits after which it ends."""

    @property
    def metric(self) -> str:
        """The metric to watch."""

    @property
    def target(self) -> float | None:
        """The value of it that ends the run."""

    @property
    def sinks(self) -> Sequence[str]:
        """Names in `SINKS`."""


@contextmanager
def opened(experiment: Followed, directory: Path) -> Iterator[tuple[Sink, ...]]:
    """Live progress and the experiment's own sinks, all guarded, closed at the end.

    Raises:
        ConfigError: for an unknown name of a sink.
        MissingExtra: when a sink's package is not installed.
    """
    from shoal.tracking.progress import Progress

    progress = Progress(
        experiment.commits, experiment.target, metric=experiment.metric, title=experiment.title
    )
    chosen: list[Sink] = [progress]
    chosen += [named(name).of_run(experiment.title, directory) for name in experiment.sinks]
    guarded = tuple(Guarded(sink, _warn) for sink in chosen)
    try:
        yield guarded
    finally:
        for sink in guarded:
            sink.close()


def named(name: str) -> Any:
    """The class of a sink in `SINKS`.

    Raises:
        ConfigError: for an unknown name.
        MissingExtra: when its package is not installed.
    """
    from shoal.tracking import SINKS

    if name not in SINKS:
        raise ConfigError("sinks", f"{name!r} is no sink; {nearest(name, list(SINKS))}")
    module, _, attribute = SINKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _warn(text: str) -> None:
    print(f"shoal: {text}", file=sys.stderr)


def _truncate(path: Path, keep: int) -> None:
    with open(path, "r+b") as file:
        for number in range(keep):
            if not file.readline().endswith(b"\n"):
                raise CheckpointError(
                    f"{path}: holds {number} records where the run to resume had written {keep}"
                )
        file.truncate(file.tell())


def _failed(path: Path, error: OSError) -> CheckpointError:
    reason = error.strerror or str(error)
    return CheckpointError(f"{path}: cannot write records: {reason}; make room, then resume")
