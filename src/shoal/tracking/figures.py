"""The charts of a report: from runs to SVG text and the numbers that a pointer asks for."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from shoal.messages import TaskRecord
from shoal.tracking import units
from shoal.tracking.axes import axis
from shoal.tracking.history import Run, lower_is_better
from shoal.tracking.plots import Bar, Series, bars, lines, thinned
from shoal.tracking.timeline import by_speed

AXES = {"time": "Virtual time", "commits": "Commits", "bytes": "Bytes", "updates": "Updates"}
_KINDS = {"time": "time", "commits": "count", "bytes": "bytes", "updates": "count"}
_LABELS = {
    "time": "Virtual time",
    "commits": "Commits",
    "bytes": "Bytes sent up and down",
    "updates": "Updates aggregated",
}
_POINTS = 400
_COLUMNS = 120


@dataclass(frozen=True)
class Curve:
    """The metrics of one run over everything that they can be drawn over.

    Attributes:
        x: by axis name ("time", "commits", "bytes", "updates").
        y: by metric; NaN where an evaluation lacks it.
    """

    x: dict[str, list[float]]
    y: dict[str, list[float]]


def curve(run: Run) -> Curve:
    """The evaluations of a run, thinned to a few hundred points."""
    tasks = sorted(run.tasks, key=lambda t: t.ended)
    totals = list(accumulate((t.bytes_up + t.bytes_down for t in tasks), initial=0))
    fresh = list(accumulate((t.outcome == "aggregated" for t in tasks), initial=0))
    metrics = list(dict.fromkeys(name for e in run.evaluations for name in e.metrics))
    x: dict[str, list[float]] = {name: [] for name in AXES}
    done = 0
    for e in run.evaluations:
        while done < len(tasks) and tasks[done].ended <= e.time:
            done += 1
        for name, value in zip(AXES, (e.time, e.version, totals[done], fresh[done]), strict=True):
            x[name].append(value)
    y = {name: [e.metrics.get(name, math.nan) for e in run.evaluations] for name in metrics}
    watched = y.get(run.meta.target_metric) or next(iter(y.values()), [])
    keep = thinned(x["time"], watched, _POINTS)
    return Curve(*({k: [v[i] for i in keep] for k, v in table.items()} for table in (x, y)))


def metrics(runs: Sequence[Run], curves: Sequence[Curve]) -> list[str]:
    """The metrics to offer, the watched one first, three at most."""
    names = [run.meta.target_metric for run in runs] + [n for c in curves for n in c.y]
    return [name for name in dict.fromkeys(names) if any(name in c.y for c in curves)][:3]


def progress(runs: Sequence[Run], curves: Sequence[Curve], metric: str, over: str) -> str:
    """One metric of all runs over one axis, with the target where the metric has one."""
    series = [
        Series(run.meta.name, c.x[over], c.y[metric], i)
        for i, (run, c) in enumerate(zip(runs, curves, strict=True))
        if metric in c.y
    ]
    targets = {r.meta.target_value for r in runs if r.meta.target_metric == metric} - {None}
    target = next(iter(targets)) if len(targets) == 1 else None
    x = axis(_LABELS[over], [v for s in series for v in s.x], _KINDS[over], zero=True)
    heights = [v for s in series for v in s.y] + ([] if target is None else [target])
    y = axis(metric.replace("_", " ").capitalize(), heights, zero=lower_is_better(metric))
    return lines(
        series,
        axis(x.label, (x.low, max((v for s in series for v in s.x), default=1.0)), x.kind,
             zero=True, round_ends=False, ticks=8),
        y,
        title=f"{metric} over {_LABELS[over].lower()}",
        target=None if target is None else (target, f"target {target:g}"),
        marks=_reaching(series, target, lower_is_better(metric)),
    )  # fmt: skip


def staleness(runs: Sequence[Run]) -> list[str]:
    """A histogram of staleness for each run, on axes of its own; empty text without updates.

    The bars end at the 99.5th percentile; the last one holds what lies beyond.
    """
    charts = []
    for i, run in enumerate(runs):
        values = sorted(t.staleness for t in _fresh(run))
        if not values:
            charts.append("")
            continue
        top = max(values[int(0.995 * (len(values) - 1))], 4)
        width = math.ceil((top + 1) / 32)
        bins = Counter(min(v, top) // width for v in values)
        last = top // width
        data = [
            Bar(
                *(b * width - 0.5, (b + 1) * width - 0.5, 100 * n / len(values)),
                _staleness_hint(b * width, values[-1] if b == last else (b + 1) * width - 1, n),
            )
            for b, n in sorted(bins.items())
        ]
        edges = (-0.5, (last + 1) * width - 0.5)
        x = axis("Staleness when aggregated (commits)", edges, "count", round_ends=False)
        y = axis("Updates, %", [bar.y for bar in data], zero=True, ticks=4)
        mean = sum(values) / len(values)
        title = f"Staleness of the updates of {run.meta.name}"
        charts.append(bars(data, x, y, title=title, index=i, note=(mean, f"mean {mean:.1f}")))
    return charts


def updates(runs: Sequence[Run]) -> list[str]:
    """Updates per client, fastest client first; empty text for a run without clients.

    With very many clients, neighbors in speed share a bar of their mean.
    """
    charts = []
    for i, run in enumerate(runs):
        order = by_speed(run)
        got = Counter(t.client for t in _fresh(run))
        group = max(1, math.ceil(len(order) / _COLUMNS))
        data = []
        for first in range(0, len(order), group):
            names = order[first : first + group]
            mean = sum(got[n] for n in names) / len(names)
            who = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}, mean"
            data.append(Bar(first, first + len(names), mean, f"{who}: {mean:g} updates"))
        if not data:
            charts.append("")
            continue
        x = axis("Clients, fastest to slowest", (0, len(order)), "count", round_ends=False)
        y = axis("Updates aggregated", [b.y for b in data], "count", zero=True, ticks=4)
        title = f"Updates of each client of {run.meta.name}"
        charts.append(bars(data, x, y, title=title, index=i))
    return charts


def traffic(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Total bytes over virtual time, up and down: pairs of heading and chart on equal axes."""
    ways: list[tuple[str, Callable[[TaskRecord], tuple[float, int]]]] = [
        ("Up: clients to server", lambda t: (t.arrived, t.bytes_up)),
        ("Down: server to clients", lambda t: (t.started, t.bytes_down)),
    ]
    drawn = [[_total(run, i, way) for i, run in enumerate(runs)] for _, way in ways]
    last = max((run.end for run in runs), default=1.0)
    x = axis("Virtual time", (0, last), "time", zero=True, round_ends=False, ticks=4)
    highest = max((v for group in drawn for s in group for v in s.y), default=0)
    y = axis("Bytes, total", (0, highest), "bytes", zero=True, ticks=4)
    return [
        (name, lines(group, x, y, title=f"Bytes over virtual time. {name}", width=520, height=260))
        for (name, _), group in zip(ways, drawn, strict=True)
    ]


def _total(run: Run, index: int, way: Callable[[TaskRecord], tuple[float, int]]) -> Series:
    moves = sorted(way(t) for t in run.tasks)
    x = [0.0, *(time for time, _ in moves), run.end]
    y = list(accumulate((amount for _, amount in moves), initial=0))
    y.append(y[-1])
    keep = thinned(x, y, _POINTS // 2)
    return Series(run.meta.name, [x[i] for i in keep], [float(y[i]) for i in keep], index, True)


def _reaching(
    series: Sequence[Series], target: float | None, lower: bool
) -> list[tuple[float, float, int]]:
    marks: list[tuple[float, float, int]] = []
    if target is None:
        return marks
    for one in series:
        points = zip(one.x, one.y, strict=True)
        hit = next(((x, y) for x, y in points if (y <= target if lower else y >= target)), None)
        if hit:
            marks.append((*hit, one.color))
    return marks


def _fresh(run: Run) -> list[TaskRecord]:
    return [t for t in run.tasks if t.outcome == "aggregated"]


def _staleness_hint(first: int, last: int, n: int) -> str:
    span = f"{first}" if first >= last else f"{first} to {last}"
    return f"staleness {span}: {units.count(n)} updates"
