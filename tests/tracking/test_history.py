import json
import math
from pathlib import Path

import pytest

from shoal.errors import CheckpointError, DataError
from shoal.messages import (
    ClientRecord,
    CommitRecord,
    EvaluationRecord,
    StopRecord,
    TaskRecord,
)
from shoal.tracking import Meta, Run, read, summary, versions, write_meta
from shoal.tracking.history import lower_is_better

from .synthetic import KINDS, make, save

# Two clients over ten seconds. a is there all the time, b from 2 to 6, and again from 8:
# present 10 + 4 + 2 = 16 client-seconds. Busy: task 0 takes 3, task 1 takes 2 (2 to 4, then it
# waits to 5), task 2 takes 1 and fails, task 3 takes 2 (6 to 8): 8 client-seconds. Idle: a half.
RECORDS = (
    ClientRecord(0.0, "a", "joined"),
    EvaluationRecord(0.0, 0, {"accuracy": 0.1, "loss": 2.0}),
    ClientRecord(2.0, "b", "joined"),
    TaskRecord(0, "a", 0, 0.0, 3.0, 3.0, "aggregated", bytes_down=100, bytes_up=10),
    CommitRecord(3.0, 1, 1, 1, 2),
    TaskRecord(1, "b", 0, 2.0, 4.0, 5.0, "aggregated", staleness=1, bytes_down=100, bytes_up=20),
    CommitRecord(5.0, 2, 1, 0, 2),
    EvaluationRecord(5.0, 2, {"accuracy": 0.6, "loss": 1.0}),
    TaskRecord(2, "b", 2, 5.0, 6.0, 6.0, "failed", "left", bytes_down=100),
    ClientRecord(6.0, "b", "left"),
    TaskRecord(
        3, "a", 2, 6.0, 8.0, 8.0, "discarded", "late", staleness=9, bytes_down=100, bytes_up=40
    ),
    ClientRecord(8.0, "b", "joined"),
    EvaluationRecord(9.0, 2, {"accuracy": 0.5, "loss": 1.5}),
    StopRecord(10.0, 2, "seconds"),
)


def hand_made(**meta: object) -> Run:
    known = {"name": "r", "algorithm": "fedasync", "target_value": 0.6, "wall_seconds": 1.5}
    return Run(Path("r"), Meta(**known | meta), RECORDS)  # type: ignore[arg-type]


def test_the_summary_of_a_hand_made_run():
    s = summary(hand_made())
    assert (s.time_to_target, s.final, s.best) == (5.0, 0.5, 0.6)
    assert (s.commits, s.aggregated, s.discarded, s.rejected, s.failed) == (2, 2, 1, 0, 1)
    assert s.staleness_mean == 0.5
    assert s.staleness_p95 == pytest.approx(0.95)  # linear between 0 and 1
    assert (s.bytes_up, s.bytes_down) == (70, 400)
    assert s.compute_seconds == 8.0
    assert s.idle_share == 0.5
    assert (s.virtual_seconds, s.wall_seconds) == (10.0, 1.5)


def test_a_target_may_lie_below():
    s = summary(hand_made(target_metric="loss", target_value=1.0))
    assert (s.time_to_target, s.final, s.best) == (5.0, 1.5, 1.0)
    assert lower_is_better("val_loss") and not lower_is_better("accuracy")


@pytest.mark.parametrize("target", [None, 0.61])
def test_a_target_that_is_not_reached_has_no_time(target):
    assert summary(hand_made(target_value=target)).time_to_target is None


def test_an_empty_run_has_a_summary():
    s = summary(Run(Path("r"), Meta(name="r", algorithm="a"), ()))
    assert s.commits == s.aggregated == s.bytes_up == 0
    assert all(math.isnan(v) for v in (s.final, s.best, s.staleness_mean, s.idle_share))


def test_clients_that_never_joined_are_there_all_the_time():
    run = Run(Path("r"), Meta(name="r", algorithm="a"), (RECORDS[3], StopRecord(6.0, 0, "")))
    assert summary(run).idle_share == 0.5


def test_a_task_that_outlasts_the_run_counts_up_to_its_end():
    task = TaskRecord(0, "a", 0, 2.0, 9.0, 9.0, "cancelled")
    run = Run(Path("r"), Meta(name="r", algorithm="a"), (task, StopRecord(4.0, 0, "")))
    assert summary(run).compute_seconds == 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_disk_is_the_run_in_memory(tmp_path: Path, kind: str):
    run = make(kind, clients=12, tasks=150)
    back = read(save(run, tmp_path / kind))
    assert back.meta == run.meta and back.notes == ()
    assert back.records == tuple(run.records)
    assert summary(back) == summary(run)


def test_a_half_written_last_line_is_left_out_and_said(tmp_path: Path):
    run = make("fedbuff", clients=5, tasks=30)
    path = save(run, tmp_path) / "records.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    back = read(tmp_path)
    assert back.records == tuple(run.records)[:-1]
    (note,) = back.notes
    assert f"line {len(run.records)}" in note and "half written" in note


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path):
    path = save(make("fedbuff", clients=5, tasks=30), tmp_path) / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"{}\n", *lines[4:]]))
    with pytest.raises(DataError, match=r"records\.jsonl, line 4: no record"):
        read(tmp_path)


def test_a_run_without_records_is_read_and_noted(tmp_path: Path):
    write_meta(tmp_path, Meta(name="r", algorithm="a"))
    run = read(tmp_path)
    assert run.records == () and "missing" in run.notes[0]


def test_what_is_no_run_is_said(tmp_path: Path):
    with pytest.raises(DataError, match="not a run directory"):
        read(tmp_path)
    (tmp_path / "run.json").write_text('{"name": "r"')
    with pytest.raises(DataError, match=r"run\.json: cannot be read"):
        read(tmp_path)
    (tmp_path / "run.json").write_text('{"name": "r", "algorithm": 3}')
    with pytest.raises(DataError, match=r"run\.json: cannot be read: algorithm"):
        read(tmp_path)


def test_meta_is_replaced_whole(tmp_path: Path):
    write_meta(tmp_path, Meta(name="r", algorithm="a"))
    write_meta(tmp_path, Meta(name="r", algorithm="a", status="done", versions=versions()))
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "done"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"run\.json: cannot write"):
        write_meta(tmp_path / "file", Meta(name="r", algorithm="a"))


def test_versions_name_what_the_numbers_depend_on():
    assert {"python", "shoal", "numpy"} <= versions().keys()
