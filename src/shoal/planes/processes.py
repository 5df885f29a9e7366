"""The plane whose folds run in worker processes of the same machine, over shared memory.

An update is written once into shared memory and stays there; only its key travels. Workers are
stateless and take any work: they fold updates, merge partial results and finish the aggregate, for
a range of coordinates where the rule allows that and for whole updates where not. Everybody waits
for events; nobody polls. What a killed worker had in hand is done again by another, from inputs
that are kept until their result is there. As in LIFL (Qi et al. 2024, arXiv 2405.10968).
"""

import pickle
import time
import weakref
from dataclasses import replace
from typing import Any

import numpy as np

from shoal.aggregators import Routed
from shoal.core import Aggregator, Transform
from shoal.errors import ConfigError, ProtocolError, fraction, positive
from shoal.messages import Payload
from shoal.planes.local import Local
from shoal.planes.processes_ledger import Ledger
from shoal.planes.processes_passes import aggregate
from shoal.planes.processes_pool import Pool, warm
from shoal.planes.processes_round import Plan, Round, copied
from shoal.planes.processes_shards import READY
from shoal.planes.shared import Store, Stored, find, room
from shoal.planes.state import (
    Snapshot,
    check_forgets,
    check_layout,
    check_weight,
    delta_of,
    freeze,
)
from shoal.tensors import EMPTY, Tensors

MOMENT = 0.05  # seconds; updates that come closer together are not worth another process
NO_VALUES = Tensors(EMPTY, np.empty(0, EMPTY.dtype))


