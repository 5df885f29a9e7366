import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from shoal.errors import CheckpointError, ConfigError, DataError, MissingExtra
from shoal.messages import (
    ClientRecord,
    CommitRecord,
    EvaluationRecord,
    StopRecord,
    TaskRecord,
)
from shoal.tracking import SINKS, Guarded, JsonLines, Memory
from shoal.tracking.codec import from_line, to_line
from shoal.tracking.scalars import Scalars
from shoal.tracking.sinks import named, opened

TASK = TaskRecord(
    *(7, 'client "ä"', 3, 1.5, 4.25, 6.0, "aggregated"),
    staleness=2,
    weight=0.5,
    num_examples=40,
    steps=8,
    bytes_down=1000,
    bytes_up=250,
    metrics={"loss": 0.125},
)
ALL = (
    ClientRecord(0.0, "a", "joined"),
    TASK,
    CommitRecord(6.0, 4, 1, 2, 5),
    EvaluationRecord(6.0, 4, {"accuracy": 0.5}),
    StopRecord(7.0, 4, "commits"),
)


@pytest.mark.parametrize("record", ALL, ids=lambda r: type(r).__name__)
def test_a_line_gives_its_record_back(record):
    line = to_line(record)
    assert "\n" not in line
    assert from_line(line) == record


def test_metrics_that_are_not_finite_stay_valid_json():
    line = to_line(EvaluationRecord(1.0, 2, {"loss": math.inf, "accuracy": np.float32(0.5)}))
    assert '"loss": null' in line and '"accuracy": 0.5' in line
    back = from_line(line)
    assert isinstance(back, EvaluationRecord)
    assert math.isnan(back.metrics["loss"]) and back.metrics["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not a line of JSON"),
        ("[]", "no record"),
        ('{"type": "tusk"}', "'tusk'"),
        ('{"type": "stop", "time": 1.0, "version": 2}', "without reason"),
        ('{"type": "stop", "time": "x", "version": 2, "reason": ""}', "'time'"),
        ('{"type": "stop", "time": 1.0, "version": 2, "reason": "", "more": 1}', "'more'"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line, problem):
    with pytest.raises(DataError, match=problem):
        from_line(line)


def test_each_line_is_on_disk_before_the_next(tmp_path: Path):
    path = tmp_path / "deep" / "records.jsonl"
    sink = JsonLines(path)
    for n, record in enumerate(ALL, 1):
        sink.write(record)
        assert [from_line(x) for x in path.read_bytes().splitlines()] == list(ALL[:n])
    sink.close()
    sink.close()
    assert sink.count == 5


