"""A served run's complete state beside its clients: node, journal, records, what is out.

It is a function of its inputs. `Served.handle` takes one and says what is to be done; nothing of
that may leave the process before `sync`. A process that died is rebuilt by `recover` from the last
checkpoint and the journal since then, to the same bits.
"""

import heapq
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shoal import checkpoint, snapshot, wire
from shoal import exchange as ex
from shoal import journal as log
from shoal import messages as m
from shoal.core import NOTHING
from shoal.errors import CheckpointError, ConfigError
from shoal.experiment import Built, Experiment, build, to_toml
from shoal.net.hosted import Outs, Work
from shoal.net.protocol import Raw, digest
from shoal.net.spares import Spares
from shoal.net.volumes import Shelf, Volume
from shoal.plain import Store, decode, encode
from shoal.runner import CHECKPOINTS, MODEL, RECORDS, meta_of, read_experiment
from shoal.tensors import Tensors
from shoal.tracking import JsonLines, Sink, read, write_meta

JOURNAL_BYTES = 256 << 20  # after so many a checkpoint makes the journal short again
_KEPT = 2  # checkpoints


class Served:
    """One run behind a server, new or rebuilt from its directory.

    Args:
        experiment: what is run.
        directory: of the run; must be empty or hold the same experiment.
        sinks: get every record, after those of a rebuilt run.

    Attributes:
        work: tasks that are out, by id.
        accepted: of each client the last task that it answered.
        assessing: models whose metrics have not come yet.
        spares: files of payloads that are no longer needed.

    Raises:
        ConfigError: if the directory holds another experiment, or it cannot be served.
        CheckpointError: if the directory cannot be read or written.
    """

    def __init__(self, experiment: Experiment, directory: Path, sinks: Sequence[Sink] = ()) -> None:
        if experiment.relays is not None:
            raise ConfigError("relays", "are simulated only: serve an experiment without them")
        before = _before(experiment, directory)
        self.directory, self.experiment = directory, experiment
        self.built: Built = build(replace(experiment, transport="simulator"))
        self.node, self.shelf = self.built.node, Shelf()
        self.work: dict[int, Work] = {}
        self.accepted: dict[str, int] = {}
        self.assessing: list[tuple[int, Tensors]] = []
        self.timers: list[tuple[float, str]] = []
        self.notes: tuple[str, ...] = ()
        self._saved_version = 0
        self.meta = meta_of(experiment, self.built)
        if before:
            kept = read(directory).meta
            self.meta = replace(kept, status="running")
        else:
            _make(directory / log.PAYLOADS)
        write_meta(directory, self.meta)
        self._segment, kept_records = self._restore()
        self._lines = JsonLines(directory / RECORDS, keep=kept_records)
        self.sinks = (self._lines, *sinks)
        self._segment_bytes = max(JOURNAL_BYTES, 8 * self.node.model.nbytes)
        self.spares = Spares(directory / log.PAYLOADS, self._segment_bytes)
        self._replayed = self._replay()
        self._journal = log.Journal(directory, self._segment, self.spares.settle)

    @property
    def id(self) -> str:
        """Of this very run: one that is begun anew under the same name has another."""
        return digest(f"{self.meta.started}\n{self.meta.experiment}".encode(), "sha256")[7:39]

    @property
    def waiting(self) -> Outs:
        """What a rebuilt run has to tell its clients."""
        outs = Outs(work=list(self.work.values()), revoked=list(self.node.cancelled.values()))
        outs.present = [(client, True) for client in self.node.clients]
        return outs

    @property
    def told(self) -> str:
        """The experiment as clients get it: with the upload that was picked for it, as TOML."""
        if self.built.algorithm.upload == self.experiment.algorithm.upload:
            return self.meta.experiment
        algorithm = replace(self.experiment.algorithm, upload=self.built.algorithm.upload)
        return to_toml(replace(self.experiment, algorithm=algorithm, upload=NOTHING))

    @property
    def next_timer(self) -> float | None:
        """When the next timer is due, in seconds on the node's clock."""
        while self.timers and self.node.timers.get(self.timers[0][1]) != self.timers[0][0]:
            heapq.heappop(self.timers)
        return self.timers[0][0] if self.timers else None

    def handle(
        self, given: ex.Input, now: float, outs: Outs, raw: Raw = b"", file: str = ""
    ) -> None:
        """Take an input into the node and the journal; adds to `outs` what it brings about."""
        effects = self.node.handle(given, now)
        self._journal.append(given, now, raw, file)
        self._note(given, effects, outs)
        if isinstance(given, ex.Push | ex.Fail):
            outs.ended.append((given.client, given.task))
        self._perform(effects, outs)

    def evaluate(self, model: Tensors) -> m.Metrics:
        """The metrics of a model on the experiment's test set."""
        return self.built.algorithm.trainer.evaluate(model, self.built.federation.test)

    def sync(self) -> None:
        """Bring to disk what was handled."""
        self._journal.sync()

    def save_if_due(self) -> None:
        """Make a checkpoint if the experiment says so, or the journal has become long."""
        due, version = self.experiment.checkpoint_every, self.node.version
        planned = due and version != self._saved_version and version % due == 0
        if planned or self._journal.bytes > self._segment_bytes:
            self.save()

    def save(self) -> None:
        """Make a checkpoint, and begin a new segment of the journal behind it."""
        self._journal.sync()
        store: Store = {}
        models: list[Tensors] = []
        out = [(task_id, *_places(models, w.volume)) for task_id, w in self.work.items()]
        assessing = [(version, _place(models, model)) for version, model in self.assessing]
        state = {
            "node": snapshot.save(self.node, store, "node"),
            "records": self._lines.count,
            "accepted": dict(self.accepted),
            "models": encode(models, store, "models"),
            "work": out,
            "assessing": assessing,
        }
        number = self._segment + 1
        checkpoint.save(self.directory / CHECKPOINTS, number, state, store, keep=_KEPT)
        oldest = None if self.experiment.log else number - _KEPT + 1
        self._journal.rotate(number, oldest, self.spares.give)
        self._segment, self._saved_version = number, self.node.version

    def finish(self, status: str, seconds: float) -> None:
        """Write how the run ended, and its model if it is done; close what is open."""
        try:
            self._journal.close()
            if status == "done":
                self._write_model()
            total = self.meta.wall_seconds + seconds
            write_meta(self.directory, replace(self.meta, status=status, wall_seconds=total))
        finally:
            self.spares.close()
            self.built.close()
            for sink in self.sinks:
                sink.close()

    def _write_model(self) -> None:
        path = self.directory / MODEL
        try:
            with path.open("wb") as file:
                for part in wire.parts(self.node.model, {"version": str(self.node.version)}):
                    file.write(part)
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror}. Free space") from error

    def _restore(self) -> tuple[int, int]:
        """Take the last good checkpoint; its segment of the journal, and its records."""
        if not checkpoint.found(self.directory / CHECKPOINTS):
            return 0, 0
        loaded = checkpoint.load(self.directory / CHECKPOINTS)
        state, store = loaded.state, loaded.store
        snapshot.restore(self.node, state["node"], store)
        models = decode(tuple[Tensors, ...], state["models"], store, path="models")
        tasks = self.node.tasks | self.node.cancelled
        for task_id, at, number, places in state["work"]:
            changes = None if places is None else tuple(models[place] for place in places)
            given = ex.Assign(tasks[task_id], models[at], 0, number, changes)
            self.work[task_id] = Work(tasks[task_id], self.shelf.get(given))
        self.assessing = [(version, models[at]) for version, at in state["assessing"]]
        self.accepted = dict(state["accepted"])
        for name, at in self.node.timers.items():
            heapq.heappush(self.timers, (at, name))
        self.notes, self._saved_version = loaded.notes, self.node.version
        number = int(loaded.path.name.removeprefix(checkpoint.PREFIX))
        records: int = state["records"]
        return number, records

    def _replay(self) -> int:
        """Handle what the journal holds since the checkpoint; how many inputs that were."""
        log.mend(self.directory)
        first, count = self._segment, 0
        newer = [number for number, _ in log.segments(self.directory) if number >= first]
        if not newer:
            return 0
        for entry in log.entries(self.directory, first):
            outs = Outs()
            effects = self.node.handle(entry.given, entry.now)
            self._note(entry.given, effects, outs)
            self._perform(effects, outs)
            count += 1
        self._segment = newer[-1]
        return count

    def _note(self, given: ex.Input, effects: Sequence[ex.Effect], outs: Outs) -> None:
        match given:
            case ex.Join(client):
                self._again(client, outs)
            case ex.Push(task, client):
                self.work.pop(task, None)
                if not any(_thrown_away(task, effect) for effect in effects):
                    self.accepted[client] = task
            case ex.Fail(task):
                self.work.pop(task, None)
            case ex.Assessed(version):
                at = next(i for i, (v, _) in enumerate(self.assessing) if v == version)
                del self.assessing[at]
            case _:
                pass

    def _again(self, client: str, outs: Outs) -> None:
        """Whoever joins again holds no model, so the one of its task goes out whole."""
        for task_id, work in self.work.items():
            volume = work.volume
            if work.task.client == client and volume.changes is not None:
                given = ex.Assign(work.task, volume.model, volume.room, volume.number)
                self.work[task_id] = Work(work.task, self.shelf.get(given))
                outs.work.append(self.work[task_id])

    def _perform(self, effects: Sequence[ex.Effect], outs: Outs) -> None:
        for effect in effects:
            match effect:
                case ex.Assign(task):
                    work = Work(task, self.shelf.get(effect))
                    self.work[task.id] = work
                    outs.work.append(work)
                case ex.Revoke(task):
                    outs.revoked.append(task)
                case ex.Wake(timer, at):
                    heapq.heappush(self.timers, (at, timer))
                case ex.Assess(version, model):
                    self.assessing.append((version, model))
                case ex.Deliver():
                    pass  # only relays answer a parent, and these are not served
                case _:
                    self._record(effect, outs)

    def _record(self, record: m.Record, outs: Outs) -> None:
        for sink in self.sinks:
            sink.write(record)
        outs.records.append(record)
        if isinstance(record, m.TaskRecord):
            self.work.pop(record.task, None)
            outs.ended.append((record.client, record.task))
        elif isinstance(record, m.ClientRecord):
            outs.present.append((record.client, record.change == "joined"))
        elif isinstance(record, m.StopRecord):
            outs.over = record.reason