class Processes:
    """Holds and folds updates in shared memory.

    Rules whose accumulators have one size (`Mean`, `Sum`) are folded as updates come; those that
    need every update (`Median`, `Krum`) when all are there. Where updates wait for memory, `put`
    waits.

    Args:
        aggregator, optimizer, seed: as for `Local`.
        workers: least and most of a pool of its own; None for the warm one of this thread.
        budget: bytes of shared memory.
        shards: ranges of coordinates that are folded apart from each other; None for one for each
            worker, where the model is large enough.
        lanes: folds of one range of coordinates at a time, merged at the end. With one, floats are
            added in the order of `Local`, to the same bits; more keep more workers busy where
            models are too small to be cut.
        fan_in: results of a merge, 2 or more; None for all lanes in one.
        smoothing: weight of the newest load in the average that the number of workers follows.

    Raises:
        ConfigError: for bad numbers, or an aggregator that cannot travel; from `start` for one that
            remembers updates over commits, or a budget without room for the accumulators and one
            update; from `put` if updates fill it.
        SharedMemoryError: if the system has no shared memory.
        WorkerError: from any method, if workers cannot be started or die again and again.
    """

    def __init__(
        self,
        aggregator: Aggregator[Any],
        optimizer: Transform[Any],
        seed: int = 0,
        *,
        workers: tuple[int, int] | None = None,
        budget: int = 4 << 30,
        shards: int | None = None,
        lanes: int = 1,
        fan_in: int | None = None,
        smoothing: float = 0.7,
    ) -> None:
        positive("budget", budget)
        positive("lanes", lanes)
        if shards is not None:
            positive("shards", shards)
        if fan_in is not None and fan_in < 2:
            raise ConfigError("fan_in", f"a merge has at least 2 inputs, got {fan_in!r}")
        fraction("smoothing", smoothing)
        self.aggregator = aggregator if isinstance(aggregator, Routed) else Routed(aggregator)
        _check_travels(self.aggregator)
        self.optimizer, self.seed, self.budget, self.smoothing = optimizer, seed, budget, smoothing
        self.pool = warm() if workers is None else Pool(*workers)
        self.store = Store(int(budget))
        self.shards, self.lanes, self.fan_in = shards, int(lanes), fan_in
        self.load = 0.0  # workers that this plane keeps busy, on average
        self._server = Local(READY, optimizer, seed)
        self._held: dict[int, tuple[Payload, Stored]] = {}
        self._round: Round | None = None
        self._base: Any = None  # what a snapshot had folded
        self._folded = self._removed = 0
        self._first = 0.0
        self._end = weakref.finalize(
            self, _close, self.store, None if workers is None else self.pool
        )

    def start(self, model: Tensors, version: int) -> None:
        """Take a model as the current one; server optimizer state survives a relay's restart.

        Raises:
            ConfigError: if the budget has no room for the accumulators and one update.
        """
        self._prepare(model)
        self._server.start(model, version)
        self.pool.resize(self.pool.target)  # they start while clients train

    @property
    def model(self) -> Tensors:
        """The current model."""
        return self._server.model

    @property
    def version(self) -> int:
        """Commits so far."""
        return self._server.version

    @property
    def folded(self) -> int:
        """Updates folded since the last commit, or on their way."""
        return self._folded

    def put(self, update: int, payload: Payload) -> None:
        """Hold an update: it is written into shared memory, once.

        Raises:
            UpdateError: if it does not fit the model's layout.
            ProtocolError: if one of this id is held.
            ConfigError: if the budget is full of updates that wait for a commit.
        """
        if update in self._held:
            raise ProtocolError(f"update {update} is held already")
        check_layout(update, payload, self.model)
        self._make_room(room(payload.tensors))
        stored = self.store.write(_alike(payload.tensors, self.model))
        self._held[update] = replace(payload, tensors=NO_VALUES), stored

    def fold(self, update: int, weight: float, client: str) -> None:
        """Have a held update folded; on an error it is held as before.

        Raises:
            ProtocolError: if it is not held, or the weight is negative, infinite or not a number.
            ConfigError: if a fixed-point sum could overflow.
            UpdateError: if the aggregator cannot take it.
            ShoalError: if workers could not fold those before: until they are given up.
        """
        check_weight(update, weight, client)
        payload, stored = self._find(update)
        now, ledger = self._now(), self._ledger
        value = find(stored.content, self.store.memory(stored.ref))
        if ledger.exact:
            value = delta_of(replace(payload, tensors=value), self.model)
        now.hear(block=False)
        now.check(update)
        ledger.fold(value, weight, client)
        first = self._first if self._folded else time.monotonic()
        now.add(update, stored, payload.kind, weight, client)
        del self._held[update]
        self._folded, self._first = self._folded + 1, first

    def drop(self, update: int) -> None:
        """Let go of a held update.

        Raises:
            ProtocolError: if it is not held.
        """
        self.store.release(self._find(update)[1].ref)
        del self._held[update]

    def commit(self) -> Tensors:
        """Finish, optimize and add to the model; with nothing folded, the same model.

        Raises:
            ProtocolError: if the weights of what a mean would divide by sum to zero.
            ConfigError: if a rule has too few updates. Either way the plane is as it was before.
        """
        if not self._folded:
            return self._server.commit()
        now, span = self._now(), time.monotonic() - self._first
        self._ledger.check(self._folded)
        if self._base is None:
            value = aggregate(now)
        else:
            value = self.aggregator.finish(now.gathered(self._base))[0]
        self._server.put(-1, Payload(value, 1))
        self._server.fold(-1, 1.0, "")
        model = self._server.commit()
        self._scale(now.seconds / max(MOMENT, span))
        self._forget()
        return model

    def abandon(self) -> None:
        """Forget what was folded since the last commit."""
        self._forget()

    def close(self) -> None:
        """Let go of shared memory, and of the workers if they are this plane's own."""
        self._forget()
        self._end()
        self.pool.tidy()

    def snapshot(self) -> Snapshot:
        """The complete state, copied out of shared memory: it fits every plane."""
        state = self._server.snapshot()
        held = {
            update: replace(payload, tensors=copied(stored, self.store))
            for update, (payload, stored) in self._held.items()
        }
        accumulator = self._now().gathered(self._base)
        freeze(accumulator)
        return replace(state, folded=self._folded, accumulator=accumulator, held=held)

    def restore(self, snapshot: Snapshot) -> None:
        """Take a snapshot's state, of any plane.

        Raises:
            ConfigError: if the budget has no room for it.
        """
        self._prepare(snapshot.model)
        for update in tuple(self._held):
            self.drop(update)
        nothing = READY.init(snapshot.model)
        self._server.restore(replace(snapshot, accumulator=nothing, folded=0, held={}))
        for update, payload in snapshot.held.items():
            self.put(update, payload)
        if snapshot.folded:
            self._base, self._folded = snapshot.accumulator, snapshot.folded
            self._ledger = Ledger(self.aggregator, snapshot.model, self._base)
            self._first = time.monotonic()

    def _prepare(self, model: Tensors) -> None:
        """Forget what was folded, and know how updates of a model of this layout are."""
        check_forgets(self.aggregator, model)
        self._forget()
        self._plan = Plan.of(
            self.aggregator, model, self.pool.high, self.lanes, self.shards, self.fan_in
        )
        needed = Round(self._plan, model, self.store, self.pool).reserve
        if not self.store.fits(room(model), needed):
            raise ConfigError(
                "budget",
                f"{self.budget} bytes of shared memory have no room for the {needed} that "
                f"{type(self.aggregator.default).__name__} needs beside updates, and one update "
                f"of {room(model)}: raise it",
            )

    def _now(self) -> Round:
        if self._round is None:
            self._round = Round(self._plan, self.model, self.store, self.pool)
            if self._base is None:
                self._ledger = Ledger(self.aggregator, self.model)
        return self._round

    def _forget(self) -> None:
        if self._round is not None:
            self._round.give_up()
        self._round = self._base = None
        self._folded = 0

    def _find(self, update: int) -> tuple[Payload, Stored]:
        if update not in self._held:
            raise ProtocolError(f"update {update} is not held: folded or dropped before?")
        return self._held[update]

    def _make_room(self, nbytes: int) -> None:
        """Wait until so many bytes are free beside what folding needs."""
        now = self._now()
        while not self.store.fits(nbytes, now.reserve):
            if not now.active:
                raise ConfigError(
                    "budget",
                    f"{self.store.taken} of {self.budget} bytes of shared memory are taken by "
                    f"{len(self._held)} held and {self._folded} folded updates, and {nbytes} more "
                    f"leave less than the {now.reserve} that folding needs: raise it, or commit "
                    "more often",
                )
            now.hear(block=True)

    def _scale(self, load: float) -> None:
        """Have as many workers as the next updates will need, before they come."""
        self.load = self.smoothing * load + (1 - self.smoothing) * self.load
        self.pool.expect(self, self.load)
        if self.store.removed > self._removed:
            self._removed = self.store.removed
            self.pool.tidy()


def _alike(value: Tensors, model: Tensors) -> Tensors:
    """The same with the model's own layouts, which go through a pipe once however many use them."""
    groups = {
        prefix: Tensors(model.groups[prefix].layout, group.flat)
        if group.layout == model.groups[prefix].layout
        else group
        for prefix, group in value.groups.items()
    }
    layout = model.layout if value.layout == model.layout else value.layout
    return Tensors(layout, value.flat, groups)


def _check_travels(aggregator: Routed) -> None:
    try:
        pickle.dumps(aggregator)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            "aggregator",
            f"{type(aggregator.default).__name__} cannot go to another process ({error}): define "
            "its class at the top of a module",
        ) from error


def _close(store: Store, pool: Pool | None) -> None:
    store.close()
    if pool is not None:
        pool.close()
