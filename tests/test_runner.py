"""Runs in directories: records, interruption at any moment, resume, replay, damage."""

import gc
import weakref
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import experiments
import shoal
from shoal import wire
from shoal.errors import CheckpointError, ConfigError, DataError
from shoal.experiment import Experiment, build
from shoal.runner import execute, read_experiment, replay, resume
from shoal.tensors import Tensors, equal
from shoal.tracking import Memory, read
from shoal.transports import run


def final(directory: Path) -> Tensors:
    return wire.load((directory / "model.safetensors").read_bytes())[0]


def short(experiment: Experiment) -> Experiment:
    return replace(experiment, commits=min(experiment.commits or 8, 8), evaluate_every=2)


def test_simulate_gives_evaluations_as_they_come() -> None:
    points = list(shoal.simulate(experiments.softmax()))
    assert [p.version for p in points] == [0, 5, 10, 15, 20, 25, 30]
    assert points[-1].metrics["accuracy"] > 0.85
    assert points[0].time == 0.0 < points[1].time


@pytest.mark.parametrize("experiment", [experiments.softmax, experiments.tree])
def test_nothing_of_a_run_stays_until_garbage_is_collected(experiment: Any) -> None:
    # Arrays do not count for the collector: a sweep would hold the data of many runs.
    built = build(short(experiment()))
    gc.collect()
    gc.disable()
    try:
        run(built.node, built.transport)
        held = [weakref.ref(it) for it in (built.node, built.transport)]
        built.close()
        del built
        assert [it() for it in held] == [None, None]
    finally:
        gc.enable()


def test_a_run_leaves_records_model_and_its_experiment(tmp_path: Path) -> None:
    sink = Memory()
    outcome = execute(experiments.softmax(), tmp_path / "run", [sink])
    assert outcome.status == "done"
    run = read(tmp_path / "run")
    assert list(run.records) == sink.records
    assert run.meta.status == "done"
    assert run.meta.clients == 20
    assert read_experiment(tmp_path / "run") == experiments.softmax()
    assert run.commits[-1].version == 30


def test_a_directory_is_never_overwritten(tmp_path: Path) -> None:
    execute(short(experiments.softmax()), tmp_path)
    with pytest.raises(CheckpointError, match="holds a run: resume it"):
        execute(short(experiments.softmax()), tmp_path)


@pytest.mark.parametrize("made", [experiments.softmax, experiments.tree])
@pytest.mark.parametrize("after", [1, 7, 20])
def test_interrupted_and_resumed_is_as_if_nothing_happened(
    tmp_path: Path, made: object, after: int
) -> None:
    experiment = short(made())  # type: ignore[operator]
    execute(experiment, tmp_path / "whole")
    ticks = count()
    outcome = execute(experiment, tmp_path / "cut", stop=lambda: next(ticks) >= after)
    assert outcome.status == "interrupted"
    assert read(tmp_path / "cut").meta.status == "interrupted"
    assert resume(tmp_path / "cut").status == "done"
    assert equal(final(tmp_path / "cut"), final(tmp_path / "whole"))
    assert read(tmp_path / "cut").records == read(tmp_path / "whole").records


def test_a_run_killed_between_checkpoints_goes_on_from_the_last(tmp_path: Path) -> None:
    experiment = replace(short(experiments.softmax()), checkpoint_every=2)
    execute(experiment, tmp_path / "whole")
    ticks = count()

    def die() -> bool:
        if next(ticks) > 55:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        execute(experiment, tmp_path / "cut", stop=die)
    newest = sorted((tmp_path / "cut" / "checkpoints").iterdir())[-1]
    (newest / "tensors.bin").write_bytes(b"half")
    outcome = resume(tmp_path / "cut")
    assert f"checkpoint {newest.name} is damaged" in outcome.notes[0]
    assert equal(final(tmp_path / "cut"), final(tmp_path / "whole"))
    assert read(tmp_path / "cut").records == read(tmp_path / "whole").records


@pytest.mark.parametrize("made", [experiments.softmax, experiments.tree])
def test_a_logged_run_replays_to_the_same_bits(tmp_path: Path, made: object) -> None:
    experiment = replace(short(made()), log=True)  # type: ignore[operator]
    execute(experiment, tmp_path)
    assert equal(replay(tmp_path).model, final(tmp_path))


def test_a_logged_run_is_replayed_after_an_interruption(tmp_path: Path) -> None:
    experiment = replace(short(experiments.softmax()), log=True)
    ticks = count()
    execute(experiment, tmp_path, stop=lambda: next(ticks) >= 30)
    resume(tmp_path)
    assert equal(replay(tmp_path).model, final(tmp_path))


def test_a_real_time_run_is_logged_and_replayed(tmp_path: Path) -> None:
    experiment = replace(short(experiments.softmax()), transport="threads", log=True)
    execute(experiment, tmp_path)
    assert equal(replay(tmp_path).model, final(tmp_path))


def test_a_real_time_run_is_resumed(tmp_path: Path) -> None:
    experiment = replace(experiments.softmax(), transport="threads")
    ticks = count()
    execute(experiment, tmp_path, stop=lambda: next(ticks) >= 40)
    before = len(read(tmp_path).commits)
    assert resume(tmp_path).status == "done"
    run = read(tmp_path)
    assert [c.version for c in run.commits] == list(range(1, 31))
    assert 0 < before < 30
    assert run.evaluations[-1].metrics["accuracy"] > 0.8


def test_client_states_that_spill_give_the_same_bits(tmp_path: Path) -> None:
    experiment = short(experiments.softmax())
    execute(experiment, tmp_path / "memory")
    spilled = replace(experiment, resident_clients=2)
    ticks = count()
    execute(spilled, tmp_path / "spilled", stop=lambda: next(ticks) >= 25)
    resume(tmp_path / "spilled")
    assert equal(final(tmp_path / "spilled"), final(tmp_path / "memory"))


@pytest.mark.parametrize("made", [experiments.softmax, experiments.tree])
def test_the_process_plane_gives_the_same_bits(tmp_path: Path, made: object) -> None:
    experiment = short(made())  # type: ignore[operator]
    execute(experiment, tmp_path / "local")
    apart = replace(experiment, plane="processes")
    ticks = count()
    execute(apart, tmp_path / "processes", stop=lambda: next(ticks) >= 15)
    resume(tmp_path / "processes")
    if made is experiments.softmax:  # its mean is exact, the relays' is not
        assert equal(final(tmp_path / "processes"), final(tmp_path / "local"))
    a, b = (final(tmp_path / name).dense for name in ("processes", "local"))
    assert abs(a - b).max() < 1e-5


def test_a_changed_log_is_noticed(tmp_path: Path) -> None:
    execute(replace(short(experiments.softmax()), log=True), tmp_path)
    data = bytearray((tmp_path / "inputs.bin").read_bytes())
    data[-40] ^= 0x40
    (tmp_path / "inputs.bin").write_bytes(data)
    with pytest.raises(CheckpointError):
        replay(tmp_path)


def test_replay_without_a_log_says_what_to_do(tmp_path: Path) -> None:
    execute(short(experiments.softmax()), tmp_path)
    with pytest.raises(CheckpointError, match="log=true"):
        replay(tmp_path)


def test_resume_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no run\.json"):
        resume(tmp_path)


def test_more_clients_than_samples_is_named() -> None:
    experiment = experiments.softmax()
    many = replace(experiment, data=replace(experiment.data, clients=5000))  # type: ignore[type-var]
    with pytest.raises((ConfigError, DataError), match="5000"):
        list(shoal.simulate(many))
