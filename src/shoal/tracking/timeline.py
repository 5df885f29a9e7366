"""The per-client timeline of a run as compact columns, ready to be embedded in a page."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from shoal.messages import TaskRecord
from shoal.tracking.history import Run

OUTCOMES = ("aggregated", "discarded", "rejected", "failed", "cancelled")
TICKS = 1 << 20  # times are whole numbers of (end of run / TICKS): a microsecond per second
MAX_ROWS = 300
MAX_COMMITS = 2000


def by_speed(run: Run) -> list[str]:
    """All clients, fastest first: by their median seconds per local step; unknown ones last."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for task in run.tasks:
        if task.steps > 0:  # else it failed on the way: how long that took says nothing
            times[task.client].append((task.arrived - task.started) / task.steps)
    pace = {client: median(values) for client, values in times.items()}
    everyone = run.present.keys() | pace.keys()
    return sorted(everyone, key=lambda c: (pace.get(c, math.inf), c))


def timeline(run: Run, limit: int) -> dict[str, Any]:
    """Rows, bars and offline spans as plain data.

    Args:
        limit: how many bars to give at most. A run with more tasks is cut into as many equal
            spans of time per client as the limit allows, and each span with tasks becomes a
            bar that counts its tasks by outcome and says how much of it the client was busy.

    Returns:
        Columns of equal length: c (row), s (start), d (busy), w (waiting) in ticks; for single
        tasks also o (number of the outcome), i (task), v (version), y (staleness), k (steps),
        r (number of the reason); for spans n (counts by outcome) and y (mean staleness).
    """
    order = by_speed(run)
    shown = _sample(order, MAX_ROWS)
    rows = {client: row for row, client in enumerate(shown)}
    tasks = [t for t in run.tasks if t.client in rows]
    scale = TICKS / run.end if run.end > 0 else 0.0
    whole = len(tasks) <= limit
    columns = _single(tasks, rows, scale) if whole else _spans(tasks, rows, scale, limit)
    return {
        "end": run.end,
        "ticks": TICKS,
        "clients": shown,
        "population": len(order),
        "tasks": len(run.tasks),
        "single": whole,
        "counts": [sum(t.outcome == name for t in tasks) for name in OUTCOMES],
        "commits": [round(t * scale) for t in _sample([c.time for c in run.commits], MAX_COMMITS)],
        "offline": _offline(run, rows, scale),
        **columns,
    }


def _single(
    tasks: Sequence[TaskRecord], rows: dict[str, int], scale: float
) -> dict[str, list[Any]]:
    reasons: dict[str, int] = {"": 0}
    columns: dict[str, list[Any]] = {name: [] for name in "csdwoivykr"}
    for t in tasks:
        start, arrived = round(t.started * scale), round(t.arrived * scale)
        row = (
            *(rows[t.client], start, arrived - start),
            *(max(0, round(t.ended * scale) - arrived), _number(t.outcome)),
            *(t.task, t.version, t.staleness, t.steps),
            reasons.setdefault(t.reason, len(reasons)),
        )
        for name, value in zip("csdwoivykr", row, strict=True):
            columns[name].append(value)
    return {**columns, "reasons": list(reasons)}


def _spans(
    tasks: Sequence[TaskRecord], rows: dict[str, int], scale: float, limit: int
) -> dict[str, list[Any]]:
    count = max(1, limit // max(1, len(rows)))
    length = TICKS / count
    groups: defaultdict[tuple[int, int], list[TaskRecord]] = defaultdict(list)
    for t in tasks:
        groups[rows[t.client], min(int(t.started * scale / length), count - 1)].append(t)
    columns: dict[str, list[Any]] = {name: [] for name in "csdwny"}
    for (row, span), inside in sorted(groups.items()):
        start = round(min(t.started for t in inside) * scale)
        stop = round(max(t.arrived for t in inside) * scale)
        if len(inside) > 1:
            start, stop = round(span * length), max(stop, round((span + 1) * length))
        busy = sum(t.arrived - t.started for t in inside) * scale
        stale = [t.staleness for t in inside if t.outcome == "aggregated"]
        outcomes = Counter(t.outcome for t in inside)
        columns["c"].append(row)
        columns["s"].append(start)
        columns["d"].append(stop - start)
        columns["w"].append(min(100, round(100 * busy / max(1, stop - start))))
        columns["n"].append([outcomes[name] for name in OUTCOMES])
        columns["y"].append(round(sum(stale) / len(stale), 1) if stale else 0)
    return columns


def _offline(run: Run, rows: dict[str, int], scale: float) -> list[list[int]]:
    """Row, start and end of every span in which a shown client was away, in ticks."""
    away = []
    for client, row in rows.items():
        since = 0.0
        for start, stop in run.present.get(client, []):
            if start > since:
                away.append([row, round(since * scale), round(start * scale)])
            since = max(since, stop)
        if since < run.end:
            away.append([row, round(since * scale), TICKS])
    return away


def _sample(items: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` of the items, evenly spread, first and last among them."""
    size = len(items)
    if size <= limit:
        return list(items)
    return [items[i * (size - 1) // (limit - 1)] for i in range(limit)]


def _number(outcome: str) -> int:
    return OUTCOMES.index(outcome) if outcome in OUTCOMES else OUTCOMES.index("failed")
