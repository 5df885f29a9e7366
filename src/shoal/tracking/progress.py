"""A sink that shows a run while it goes on: a live panel on a terminal, else a line now and then.

On a terminal, Rich's own thread draws the counters ten times a second at most; `write` only adds.
"""

import math
import sys
import time
from collections import deque
from typing import TextIO

from shoal.errors import MissingExtra
from shoal.messages import CommitRecord, EvaluationRecord, Record, StopRecord, TaskRecord
from shoal.tracking import units
from shoal.tracking.history import lower_is_better

try:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingExtra("rich", "cli") from error

REFRESH_HERTZ = 10
LINE_SECONDS = 5.0
_KEPT = 48


class Progress:
    """Live progress of one run; runs that follow each other each get their own.

    Args:
        total: commits after which the run ends; None when it ends otherwise.
        target: value of `metric` that ends it; None without a target.
        metric: the metric to watch.
        title: what the run is called.
        file: where to draw; standard error by default.
    """

    def __init__(
        self,
        total: int | None = None,
        target: float | None = None,
        *,
        metric: str = "accuracy",
        title: str = "run",
        file: TextIO | None = None,
    ) -> None:
        self.total, self.target, self.metric, self.title = total, target, metric, title
        self.clock = 0.0
        self.version = self.tasks = self.aggregated = self.lost = 0
        self.bytes_up = self.bytes_down = self.staleness = self.busy = self.clients = 0
        self.values: deque[float] = deque(maxlen=_KEPT)
        self.first = math.nan
        self.reached: float | None = None
        self._lower = lower_is_better(metric)
        self._console = Console(file=file or sys.stderr, highlight=False)
        self._live: Live | None = None
        self._open = False
        self._closed = False
        self._begun = 0.0
        self._next_line = 0.0
        # Half a second to a second old counts, for the speed of now and not of the whole run.
        self._marks: deque[tuple[float, int]] = deque(maxlen=2 * REFRESH_HERTZ)

    def write(self, record: Record) -> None:
        """Count one record."""
        kind = type(record)
        if kind is TaskRecord:
            self._task(record)  # type: ignore[arg-type]
        elif kind is CommitRecord:
            self.clock, self.version = record.time, record.version  # type: ignore[union-attr]
            self.busy, self.clients = record.busy, record.clients  # type: ignore[union-attr]
        elif kind is EvaluationRecord:
            self._evaluation(record)  # type: ignore[arg-type]
        elif kind is StopRecord:
            self.clock = record.time  # type: ignore[union-attr]
        if not self._open:
            self._start()
        elif self._live is None and time.monotonic() >= self._next_line:
            self._line()

    def close(self) -> None:
        """End the display; one line about the run stays."""
        if self._closed:
            return
        self._closed = True
        if self._live is not None:
            self._live.stop()
        if self._open:
            self._console.print(self._last(), soft_wrap=not self._console.is_terminal)

    def _task(self, task: TaskRecord) -> None:
        self.tasks += 1
        self.bytes_up += task.bytes_up
        self.bytes_down += task.bytes_down
        self.clock = task.ended
        if task.outcome == "aggregated":
            self.aggregated += 1
            self.staleness += task.staleness
        else:
            self.lost += 1

    def _evaluation(self, record: EvaluationRecord) -> None:
        self.clock = record.time
        value = record.metrics.get(self.metric)
        if value is None:
            return
        if math.isnan(self.first):
            self.first = value
        self.values.append(value)
        if self.target is not None and self.reached is None:
            hit = value <= self.target if self._lower else value >= self.target
            self.reached = record.time if hit else None

    def _start(self) -> None:
        self._open = True
        self._begun = time.monotonic()
        self._next_line = self._begun + LINE_SECONDS
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._panel,
                refresh_per_second=REFRESH_HERTZ,
                transient=True,
            )
            self._live.start()
        else:
            self._console.print(f"{self.title}: started", markup=False, soft_wrap=True)

    def _line(self) -> None:
        self._next_line = time.monotonic() + LINE_SECONDS
        self._console.print(self._facts(), soft_wrap=True)

    def _panel(self) -> Group:
        """Two bars with their numbers, and a line of counts."""
        grid = Table.grid(padding=(0, 2))
        for width in (10, 30):
            grid.add_column(width=width)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, style="dim")
        bar = ProgressBar(total=self.total, completed=self.version, pulse=self.total is None)
        commits = units.count(self.version) + (
            f" / {units.count(self.total)}" if self.total else ""
        )
        grid.add_row("commits", bar, commits, f"clock {units.seconds(self.clock)}")
        goal = "" if self.target is None else f" / {self.target:g}"
        now = self.values[-1] if self.values else math.nan
        near = ProgressBar(total=1.0, completed=self._nearness(), complete_style="cyan")
        spark = Text(units.sparkline(self.values), style="cyan")
        grid.add_row(self.metric, near, units.metric(now) + goal, spark)
        return Group(Text(self.title, style="bold"), grid, Text(self._counts(), style="dim"))

    def _counts(self) -> str:
        parts = [
            f"staleness {units.decimal(self._mean())}",
            f"↑ {units.size(self.bytes_up)}",
            f"↓ {units.size(self.bytes_down)}",
            f"{units.count(self._speed())} updates/s",
            f"busy {self.busy} of {self.clients}",
        ]
        if self.lost:
            parts.append(f"{units.count(self.lost)} not aggregated")
        parts.append(f"wall {units.seconds(time.monotonic() - self._begun)}")
        return "  ".join(parts)

    def _facts(self) -> Text:
        now = units.metric(self.values[-1]) if self.values else units.NONE
        of = f"/{units.count(self.total)}" if self.total else ""
        head = f"{self.title}: {units.count(self.version)}{of} commits, "
        return Text(
            f"{head}clock {units.seconds(self.clock)}, {self.metric} {now}, {self._counts()}"
        )

    def _last(self) -> Text:
        wall = time.monotonic() - self._begun
        speed = self.aggregated / wall if wall > 0 else 0.0
        if self.target is None:
            result = units.seconds(self.clock)
        elif self.reached is None:
            result = f"{self.metric} {self.target:g} not reached in {units.seconds(self.clock)}"
        else:
            result = f"{self.metric} {self.target:g} reached at {units.seconds(self.reached)}"
        now = units.metric(self.values[-1]) if self.values else units.NONE
        good = self.target is None or self.reached is not None
        mark = ("✓ ", "green") if good else ("✗ ", "yellow")
        rest = (
            f"  {result}, {self.metric} {now}, {units.count(self.version)} commits, "
            f"{units.count(self.aggregated)} updates, staleness {units.decimal(self._mean())}, "
            f"↑ {units.size(self.bytes_up)} ↓ {units.size(self.bytes_down)}, "
            f"wall {units.seconds(wall)} ({units.count(speed)} updates/s)"
        )
        return Text.assemble(mark, (self.title, "bold"), rest)

    def _mean(self) -> float:
        return self.staleness / self.aggregated if self.aggregated else 0.0

    def _speed(self) -> float:
        now = time.monotonic()
        if not self._marks:
            self._marks.append((self._begun, 0))
        then, before = self._marks[0]
        if now - self._marks[-1][0] >= 0.5 / REFRESH_HERTZ:
            self._marks.append((now, self.aggregated))
        return (self.aggregated - before) / (now - then) if now > then else 0.0

    def _nearness(self) -> float:
        """How much of the way from the first value to the target is done, 0 to 1."""
        if not self.values or self.target is None:
            return 0.0
        way = self.target - self.first
        done = (self.values[-1] - self.first) / way if way else 1.0
        return min(1.0, max(0.0, done)) if math.isfinite(done) else 0.0
