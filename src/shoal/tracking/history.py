"""What a run leaves behind, read back: its meta data, its records and their summary."""

import json
import math
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np

from shoal import plain
from shoal.errors import CheckpointError, ConfigError, DataError
from shoal.messages import (
    ClientRecord,
    CommitRecord,
    EvaluationRecord,
    Record,
    StopRecord,
    TaskRecord,
)
from shoal.tracking.codec import from_line

META = "run.json"
RECORDS = "records.jsonl"
# Metrics of which less is better; of every other, more is.
_LOWER = ("loss", "error", "perplexity", "mse", "mae", "distance")

Spans = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What is known about a run beside its records.

    Attributes:
        name: what people call the run.
        algorithm: its algorithm's name.
        experiment: the experiment as TOML text; empty when it has none.
        target_metric: the metric to watch.
        target_value: the value that ends the race; None for no target.
        clients: size of the population.
        versions: of shoal, python, numpy, torch ...
        plan: where the run folds, by which plan, and why; empty where nothing is folded.
        upload: what was picked to encode updates, and why; empty where nothing was to be picked.
        started: wall clock at the start, ISO 8601.
        wall_seconds: how long it took, so far.
        status: "running", "done", "interrupted" or "failed".
    """

    name: str
    algorithm: str
    experiment: str = ""
    seed: int = 0
    target_metric: str = "accuracy"
    target_value: float | None = None
    clients: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    plan: str = ""
    upload: str = ""
    started: str = ""
    wall_seconds: float = 0.0
    status: str = "running"


@dataclass(frozen=True)
class Run:
    """A run directory in memory.

    Attributes:
        path: where it lies.
        records: in the order in which they were written.
        notes: what is odd about it, in sentences, e.g. a half-written last line.
    """

    path: Path
    meta: Meta
    records: Sequence[Record]
    notes: tuple[str, ...] = ()

    @cached_property
    def tasks(self) -> tuple[TaskRecord, ...]:
        """The records of tasks."""
        return tuple(r for r in self.records if isinstance(r, TaskRecord))

    @cached_property
    def commits(self) -> tuple[CommitRecord, ...]:
        """The records of commits."""
        return tuple(r for r in self.records if isinstance(r, CommitRecord))

    @cached_property
    def evaluations(self) -> tuple[EvaluationRecord, ...]:
        """The records of evaluations."""
        return tuple(r for r in self.records if isinstance(r, EvaluationRecord))

    @cached_property
    def end(self) -> float:
        """When it stopped, or the last moment that is known of; seconds, the clock starts at 0."""
        stops = [r.time for r in self.records if isinstance(r, StopRecord)]
        return stops[-1] if stops else max((_time(r) for r in self.records), default=0.0)

    @cached_property
    def present(self) -> Spans:
        """From when to when each client was there: seconds, within 0 and `end`."""
        return _present(self.records, self.end)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in numbers.

    Attributes:
        time_to_target: virtual seconds at the first evaluation that reached the target; None
            when there is no target or it was not reached.
        final, best: of the watched metric; NaN when it was never evaluated.
        aggregated: updates that went into a commit.
        staleness_mean, staleness_p95: over the aggregated updates; NaN without any.
        bytes_up, bytes_down: on the wire, of all tasks whatever became of them.
        idle_share: 1 - busy client-seconds / present client-seconds. A client is busy from
            dispatch to arrival; that it waits for the server counts as idle. NaN with no clients.
        compute_seconds: client-seconds spent on tasks, transfer included.
        virtual_seconds: end of the run on the node's clock.
        wall_seconds: how long a person waited.
    """

    metric: str
    target: float | None
    time_to_target: float | None
    final: float
    best: float
    commits: int
    aggregated: int
    discarded: int
    rejected: int
    failed: int
    cancelled: int
    staleness_mean: float
    staleness_p95: float
    bytes_up: int
    bytes_down: int
    idle_share: float
    compute_seconds: float
    virtual_seconds: float
    wall_seconds: float


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is better, by its name ("loss", "val_loss", "error" ...)."""
    return any(part in metric.lower() for part in _LOWER)


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on, without importing any of it."""
    found = {"python": platform.python_version()}
    for package in ("shoal", "numpy", "torch", "scikit-learn"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_meta(directory: str | os.PathLike[str], meta: Meta) -> None:
    """Write or replace `run.json`; a reader sees the old or the new one, never half of it.

    Raises:
        CheckpointError: naming the file, e.g. on a full disk.
    """
    path = Path(directory) / META
    half = path.with_suffix(".json.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(json.dumps(plain.encode(meta), indent=2) + "\n", encoding="utf-8")
        os.replace(half, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot write: {error.strerror or error}") from error


def read(path: str | os.PathLike[str]) -> Run:
    """Load a run directory.

    A last line that was cut off (the process was killed while writing) is left out and noted.

    Raises:
        DataError: naming the file and line that cannot be read.
    """
    directory = Path(path)
    meta = _read_meta(directory / META)
    records, notes = _read_records(directory / RECORDS)
    return Run(directory, meta, records, notes)


def summary(run: Run) -> Summary:
    """The numbers of a run."""
    metric, target = run.meta.target_metric, run.meta.target_value
    seen = [(e.time, e.metrics[metric]) for e in run.evaluations if metric in e.metrics]
    finite = [value for _, value in seen if math.isfinite(value)]
    pick = min if lower_is_better(metric) else max
    outcomes = Counter(t.outcome for t in run.tasks)
    staleness = [t.staleness for t in run.tasks if t.outcome == "aggregated"]
    busy = busy_seconds(run.tasks, run.end)
    there = sum(b - a for spans in run.present.values() for a, b in spans)
    return Summary(
        metric=metric,
        target=target,
        time_to_target=_reached(seen, target, lower_is_better(metric)),
        final=seen[-1][1] if seen else math.nan,
        best=pick(finite) if finite else math.nan,
        commits=len(run.commits),
        aggregated=outcomes["aggregated"],
        discarded=outcomes["discarded"],
        rejected=outcomes["rejected"],
        failed=outcomes["failed"],
        cancelled=outcomes["cancelled"],
        staleness_mean=float(np.mean(staleness)) if staleness else math.nan,
        staleness_p95=float(np.percentile(staleness, 95)) if staleness else math.nan,
        bytes_up=sum(t.bytes_up for t in run.tasks),
        bytes_down=sum(t.bytes_down for t in run.tasks),
        idle_share=min(1.0, max(0.0, 1 - busy / there)) if there > 0 else math.nan,
        compute_seconds=busy,
        virtual_seconds=run.end,
        wall_seconds=run.meta.wall_seconds,
    )


def busy_seconds(tasks: Iterable[TaskRecord], end: float) -> float:
    """Client-seconds from dispatch to arrival, up to the end of the run."""
    return sum(max(0.0, min(t.arrived, end) - t.started) for t in tasks)


def _reached(
    seen: Sequence[tuple[float, float]], target: float | None, lower: bool
) -> float | None:
    if target is None:
        return None
    times = (time for time, value in seen if (value <= target if lower else value >= target))
    return next(times, None)


def _time(record: Record) -> float:
    return record.ended if isinstance(record, TaskRecord) else record.time


def _present(records: Sequence[Record], end: float) -> Spans:
    since: dict[str, float] = {}
    spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        if not isinstance(record, ClientRecord):
            continue
        if record.change == "joined":
            since.setdefault(record.client, record.time)
        elif record.client in since:
            spans[record.client].append((since.pop(record.client), min(record.time, end)))
    for client, start in since.items():
        spans[client].append((min(start, end), end))
    # A log without joins (hand-made, or of a relay) still has clients: those that had tasks.
    for record in records:
        if isinstance(record, TaskRecord) and record.client not in spans:
            spans[record.client].append((0.0, end))
    return dict(spans)


def _read_meta(path: Path) -> Meta:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        meta: Meta = plain.decode(Meta, data)
    except FileNotFoundError:
        raise DataError(f"{path.parent}: not a run directory, it has no {META}") from None
    except (OSError, ValueError, ConfigError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return meta


def _read_records(path: Path) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return (), (f"{path.name} is missing: the run has not recorded anything.",)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(from_line(line))
        except DataError as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number}: {error}") from None
            cut = f"{path.name}, line {number}, was only half written and is left out."
            return tuple(records), (cut,)
    return tuple(records), ()
