"""Experiments run: in memory, or in a directory with records, checkpoints and a final model."""

import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shoal import checkpoint, inputlog, journal, snapshot, trial, wire
from shoal.errors import CheckpointError, ShoalError
from shoal.exchange import Effect, Input
from shoal.experiment import Built, Experiment, build, from_toml, to_toml
from shoal.messages import CommitRecord, EvaluationRecord, Record
from shoal.node import Node
from shoal.plain import Store
from shoal.tensors import equal
from shoal.tracking import JsonLines, Meta, Sink, read, versions, write_meta
from shoal.transports import Transport, run, steps

RECORDS, MODEL, CHECKPOINTS = "records.jsonl", "model.safetensors", "checkpoints"


def simulate(experiment: Experiment) -> Iterator[EvaluationRecord]:
    """Run an experiment in memory, giving each evaluation as it comes.

    Its fields: `time` in seconds, `version` (commits so far), `metrics`.
    """
    built = tried(experiment)
    try:
        for effects in steps(built.node, built.transport):
            for effect in effects:
                if isinstance(effect, EvaluationRecord):
                    yield effect
    finally:
        built.close()


def tried(experiment: Experiment) -> Built:
    """The experiment made real, and its first moment tried.

    Raises:
        ConfigError, DataError, ModelError: for what does not fit, or would end the run at once.
    """
    built = build(experiment)
    try:
        trial.check(built)
    except ShoalError:
        built.close()
        raise
    return built


@dataclass(frozen=True)
class Outcome:
    """How a run in a directory ended.

    Attributes:
        path: its directory.
        status: "done" or "interrupted".
        notes: what the user should know, e.g. that a damaged checkpoint was passed over.
    """

    path: Path
    status: str
    notes: tuple[str, ...] = ()


class Logged:
    """A transport whose inputs are written to a log."""

    def __init__(self, transport: Transport, log: inputlog.LogWriter) -> None:
        self._transport, self._log = transport, log

    def receive(self) -> tuple[Input, float]:
        """The next input, once it is in the log."""
        given, now = self._transport.receive()
        self._log.write(given, now)
        return given, now

    def perform(self, effect: Effect) -> None:
        """Pass an effect on."""
        self._transport.perform(effect)

    def close(self) -> None:
        """Close the log and the transport."""
        self._log.close()
        self._transport.close()


def execute(
    experiment: Experiment,
    directory: Path,
    sinks: Sequence[Sink] = (),
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], object] = lambda text: None,
) -> Outcome:
    """Run an experiment in a new directory.

    Args:
        directory: made; must not hold a run.
        sinks: get every record.
        stop: asked between inputs; True saves a checkpoint and ends the run as interrupted.
        say: is told, before the run starts, where and by which plan it will fold.

    Raises:
        CheckpointError: if the directory holds a run, or cannot be written.
    """
    if (directory / "run.json").exists():
        raise CheckpointError(f"{directory} holds a run: resume it, or choose another directory")
    built = tried(experiment)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make {directory}: {error.strerror}") from error
    meta = meta_of(experiment, built)
    for reason in (meta.plan, meta.upload):
        if reason:
            say(reason)
    return _drive(meta, built, directory, sinks, stop, 0, ())


