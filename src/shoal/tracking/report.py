"""A report of one or several runs: one HTML file that needs no network."""

import json
import math
import os
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from shoal.errors import DataError
from shoal.tracking import figures, sections
from shoal.tracking.figures import Curve
from shoal.tracking.history import Run, summary
from shoal.tracking.timeline import timeline

MAX_BARS = 60_000


def report(runs: Sequence[Run], path: str | os.PathLike[str]) -> Path:
    """Write the report and return its path.

    Raises:
        DataError: without any run, or naming the file when it cannot be written.
    """
    target = Path(path)
    text = html(runs)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


def html(runs: Sequence[Run]) -> str:
    """The report as text.

    Raises:
        DataError: without any run.
    """
    if not runs:
        raise DataError("a report needs at least one run")
    summaries = [summary(run) for run in runs]
    curves = [figures.curve(run) for run in runs]
    lanes = [timeline(run, MAX_BARS // len(runs)) for run in runs]
    names = ", ".join(run.meta.name for run in runs)
    parts = [
        sections.table(runs, summaries),
        sections.progress(runs, curves),
        sections.timelines(runs, summaries, lanes),
        sections.staleness(runs),
        sections.updates(runs),
        sections.traffic(runs),
        sections.settings(runs),
    ]
    return Template(_asset("page.html")).substitute(
        title=escape(f"{names} · Shoal report"),
        css=_asset("report.css"),
        heading=escape(names if len(runs) <= 4 else f"{len(runs)} runs compared"),
        lead=sections.lead(runs, summaries),
        sections="\n".join(parts),
        footer="Everything on this page is in this one file. The complete records of each run "
        "are in its records.jsonl.",
        data=_embedded(runs, curves, lanes),
        js=_asset("charts.js") + _asset("timeline.js"),
    )


def _embedded(runs: Sequence[Run], curves: Sequence[Curve], lanes: Sequence[Any]) -> str:
    data = {
        "names": [run.meta.name for run in runs],
        "curves": [{"x": _rounded(c.x), "y": _rounded(c.y)} for c in curves],
        "timelines": lanes,
    }
    # "<" could end the script element early, whatever a client is called.
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _rounded(table: dict[str, list[float]]) -> dict[str, list[float | None]]:
    return {k: [float(f"{v:.7g}") if math.isfinite(v) else None for v in values]
            for k, values in table.items()}  # fmt: skip


def _asset(name: str) -> str:
    return (resources.files("shoal.tracking") / "assets" / name).read_text(encoding="utf-8")
