"""The plane whose folds run in actors of Ray, on this machine or on many: shards x tree.

Gradients are partitioned as in GradsSharding (arXiv 2604.22072), contributors among leaves as in
LIFL (Qi et al. 2024, arXiv 2405.10968). Updates are written once into Ray's object store, and read
there without copies. What a dead actor or machine had in hand is folded again by another, from the
last partial result that has come back here, and the updates since. Nobody polls.
"""

from dataclasses import replace
from typing import Any

from shoal.aggregators import Routed
from shoal.core import Aggregator, Transform
from shoal.errors import ConfigError, ProtocolError, ShoalError, fraction, positive
from shoal.messages import Payload
from shoal.planes.local import Local
from shoal.planes.processes_ledger import Ledger
from shoal.planes.processes_shards import READY
from shoal.planes.ray_actors import WARM, Partial, capacity, connect
from shoal.planes.ray_round import Plan, Round
from shoal.planes.ray_shards import size
from shoal.planes.state import Snapshot, check_forgets, check_layout, check_weight, delta_of
from shoal.tensors import Tensors


class Ray:
    """Holds updates, and has actors fold them.

    Rules whose accumulators have one size (`Mean`, `Sum`) fold updates as they come, and let go of
    them at each partial result. Those over whole sets (`Median`) keep them in the object store
    until the commit; those that compare whole updates (`Krum`) do so in one actor.

    Args:
        aggregator, optimizer, seed: as for `Local`.
        shards: ranges of coordinates that are folded apart from each other.
        fan_in: updates of a leaf, and partial results of a merge, 2 or more; None for one leaf,
            which adds floats in the order of `Local`, to the same bits.
        actors: most of them at a time, but at least one for each shard.
        address: of a cluster, e.g. "10.0.0.1:6379" or "auto"; None for the Ray that this process
            is connected to, or else one that is started here and ends with the process.
        budget: bytes that updates which wait, and partial results, may take; where they take more,
            `put` waits. None for half of the object store of this machine.
        smoothing: weight of the last commit in the average number of updates that actors are
            started for, ahead of them.

    Raises:
        MissingExtra: if Ray is not installed.
        ConfigError: for bad numbers, an aggregator that cannot travel, or nothing at the address;
            from `start` for an aggregator that remembers updates over commits, or a budget without
            room for the accumulators and one update; from `put` if updates fill it.
        ActorError: from any method, if actors die again and again, or an update is gone from the
            object store.
    """

    def __init__(
        self,
        aggregator: Aggregator[Any],
        optimizer: Transform[Any],
        seed: int = 0,
        *,
        shards: int = 2,
        fan_in: int | None = None,
        actors: int = 8,
        address: str | None = None,
        budget: int | None = None,
        smoothing: float = 0.7,
    ) -> None:
        positive("shards", shards)
        positive("actors", actors)
        if budget is not None:
            positive("budget", budget)
        fraction("smoothing", smoothing)
        if fan_in is not None and fan_in < 2:
            raise ConfigError("fan_in", f"a merge has at least 2 inputs, got {fan_in!r}")
        self.aggregator = aggregator if isinstance(aggregator, Routed) else Routed(aggregator)
        self.optimizer, self.seed, self.shards, self.fan_in = optimizer, seed, shards, fan_in
        self.actors, self.smoothing = actors, smoothing
        self.expected = 0.0  # updates of a commit, on average
        self._ray = connect(address)
        self.budget = capacity(self._ray) // 2 if budget is None else budget
        _check_travels(self._ray, self.aggregator)
        self._server = Local(READY, optimizer, seed)
        self._held: dict[int, Payload] = {}
        self._loose = 0  # bytes of what is held
        self._folded = 0
        self._plan: Plan
        self._ledger: Ledger
        self._round: Round | None = None
        self._base: Partial | None = None  # what the round begins with

    def start(self, model: Tensors, version: int) -> None:
        """Take a model as the current one; server optimizer state survives a relay's restart.

        Raises:
            ConfigError: if the budget has no room for the accumulators and one update.
        """
        self._prepare(model)
        self._server.start(model, version)

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
        """Hold an update.

        Raises:
            UpdateError: if it does not fit the model's layout.
            ProtocolError: if one of this id is held.
            ConfigError: if the budget is full of updates that wait for a commit.
        """
        if update in self._held:
            raise ProtocolError(f"update {update} is held already")
        check_layout(update, payload, self.model)
        self._make_room(size(payload.tensors))
        self._held[update] = payload
        self._loose += size(payload.tensors)

    def fold(self, update: int, weight: float, client: str) -> None:
        """Have a held update folded; on an error it is held as before.

        Raises:
            ProtocolError: if it is not held, or the weight is negative, infinite or not a number.
            ConfigError: if a fixed-point sum could overflow.
            UpdateError: if the aggregator cannot take it.
            ShoalError: if actors could not fold those before: until they are given up.
        """
        check_weight(update, weight, client)
        payload, now = self._find(update), self._now()
        now.hear(block=False)
        inputs = now.put(update, payload, weight, client)
        value = delta_of(payload, self.model) if self._ledger.exact else payload.tensors
        self._ledger.fold(value, weight, client)
        now.add(inputs)
        self._release(update)
        self._folded += 1

    def drop(self, update: int) -> None:
        """Let go of a held update.

        Raises:
            ProtocolError: if it is not held.
        """
        self._find(update)
        self._release(update)

    def commit(self) -> Tensors:
        """Finish, optimize and add to the model; with nothing folded, the same model.

        Raises:
            ProtocolError: if the weights of what a mean would divide by sum to zero.
            ConfigError: if a rule has too few updates.
            ActorError: if actors cannot finish. In every case the plane is as it was before.
        """
        if not self._folded:
            return self._server.commit()
        self._ledger.check(self._folded)
        value = self._now().finished()
        self._server.put(-1, Payload(value, 1))
        self._server.fold(-1, 1.0, "")
        try:
            model = self._server.commit()
        except ShoalError:
            self._server.abandon()
            raise
        share = self.smoothing if self.expected else 1.0
        self.expected += share * (self._folded - self.expected)
        self._forget()
        self._expect(shrink=True)
        return model

    def abandon(self) -> None:
        """Forget what was folded since the last commit."""
        self._forget()

    def resize(self, shards: int) -> None:
        """Fold in so many ranges from now on; what was folded is merged and cut anew.

        Raises:
            ActorError: if actors cannot hand over what they have. Then nothing changes.
        """
        positive("shards", shards)
        plan = Plan.of(self.aggregator, self.model, shards, self.fan_in, self.actors)
        if self._folded:
            now = self._now()
            self._base = Partial(now.gathered(), frozenset(now.updates))
            now.give_up()
        self._plan, self._round, self.shards = plan, None, shards
        self._expect()

    def close(self) -> None:
        """Let go of actors, and of everything in the object store; the actors stay warm."""
        self._forget()
        self._held.clear()
        self._loose = 0
        self._server.close()

    def snapshot(self) -> Snapshot:
        """The complete state, copied out of the object store: it fits every plane."""
        state, accumulator = self._server.snapshot(), self._now().gathered()
        return replace(state, folded=self._folded, accumulator=accumulator, held=dict(self._held))

    def example(self) -> Snapshot:
        """A snapshot whose parts have the right types, for decoding one."""
        model = self.model
        return Snapshot(model, 0, 0, self.aggregator.init(model), self.optimizer.init(model), {})

    def restore(self, snapshot: Snapshot) -> None:
        """Take a snapshot's state, of any plane.

        Raises:
            ConfigError: if the budget has no room for it.
        """
        self._prepare(snapshot.model)
        nothing = READY.init(snapshot.model)
        self._server.restore(replace(snapshot, accumulator=nothing, folded=0, held={}))
        self._held, self._loose = {}, 0
        if snapshot.folded:
            # Which updates these were is not known any more; ids below 0 stand for them.
            self._base = Partial(snapshot.accumulator, frozenset(range(-snapshot.folded, 0)))
            self._ledger = Ledger(self.aggregator, snapshot.model, snapshot.accumulator)
            self._folded = snapshot.folded
        for update, payload in snapshot.held.items():
            self.put(update, payload)

    def _prepare(self, model: Tensors) -> None:
        """Forget what was folded, and know how updates of a model of this layout are."""
        check_forgets(self.aggregator, model)
        self._forget()
        self._plan = Plan.of(self.aggregator, model, self.shards, self.fan_in, self.actors)
        needed, update = Round(self._plan, self._ray, model).reserve, size(model)
        if needed + update > self.budget:
            raise ConfigError(
                "budget",
                f"{self.budget} bytes have no room for the {needed} that "
                f"{type(self.aggregator.default).__name__} needs beside updates, and one update "
                f"of {update}: raise it",
            )
        self._expect()

    def _now(self) -> Round:
        if self._round is None:
            if self._base is None:
                self._ledger = Ledger(self.aggregator, self.model)
            self._round = Round(self._plan, self._ray, self.model, self._base)
        return self._round

    def _forget(self) -> None:
        if self._round is not None:
            self._round.give_up()
        self._round, self._base, self._folded = None, None, 0

    def _expect(self, *, shrink: bool = False) -> None:
        """Have the actors started that the next updates will need."""
        WARM.expect(self._ray, self, self._plan.needs(self.expected), shrink=shrink)

    def _find(self, update: int) -> Payload:
        if update not in self._held:
            raise ProtocolError(f"update {update} is not held: folded or dropped before?")
        return self._held[update]

    def _release(self, update: int) -> None:
        self._loose -= size(self._held.pop(update).tensors)

    def _make_room(self, nbytes: int) -> None:
        """Wait until so many bytes are free beside what folding needs."""
        now = self._now()
        while self._loose + now.waiting + nbytes + now.reserve > self.budget:
            if not now.hear(block=True):
                raise ConfigError(
                    "budget",
                    f"{self._loose + now.waiting} of {self.budget} bytes are taken by "
                    f"{len(self._held)} held and {self._folded} folded updates, and {nbytes} more "
                    f"leave less than the {now.reserve} that folding needs: raise it, or commit "
                    "more often",
                )


def _check_travels(ray: Any, aggregator: Routed) -> None:
    try:
        ray.cloudpickle.dumps(aggregator)
    except (TypeError, AttributeError, ValueError) as error:
        name = type(aggregator.default).__name__
        problem = f"{name} cannot go to another process ({error})"
        raise ConfigError("aggregator", f"{problem}: keep locks, files and the like out") from error
