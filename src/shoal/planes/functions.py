"""The plane of stateless functions over an object store, as lambda-FL and GradsSharding do it.

Jayaram et al. 2022 (AAAI-22 workshop on FL) fold a tree of functions over objects; Jayaram et al.
2022 (AdaFed, arXiv 2203.12163) start them by batches; GradsSharding (arXiv 2604.22072) gives each a
range of the coordinates. Here both: shards x tree. This process holds the model and the names of
objects, never an update.
"""

import secrets
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from shoal.aggregators import Routed
from shoal.core import NOTHING, Aggregator, Context, Transform
from shoal.errors import ConfigError, ProtocolError, ShoalError, positive
from shoal.messages import Payload
from shoal.planes.functions_limits import apart, check_memory, is_exact
from shoal.planes.functions_round import Entry, Round, Setting
from shoal.planes.functions_runner import Inline, Runner
from shoal.planes.functions_shards import ghost, ghost_accumulator, shards_of, without_values
from shoal.planes.handler import describe_rule
from shoal.planes.objects import DirectoryStore, ObjectError, ObjectStore, load, save
from shoal.planes.state import (
    Snapshot,
    advance,
    check_layout,
    check_sum,
    check_weight,
    delta_of,
    freeze,
    has_sets,
    remembers,
)
from shoal.plans.cut import Shard, join, layouts_of, like_of
from shoal.tensors import Tensors

T = TypeVar("T")


@dataclass(frozen=True)
class _Held:
    """An update in the store.

    Attributes:
        about: the payload without values.
        ghost: what `functions_shards.ghost` makes of it.
        keys: of its shards.
    """

    about: Payload
    ghost: Tensors
    keys: tuple[str, ...]


