"""The columns of a comparison of runs, shared by the terminal table and the report."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal.tracking import units
from shoal.tracking.history import Run, Summary, lower_is_better


@dataclass(frozen=True, slots=True)
class Cell:
    """One value: its text, and whether no other run has a better one."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title and a cell for each run."""

    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class _Spec:
    title: str
    value: Callable[[Summary], float]
    text: Callable[[float], str]
    better: Callable[[float, float], bool] | None


def _less(a: float, b: float) -> bool:
    return a < b


def _more(a: float, b: float) -> bool:
    return a > b


_SPECS = (
    _Spec("commits", lambda s: s.commits, units.count, None),
    _Spec("updates", lambda s: s.aggregated, units.count, None),
    _Spec("staleness mean", lambda s: s.staleness_mean, units.decimal, _less),
    _Spec("staleness p95", lambda s: s.staleness_p95, units.decimal, _less),
    _Spec("bytes up", lambda s: s.bytes_up, units.size, _less),
    _Spec("bytes down", lambda s: s.bytes_down, units.size, _less),
    _Spec("idle share", lambda s: s.idle_share, units.share, _less),
    _Spec("wall time", lambda s: s.wall_seconds, units.seconds, _less),
)


def columns(runs: Sequence[Run], summaries: Sequence[Summary]) -> list[Column]:
    """The comparison, one cell per run; the best of a column is marked where runs differ.

    How many commits or updates a run made is neither good nor bad, so nothing is marked there.
    Where some runs reached the target only these are marked: to be cheap without it is no feat.
    """
    metrics = {s.metric for s in summaries}
    metric = next(iter(metrics)) if len(metrics) == 1 else "metric"
    better = _less if lower_is_better(metric) else _more
    specs = (
        _Spec(_to_target(summaries), _target_time, units.seconds, _less),
        _Spec(f"final {metric}", lambda s: s.final, units.metric, better),
        *_SPECS,
    )
    return [_column(spec, summaries) for spec in specs]


def _target_time(summary: Summary) -> float:
    return math.nan if summary.time_to_target is None else summary.time_to_target


def _to_target(summaries: Sequence[Summary]) -> str:
    targets = {(s.metric, s.target) for s in summaries}
    metric, target = next(iter(targets)) if len(targets) == 1 else ("", None)
    return "time to target" if target is None else f"time to {metric} {target:g}"


def _column(spec: _Spec, summaries: Sequence[Summary]) -> Column:
    values = [float(spec.value(s)) for s in summaries]
    texts = [spec.text(v) for v in values]
    reached = [s.time_to_target is not None for s in summaries]
    racing = [
        math.isfinite(v) and (r or not any(reached)) for v, r in zip(values, reached, strict=True)
    ]
    # Compared as they are read: two runs at "67 %" are equally good.
    first = ""
    best = math.nan
    for value, text, races in zip(values, texts, racing, strict=True):
        if races and spec.better and (not first or spec.better(value, best)):
            first, best = text, value
    differ = len(set(texts)) > 1
    return Column(
        spec.title,
        tuple(
            Cell(text, differ and races and text == first)
            for text, races in zip(texts, racing, strict=True)
        ),
    )