def resume(
    directory: Path, sinks: Sequence[Sink] = (), stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Go on with a run from its last good checkpoint, to the bits of an undisturbed one.

    Raises:
        CheckpointError: if there is no run or no usable checkpoint.
    """
    experiment = read_experiment(directory)
    loaded = checkpoint.load(directory / CHECKPOINTS)
    built = build(experiment)
    snapshot.restore(built.node, loaded.state["node"], loaded.store)
    built.transport.restore(loaded.state["transport"], loaded.store, built.node)
    for name, size in loaded.state["logs"].items():
        _truncate(directory / name, size)
    kept = loaded.state["records"]
    before = read(directory)
    for record in before.records[:kept]:
        for sink in sinks:
            sink.write(record)
    meta = replace(before.meta, status="running")
    return _drive(meta, built, directory, sinks, stop, kept, loaded.notes)


def replay(directory: Path) -> Node:
    """Run a node on a run's input log again; the node at its end.

    Raises:
        CheckpointError: if there is no log, or the result is not the recorded one.
    """
    experiment = read_experiment(directory)
    served = journal.segments(directory)
    reader = journal.JournalReader(directory) if served else inputlog.LogReader(directory)
    node = build(experiment).node
    run(node, reader)
    final = directory / MODEL
    if final.exists():
        model, _ = wire.load(final.read_bytes())
        if not equal(model, node.model):
            raise CheckpointError(f"replay of {directory} gave another model than {final}")
    return node


def read_experiment(directory: Path) -> Experiment:
    """The experiment of a run directory.

    Raises:
        CheckpointError: if it holds no run.
    """
    try:
        meta = json.loads((directory / "run.json").read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{directory} holds no run: there is no run.json") from error
    except ValueError as error:
        raise CheckpointError(f"{directory / 'run.json'} is damaged: {error}") from error
    return from_toml(meta["experiment"], str(directory / "run.json"))


def _drive(
    meta: Meta,
    built: Built,
    directory: Path,
    sinks: Sequence[Sink],
    stop: Callable[[], bool],
    kept: int,
    notes: tuple[str, ...],
) -> Outcome:
    experiment = built.experiment
    write_meta(directory, meta)
    began = time.monotonic()
    lines = JsonLines(directory / RECORDS, keep=kept)
    every = (lines, *sinks)
    transport: Any = built.transport
    if experiment.log:
        transport = Logged(transport, inputlog.LogWriter(directory))
    status = "failed"
    run = steps(built.node, transport)
    try:
        for effects in built.profile.over(run, directory) if built.profile else run:
            committed = _record(effects, every)
            due = experiment.checkpoint_every
            if stop():
                status = "interrupted"
                _save(built, directory, lines.count)
                break
            if committed and due and built.node.version % due == 0:
                _save(built, directory, lines.count)
        else:
            status = "done"
            _write_model(directory / MODEL, built)
    finally:
        transport.close()
        built.node.plane.close()
        for sink in every:
            sink.close()
        seconds = meta.wall_seconds + time.monotonic() - began
        write_meta(directory, replace(meta, wall_seconds=seconds, status=status))
    return Outcome(directory, status, notes)


def _record(effects: list[Effect], sinks: Sequence[Sink]) -> bool:
    """Hand records on; whether there was a commit among them."""
    committed = False
    for effect in effects:
        if isinstance(effect, Record):
            committed = committed or isinstance(effect, CommitRecord)
            for sink in sinks:
                sink.write(effect)
    return committed


def _save(built: Built, directory: Path, records: int) -> None:
    store: Store = {}
    state = {
        "node": snapshot.save(built.node, store, "node"),
        "transport": built.transport.snapshot(store, "transport"),
        "records": records,
        "logs": {
            name: (directory / name).stat().st_size
            for name in (inputlog.LINES, inputlog.TENSORS)
            if (directory / name).exists()
        },
    }
    newest = checkpoint.found(directory / CHECKPOINTS)[:1]
    number = int(newest[0].name.removeprefix(checkpoint.PREFIX)) + 1 if newest else 1
    checkpoint.save(directory / CHECKPOINTS, number, state, store)


def _write_model(path: Path, built: Built) -> None:
    try:
        path.write_bytes(wire.dump(built.node.model, {"version": str(built.node.version)}))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}. Free space") from error


def _truncate(path: Path, size: int) -> None:
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(size)


def meta_of(experiment: Experiment, built: Built) -> Meta:
    """What is known about a run as it begins."""
    return Meta(
        name=experiment.title,
        algorithm=experiment.algorithm.name or type(experiment.algorithm.coordinator).__name__,
        experiment=to_toml(experiment),
        seed=experiment.seed,
        target_metric=experiment.metric,
        target_value=experiment.target,
        clients=len(built.federation.clients),
        versions=versions(),
        plan=str(built.decision or ""),
        upload=built.upload,
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


__all__ = ["Outcome", "execute", "read_experiment", "replay", "resume", "simulate"]
