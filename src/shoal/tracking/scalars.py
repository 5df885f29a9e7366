"""Records as named curves, for services that draw numbers over steps."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from shoal.messages import CommitRecord, EvaluationRecord, Record, TaskRecord


@dataclass(frozen=True, slots=True)
class Point:
    """Numbers at one moment of a run.

    Attributes:
        version: commits so far.
        time: seconds on the node's clock.
        values: by name, e.g. {"accuracy": 0.9} or {"staleness/mean": 1.5, "bytes/up": 1e6}.
    """

    version: int
    time: float
    values: Mapping[str, float]


class Scalars:
    """Adds up tasks, and gives a point at each commit and each evaluation."""

    def __init__(self) -> None:
        self._bytes_up = 0
        self._bytes_down = 0
        self._tasks: Counter[str] = Counter()
        self._staleness = 0
        self._fresh = 0

    def take(self, record: Record) -> tuple[Point, ...]:
        """The points that a record makes: one or none."""
        match record:
            case TaskRecord():
                self._add(record)
                return ()
            case EvaluationRecord(time, version, metrics):
                return (Point(version, time, dict(metrics)),)
            case CommitRecord():
                return (self._commit(record),)
        return ()

    def _add(self, task: TaskRecord) -> None:
        self._bytes_up += task.bytes_up
        self._bytes_down += task.bytes_down
        self._tasks[task.outcome] += 1
        if task.outcome == "aggregated":
            self._staleness += task.staleness
            self._fresh += 1

    def _commit(self, record: CommitRecord) -> Point:
        values: dict[str, float] = {
            "bytes/up": self._bytes_up,
            "bytes/down": self._bytes_down,
            "clients/busy": record.busy,
            "clients/present": record.clients,
            "updates/in_commit": record.updates,
        }
        values |= {f"updates/{outcome}": n for outcome, n in sorted(self._tasks.items())}
        if self._fresh:
            values["staleness/mean"] = self._staleness / self._fresh
        self._staleness = self._fresh = 0
        return Point(record.version, record.time, values)