class Functions:
    """Folds with functions that read and write objects; memory here is the model's.

    Args:
        aggregator: the algorithm's, of `AGGREGATORS`; buffers are averaged plainly beside it.
        optimizer: turns the aggregate into the step that is added to the model.
        seed: of the optimizer's draws.
        store: where objects lie; None for a temporary directory.
        runner: what starts functions; None to run them in this process.
        shards: ranges of coordinates that are folded apart from each other.
        fan_in: inputs of one function, 2 or more; rules over whole sets take all in one.
        job: the beginning of all keys; a random part is added, so that no two planes meet.

    Raises:
        ConfigError: for a rule that functions do not know, or that needs whole updates, or
            remembers them, where shards > 1.
    """

    def __init__(
        self,
        aggregator: Aggregator[Any],
        optimizer: Transform[Any],
        seed: int = 0,
        *,
        store: ObjectStore | None = None,
        runner: Runner | None = None,
        shards: int = 1,
        fan_in: int = 8,
        job: str = "job",
    ) -> None:
        positive("shards", shards)
        if fan_in < 2:
            raise ConfigError("fan_in", f"a function merges at least 2 inputs, got {fan_in!r}")
        self.aggregator = aggregator if isinstance(aggregator, Routed) else Routed(aggregator)
        self.optimizer, self.seed, self.shards, self.fan_in = optimizer, seed, shards, fan_in
        describe_rule(self.aggregator)
        if shards > 1 and self.aggregator.scope == "update":
            raise ConfigError("shards", f"{self._name} compares whole updates: use shards=1")
        self._files = None if store is not None else tempfile.TemporaryDirectory("-shoal")
        self.store = store or DirectoryStore(self._files.name if self._files else "")
        self.runner = runner or Inline()
        self.job = f"{job}-{secrets.token_hex(4)}"
        self._pool = ThreadPoolExecutor(self.runner.concurrency)
        self._io = ThreadPoolExecutor(min(shards, 8))
        self._held: dict[int, _Held] = {}
        self._model: Tensors | None = None
        self._optimizer: Any = None
        self.version = self.folded = 0
        self._rounds = self._starts = 0
        self._ghost: Any = None  # the accumulator of ghosts: what it refuses is refused at once
        self._carry: Any = None
        self._carried = 0
        self._shapes: dict[int, Payload] = {}  # of what was folded, without values
        self._setting: Setting
        self._round: Round
        self._old: list[Round] = []
        self._garbage: list[str] = []

    def start(self, model: Tensors, version: int) -> None:
        """Take a model as the current one; server optimizer state survives a relay's restart.

        Raises:
            ConfigError: if a function cannot fold one shard under the runner's memory ceiling.
        """
        accumulator = self.aggregator.init(ghost(model, peaks=False))
        self._begin(model, accumulator)
        self.version, self.folded = version, 0
        self._carry, self._carried = None, 0
        if self._optimizer is None:
            self._optimizer = self.optimizer.init(model)

    @property
    def model(self) -> Tensors:
        """The current model."""
        if self._model is None:
            raise ProtocolError("the plane was not started with a model")
        return self._model

    def put(self, update: int, payload: Payload) -> None:
        """Hold an update: write its shards to the store.

        Raises:
            UpdateError: if it does not fit the model's layout.
            ProtocolError: if one of this id is held.
            ObjectError: if the store cannot take it.
        """
        if update in self._held:
            raise ProtocolError(f"update {update} is held already")
        check_layout(update, payload, self.model)
        value = payload.tensors

        def write(shard: Shard) -> str:
            key = f"{self.job}/{self._rounds:08d}/updates/{update:08d}/{shard.index:04d}"
            header = {"contributors": [update]}
            save(self.store, key, header, {"value": shard.cut(value)})
            return key

        keys = tuple(self._each(write, self._setting.shards))
        about = replace(payload, tensors=without_values(value))
        self._held[update] = _Held(about, ghost(value, is_exact(self._ghost)), keys)

    def fold(self, update: int, weight: float, client: str) -> None:
        """Fold a held update and let go of it; on an error it is held as before.

        Raises:
            ProtocolError: if it is not held, or the weight is negative, infinite or not a number.
            ConfigError: if a fixed-point sum could overflow.
            UpdateError: if the aggregator cannot take it.
        """
        check_weight(update, weight, client)
        held, kind = self._find(update), self._held[update].about.kind
        value = held.ghost if kind == "delta" else apart(held.ghost, self._peaks())
        self._ghost = self.aggregator.fold(self._ghost, value, weight, client)
        self._round.add(Entry(update, held.keys, kind, weight, client))
        self._shapes[update] = held.about
        del self._held[update]
        self.folded += 1

    def drop(self, update: int) -> None:
        """Let go of a held update.

        Raises:
            ProtocolError: if it is not held.
        """
        self._garbage += self._find(update).keys
        del self._held[update]
        self._clean()

    def commit(self) -> Tensors:
        """Finish, optimize and add to the model; with nothing folded, the same model.

        Raises:
            ProtocolError: if the weights of what a mean would divide by sum to zero.
            ConfigError: if a rule has too few updates, or functions too little memory.
            FunctionError: if a function fails however often it is started.
            ObjectError: if an update is gone from the store, or damaged there. In every case
                the plane is as it was before.
        """
        model = self.model
        if not self.folded:
            self.version += 1
            return model
        check_sum(self.aggregator, self._ghost, self.folded)
        self._check_memory(self.folded, self._ghost, model)
        try:
            results = self._round.finish(self._carry, self._carried)
        except ShoalError:
            self._renew(self._round.entries)
            raise
        parts = [part for part, _ in results]
        value = join(parts, self._setting.shards, like_of(model, parts))
        if self.optimizer != NOTHING:
            number = self.version + 1
            context = Context(version=number, seed=self.seed, number=number)
            value, self._optimizer = self.optimizer.apply(value, self._optimizer, context)
        self._model = advance(model, value)
        self.version += 1
        self._turn(results[0][1])
        return self._model

    def abandon(self) -> None:
        """Forget what was folded since the last commit."""
        if self.folded:
            self._turn(self.aggregator.clear(self._accumulated()) if self._setting.keep else None)

    def close(self) -> None:
        """End functions, and remove everything that this plane has put into the store."""
        if self._model is not None:
            self._round.cancel()
        self._pool.shutdown(cancel_futures=True)
        self._io.shutdown()
        self.runner.close()
        if self._files is None:
            self.store.delete(list(self.store.keys(f"{self.job}/")))
        else:
            self._files.cleanup()

    # State

    def snapshot(self) -> Snapshot:
        """The complete state, whatever the shards: updates are read back from the store."""
        held = {id: self._read(held.about, held.keys) for id, held in self._held.items()}
        accumulator = self._accumulated()
        freeze(accumulator)
        return Snapshot(self.model, self.version, self.folded, accumulator, self._optimizer, held)

    def example(self) -> Snapshot:
        """A snapshot whose parts have the right types, for decoding one."""
        model = self.model
        return Snapshot(model, 0, 0, self.aggregator.init(model), self.optimizer.init(model), {})

    def restore(self, snapshot: Snapshot) -> None:
        """Take a snapshot's state, of any plane."""
        for held in self._held.values():
            self._garbage += held.keys
        self._held = {}
        freeze(snapshot.accumulator)  # one snapshot may be restored twice
        layouts = layouts_of(snapshot.model)
        self._begin(snapshot.model, ghost_accumulator(snapshot.accumulator, layouts))
        self.version, self.folded = snapshot.version, snapshot.folded
        going_on = self.folded or self._setting.keep
        self._carry = snapshot.accumulator if going_on else None
        self._carried = snapshot.folded
        self._optimizer = snapshot.optimizer
        for update, payload in snapshot.held.items():
            self.put(update, payload)

    def _accumulated(self) -> Any:
        """What was folded since the last commit, folded here."""
        acc = self.aggregator.init(self.model) if self._carry is None else self._carry
        for entry in self._round.entries:
            payload = self._read(self._shapes[entry.update], entry.keys)
            value = delta_of(payload, self.model)
            acc = self.aggregator.fold(acc, value, entry.weight, entry.client)
        freeze(acc)
        return acc

    def _read(self, about: Payload, keys: tuple[str, ...]) -> Payload:
        parts = self._each(lambda key: load(self.store, key)[1]["value"], keys)
        return replace(about, tensors=join(parts, self._setting.shards, about.tensors))

    # Rounds

    def _begin(self, model: Tensors, accumulator: Any) -> None:
        """Make the first round for a model."""
        keep, sets = remembers(accumulator), has_sets(accumulator)
        if keep and self.shards > 1:
            raise ConfigError("shards", f"{self._name} remembers updates: use shards=1")
        self._check_memory(1, accumulator, model)
        shards = shards_of(layouts_of(model), self.shards)
        likes = tuple(f"{self.job}/like/{self._starts:04d}/{i:04d}" for i in range(len(shards)))
        setting = Setting(
            self.aggregator, self.store, self.runner, self._pool, shards,
            None if sets or keep else self.fan_in, keep, likes,
        )  # fmt: skip
        if self._model is not None:
            self._retire()
            self._garbage += self._setting.likes
        self._starts += 1
        self._model, self._ghost, self._setting = model, accumulator, setting
        self._renew(())
        self._each(self._round.save_like, shards)

    def _renew(self, entries: Iterable[Entry]) -> None:
        """Another round for the same updates, under names that no late function knows."""
        if self._rounds:
            self._round.cancel()
            self._old.append(self._round)
        self._rounds += 1
        self._round = Round(self._setting, f"{self.job}/{self._rounds:08d}/folds", self.model)
        self._shapes = {entry.update: self._shapes[entry.update] for entry in entries}
        for entry in entries:
            self._round.add(entry)

    def _turn(self, kept: Any) -> None:
        """What was folded is over: begin the next round, and remove what the last one needed."""
        freeze(kept)  # `_accumulated` goes on from it, and must leave it as it is
        self._carry, self._carried = kept, 0
        self._ghost = self.aggregator.clear(self._ghost)
        self.folded = 0
        self._retire()
        self._renew(())
        self._clean()

    def _retire(self) -> None:
        self._garbage += (key for entry in self._round.entries for key in entry.keys)

    def _clean(self) -> None:
        """Remove what nobody needs any more; what the store cannot remove now, it may later."""
        try:
            self.store.delete(self._garbage)
            self._garbage = []
            for old in [old for old in self._old if old.idle]:
                old.sweep()
                self._old.remove(old)
        except ObjectError:
            return

    def _find(self, update: int) -> _Held:
        if update not in self._held:
            raise ProtocolError(f"update {update} is not held: folded or dropped before?")
        return self._held[update]

    def _each(self, work: Callable[[Any], T], items: tuple[Any, ...]) -> list[T]:
        """Input and output for several shards at once."""
        return [work(items[0])] if len(items) == 1 else list(self._io.map(work, items))

    def _peaks(self) -> Tensors:
        return ghost(self.model, is_exact(self._ghost))

    @property
    def _name(self) -> str:
        return type(self.aggregator.default).__name__

    def _check_memory(self, updates: int, accumulator: Any, model: Tensors) -> None:
        ceiling = self.runner.memory
        if ceiling is not None:
            check_memory(ceiling, accumulator, layouts_of(model), self.shards, updates)