def test_a_resumed_file_keeps_what_the_checkpoint_knew(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    sink = JsonLines(path)
    for record in ALL:
        sink.write(record)
    sink.close()
    with open(path, "ab") as file:
        file.write(b'{"type": "ta')
    sink = JsonLines(path, keep=2)
    sink.write(ALL[4])
    sink.close()
    assert [from_line(x) for x in path.read_bytes().splitlines()] == [*ALL[:2], ALL[4]]
    with pytest.raises(CheckpointError, match=r"holds 3 records .* had written 9"):
        JsonLines(path, keep=9)


def test_a_directory_that_cannot_be_made_names_the_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"records\.jsonl: cannot write"):
        JsonLines(tmp_path / "file" / "records.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file():
    sink = JsonLines("/dev/full")
    with pytest.raises(CheckpointError, match="/dev/full: cannot write records: No space left"):
        sink.write(TASK)
    sink.close()
    assert sink.count == 0


def test_a_guarded_sink_warns_once_and_never_raises(tmp_path: Path):
    warnings: list[str] = []
    sink = JsonLines(tmp_path / "x.jsonl")
    guarded = Guarded(sink, warnings.append)
    guarded.write(TASK)
    sink.close()  # from here on every write fails: the file is closed
    guarded.write(TASK)
    guarded.write(TASK)
    guarded.close()
    assert len(warnings) == 1
    assert "JsonLines failed" in warnings[0] and "closed file" in warnings[0]
    assert sink.count == 1


def test_a_guard_lets_an_interruption_through():
    class Interrupted(Memory):
        def write(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded(Interrupted(), print).write(TASK)


def test_scalars_add_up_between_commits():
    scalars = Scalars()
    assert scalars.take(TASK) == ()
    assert scalars.take(TaskRecord(8, "b", 3, 0, 1, 1, "failed", bytes_down=1000)) == ()
    (point,) = scalars.take(ALL[2])
    assert (point.version, point.time) == (4, 6.0)
    assert point.values == {
        "bytes/up": 250,
        "bytes/down": 2000,
        "clients/busy": 2,
        "clients/present": 5,
        "updates/in_commit": 1,
        "updates/aggregated": 1,
        "updates/failed": 1,
        "staleness/mean": 2.0,
    }
    (empty,) = scalars.take(CommitRecord(7.0, 5, 0, 2, 5))
    assert "staleness/mean" not in empty.values and empty.values["bytes/up"] == 250
    (seen,) = scalars.take(ALL[3])
    assert (seen.version, seen.time, seen.values) == (4, 6.0, {"accuracy": 0.5})


def test_tensorboard_reads_back_what_was_written(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    sink = named("tensorboard").of_run("run", tmp_path)
    for record in ALL:
        sink.write(record)
    sink.close()
    sink.close()
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    found = {
        (value.tag, event.step, event.wall_time): value.tensor.float_val[0]
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert found["accuracy", 4, 6.0] == 0.5
    assert found["staleness/mean", 4, 6.0] == 2.0
    assert found["bytes/down", 4, 6.0] == 1000


def test_tensorboard_needs_no_other_framework():
    pytest.importorskip("tensorboard")
    code = (
        "import sys, shoal.tracking.tensorboard\n"
        "sys.exit(bool({'torch', 'tensorflow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tracking_itself_needs_numpy_alone():
    code = (
        "import sys, shoal.tracking, shoal.tracking.report\n"
        "sys.exit(bool({'rich', 'torch', 'tensorboard'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", SINKS)
def test_a_missing_package_names_its_extra(name):
    if find_spec(name):
        assert hasattr(named(name), "of_run")
        return
    with pytest.raises(MissingExtra, match=rf"shoal\[{name}\]"):
        named(name)


def test_an_unknown_sink_is_answered_with_near_names():
    with pytest.raises(ConfigError, match=r"sinks: 'tensorbored' is no sink; .*tensorboard"):
        named("tensorbored")


def test_mlflow_keeps_the_points(tmp_path: Path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    sink = named("mlflow")(uri=uri, name="run")
    for record in ALL:
        sink.write(record)
    sink.close()
    client = mlflow.tracking.MlflowClient(uri)
    experiment = client.get_experiment_by_name("shoal")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["accuracy"] == 0.5 and run.info.status == "FINISHED"


def test_wandb_keeps_the_points_offline(tmp_path: Path):
    pytest.importorskip("wandb")
    sink = named("wandb")(mode="offline", directory=str(tmp_path))
    for record in ALL:
        sink.write(record)
    sink.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_the_sinks_of_an_experiment_are_guarded_and_closed(tmp_path: Path, capsys):
    pytest.importorskip("rich")
    pytest.importorskip("tensorboard")
    experiment = SimpleNamespace(
        title="quick", commits=4, metric="accuracy", target=0.4, sinks=("tensorboard",)
    )
    with opened(experiment, tmp_path) as sinks:
        assert all(isinstance(sink, Guarded) for sink in sinks) and len(sinks) == 2
        for record in ALL:
            for sink in sinks:
                sink.write(record)
    assert "quick" in capsys.readouterr().err
    assert list((tmp_path / "tensorboard").iterdir())
