import io
import re
import time
from dataclasses import replace

import pytest

pytest.importorskip("rich")

from rich.console import Console

from shoal.messages import EvaluationRecord
from shoal.tracking import Run, summary
from shoal.tracking.progress import Progress
from shoal.tracking.tables import comparison, partition_table, show
from shoal.tracking.units import seconds, size

from .synthetic import make

RUN = make("fedbuff", clients=20, tasks=400)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def feed(file: io.StringIO, **options: object) -> Progress:
    progress = Progress(100, 0.9, title="fedbuff", file=file, **options)  # type: ignore[arg-type]
    for record in RUN.records:
        progress.write(record)
    return progress


def test_the_counters_agree_with_the_summary():
    progress, s = feed(io.StringIO()), summary(RUN)
    assert (progress.version, progress.aggregated) == (s.commits, s.aggregated)
    assert (progress.bytes_up, progress.bytes_down) == (s.bytes_up, s.bytes_down)
    assert progress.staleness / progress.aggregated == s.staleness_mean
    assert (progress.reached, progress.clock) == (s.time_to_target, RUN.end)
    assert progress.lost == s.failed + s.rejected + s.discarded


def test_without_a_terminal_there_are_plain_lines(monkeypatch):
    monkeypatch.setattr("shoal.tracking.progress.LINE_SECONDS", 0.0)
    file = io.StringIO()
    feed(file).close()
    rows = file.getvalue().splitlines()
    assert "\x1b" not in file.getvalue()
    assert rows[0] == "fedbuff: started" and len(rows) >= len(RUN.records)
    assert re.search(r"\d+/100 commits, clock .* accuracy 0\.\d+", rows[-5])


def test_without_a_terminal_lines_are_rare_and_close_says_the_end():
    file = io.StringIO()
    progress = feed(file)
    progress.close()
    progress.close()
    text = file.getvalue().replace("\n", " ")
    assert text.count("fedbuff") == 2
    assert "accuracy 0.9 reached at" in text and "updates/s" in text


def test_a_terminal_shows_bars_that_vanish_and_a_line_that_stays():
    file = Terminal()
    progress = feed(file)
    time.sleep(0.25)
    progress.close()
    drawn = file.getvalue()
    assert "━" in drawn and "▁" in drawn and "100" in drawn and "clock" in drawn
    assert drawn.rstrip().endswith("updates/s)")


def test_a_target_that_is_missed_is_said():
    file = io.StringIO()
    progress = Progress(None, 0.99, title="x", file=file)
    progress.write(EvaluationRecord(4.0, 1, {"accuracy": 0.5}))
    progress.close()
    assert "✗ x" in file.getvalue() and "0.99 not reached" in file.getvalue().replace("\n", " ")


def test_a_run_that_recorded_nothing_leaves_no_line():
    file = io.StringIO()
    Progress(file=file).close()
    assert file.getvalue() == ""


def test_a_record_costs_little():
    progress = Progress(100, 0.9, title="fedbuff", file=Terminal())
    records = list(RUN.records) * 200
    progress.write(records[0])
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        for record in records:
            progress.write(record)
        best = min(best, (time.perf_counter() - begun) / len(records))
    progress.close()
    # Measured at under one microsecond; the margin is for busy machines.
    assert best < 5e-6


def printed(runs: list[Run], width: int) -> str:
    file = io.StringIO()
    Console(width=width, file=file).print(comparison(runs))
    return file.getvalue()


def test_the_table_marks_the_best_of_each_column():
    runs = [RUN, make("fedavg", clients=20, tasks=400, seed=1)]
    text = printed(runs, 200)
    times = [summary(run).time_to_target for run in runs]
    assert times[0] < times[1]  # type: ignore[operator]
    head = " ".join(text[: text.index("fedbuff")].split())
    for word in ("time", "accuracy", "commits", "updates", "staleness", "p95", "idle", "wall"):
        assert word in head
    assert re.search(rf"fedbuff +{seconds(times[0])} \*", text)
    assert re.search(rf"fedavg +{seconds(times[1])}   ", text)
    assert text.count("fedbuff") == 1 and "* best of the column" in text


def test_a_narrow_terminal_gets_the_same_cells_in_two_tables():
    runs = [RUN, make("fedavg", clients=20, tasks=400, seed=1)]
    wide, narrow = printed(runs, 200), printed(runs, 70)
    assert max(map(len, narrow.splitlines())) <= 70
    assert narrow.count("fedbuff") == 2 and "…" not in narrow
    cells = [" ".join(t for t in text.split() if t != "*") for text in (wide, narrow)]
    for value in (seconds(summary(RUN).time_to_target), size(summary(RUN).bytes_up)):
        assert all(value in text for text in cells)


def test_a_run_that_missed_the_target_is_not_the_cheapest():
    few = RUN.records[: len(RUN.records) // 4]
    cheap = replace(RUN, records=few, meta=replace(RUN.meta, name="short", wall_seconds=0.1))
    row = next(r for r in printed([cheap, RUN], 200).splitlines() if "short" in r)
    assert "–" in row and "*" not in row


def test_a_partition_is_shown_in_a_table(capsys):
    data = pytest.importorskip("shoal.data.describe")
    rows = [data.Row(f"c{i}", 30, (10, 20, 0), 0.918, 0.25) for i in range(50)]
    show(partition_table(("0", "1", "2"), rows))
    text = capsys.readouterr().out
    assert "2 of 3" in text and "0.92" in text and "and 10 more clients" in text