def _thrown_away(task: int, effect: ex.Effect) -> bool:
    """Whether an effect says that a payload was not taken as the answer of its task."""
    if not isinstance(effect, m.TaskRecord) or effect.task != task:
        return False
    return effect.outcome in ("rejected", "cancelled")


def _place(models: list[Tensors], model: Tensors) -> int:
    """Where a model is in a list; it is added if it is not there yet."""
    for at, known in enumerate(models):
        if known is model:
            return at
    models.append(model)
    return len(models) - 1


def _places(models: list[Tensors], volume: Volume) -> tuple[int, int, list[int] | None]:
    """Where a volume's model and changes are in a list, and its number."""
    changes = volume.changes
    places = None if changes is None else [_place(models, change) for change in changes]
    return _place(models, volume.model), volume.number, places


def _before(experiment: Experiment, directory: Path) -> bool:
    """Whether a directory holds this very experiment already."""
    if not (directory / "run.json").exists():
        return False
    if to_toml(read_experiment(directory)) != to_toml(experiment):
        problem = f"{directory} holds another experiment: choose another name or store"
        raise ConfigError("name", problem)
    if not (directory / log.PAYLOADS).is_dir():
        raise ConfigError("name", f"{directory} holds a run that was not served: choose another")
    return True


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make {directory}: {error.strerror}") from error
