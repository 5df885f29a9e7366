"""Clients in virtual time: a heap of (time, rank, sequence, input), bit-reproducible.

Training is lazy: a task is computed when its result is needed, so work that is cancelled or lost on
the way costs nothing; a trainer that gains by it computes the tasks due next along with it. Ties in
time go to updates before timers, then in order of insertion.
"""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shoal import exchange as ex
from shoal import packing
from shoal.client import ClientState, fresh
from shoal.cohort import Answer, Cohorts, Waiting
from shoal.core import Algorithm, Examples
from shoal.crowd import DAY, Crowd
from shoal.errors import ProtocolError
from shoal.messages import Metrics, Payload, Task
from shoal.node import Node
from shoal.plain import Store, decode, encode
from shoal.profile import Profile
from shoal.store import ClientStore, MemoryStore
from shoal.tensors import Tensors

UPDATES, TIMERS = 0, 1


class Population(Protocol):
    """Clients by name, and each one's data: a dict, or a `Federation`."""

    def __iter__(self) -> Iterator[str]:
        """The clients' names."""

    def __getitem__(self, client: str, /) -> Examples:
        """A client's data."""


def data_of(clients: Population, client: str, time: float) -> Examples:
    """What a client has when it is given a task: of a `Federation`, at that time in seconds."""
    at = getattr(clients, "at", None)  # a dict has none, and its data do not drift
    found: Examples = clients[client] if at is None else at(client, time)
    return found


class World(Protocol):
    """What devices and links are like; every draw is named, so it is a function of its arguments.

    `shoal.simulation.Devices` is one.
    """

    def download_seconds(self, seed: int, client: str, nbytes: int) -> float:
        """Seconds to receive so many bytes."""

    def compute_seconds(self, seed: int, client: str, number: int, steps: int) -> float:
        """Seconds for the local steps of a client's task of this number."""

    def upload_seconds(self, seed: int, client: str, nbytes: int) -> float:
        """Seconds to send so many bytes."""

    def drops(self, seed: int, client: str, number: int) -> float | None:
        """The share of a task's work after which it is lost, None if it is not."""

    def next_switch(
        self, seed: int, client: str, k: int, after: float
    ) -> tuple[float, bool] | None:
        """When a client comes (True) or goes (False) for the k-th time; None for never."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Internal: the computation of a task is over, its upload begins."""

    task: int


@dataclass(frozen=True, slots=True)
class Switch:
    """Internal: the k-th time that a client comes or goes."""

    client: str
    k: int
    online: bool


KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Trained, Switch, ex.Begin, ex.Join, ex.Leave, ex.Push, ex.Fail, ex.Tick, ex.Assessed,
        ex.Given,
    )
}  # fmt: skip
Entry = tuple[float, int, int, Any]


class Simulator:
    """A transport whose clients are simulated devices that really train.

    Args:
        algorithm: what the clients run.
        clients: the data of each client by name.
        world: speeds, links, availability and dropout.
        evaluate: metrics of a model, at no cost in virtual time.
        seed: names every draw.
        store: where client states live between tasks.
        begin: whether the run begins by itself; a relay's begins with its parent's task.
        crowd: the node's, whose clients neither join nor leave; a task of one that is away begins
            when it is back, and fails when it goes.
        size: bytes of a payload on the wire.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        clients: Population,
        world: World,
        *,
        evaluate: Callable[[Tensors], Metrics] | None = None,
        seed: int = 0,
        store: ClientStore | None = None,
        begin: bool = True,
        crowd: Crowd | None = None,
        size: Callable[[Payload], int] = packing.size,
    ) -> None:
        self.crowd, self._size = crowd, size
        self.algorithm, self.clients, self.world, self.seed = algorithm, clients, world, seed
        self.evaluate = evaluate or (lambda model: {})
        self.store = store if store is not None else MemoryStore()
        self.now = 0.0
        self._heap: list[Entry] = []
        self._sequence = 0
        self._pending: dict[int, Waiting] = {}
        self._answer = Cohorts(algorithm, self._data, self.store.get, seed).answer
        self._busy: dict[str, int] = {}
        self._counts: dict[str, int] = {}  # examples: gathering a client's data takes longer
        self._steps: dict[str, int] = {}  # of a task that says nothing of its own
        self._trained_states: dict[str, ClientState] = {}  # whose upload is on the way
        for client in sorted(clients) if crowd is None else ():
            first = world.next_switch(seed, client, 0, 0.0)
            if first is None or first[1] is False:
                self.inject(0.0, ex.Join(client))
            if first is not None:
                self.inject(first[0], Switch(client, 0, first[1]))
        if begin:
            self.inject(0.0, ex.Begin())

    @property
    def next_time(self) -> float | None:
        """The virtual time of the next thing to happen, None if there is nothing."""
        return self._heap[0][0] if self._heap else None

    def inject(self, time: float, item: Any, rank: int = UPDATES) -> None:
        """Let something happen at a virtual time."""
        heapq.heappush(self._heap, (time, rank, self._sequence, item))
        self._sequence += 1

    def receive(self) -> tuple[ex.Input, float]:
        """The next input in virtual time."""
        while self._heap:
            given = self.advance()
            if given is not None:
                return given, self.now
        return ex.Quiet(), self.now

    def advance(self) -> ex.Input | None:
        """Let the next thing happen; the node's input if it is one."""
        self.now, _, _, item = heapq.heappop(self._heap)
        kind = type(item)
        if kind is Trained:
            return self._trained(item.task)
        if kind is Switch:
            return self._switched(item)
        if kind is ex.Push or kind is ex.Fail:
            return self._answered(item)
        given: ex.Input = item
        return given

    def perform(self, effect: ex.Effect) -> None:
        """Schedule what an effect brings about."""
        match effect:
            case ex.Assign(task, model, nbytes):
                self._assign(task, model, nbytes)
            case ex.Wake(timer, at):
                self.inject(at, ex.Tick(timer, at), TIMERS)
            case ex.Assess(version, model):
                self.inject(self.now, ex.Assessed(version, self.evaluate(model)))
            case ex.Revoke(task):
                if self._busy.get(task.client) == task.id:
                    self._pending.pop(task.id, None)
                    self.inject(self.now, ex.Fail(task.id, task.client, "cancelled"))

    def watch(self, profile: Profile) -> None:
        """Let a profile tell training, data and evaluation apart."""
        data = profile.timed("data", self._data)
        cohorts = Cohorts(self.algorithm, data, self.store.get, self.seed)
        self._answer = profile.timed("training", cohorts.answer)
        self.evaluate = profile.timed("evaluation", self.evaluate)

    def close(self) -> None:
        """Let go of the client store, and of the clients' data: nothing more can be trained."""
        self.store.close()
        self._answer = _closed  # which referred to the simulator

    def _assign(self, task: Task, model: Tensors, nbytes: int) -> None:
        world, client = self.world, task.client
        count = self._local_steps(client, task)
        start = self.now + world.download_seconds(self.seed, client, nbytes)
        seconds = world.compute_seconds(self.seed, client, task.number, count)
        self._busy[client] = task.id
        lost = world.drops(self.seed, client, task.number)
        end, reason = start + (seconds if lost is None else lost * seconds), "dropped out"
        if self.crowd is not None:
            wait = self.crowd.away(client, self.now)
            end, gone = end + wait, self.crowd.leaves(client, self.now + wait)
            if wait > DAY or gone < end:
                # Whoever stays away is given up after a day, so that the run goes on.
                lost, end, reason = 0.0, min(gone, self.now + DAY, end), "the client left"
        if lost is not None:
            self.inject(end, ex.Fail(task.id, client, reason))
            return
        self._pending[task.id] = Waiting(task, model, end)
        self.inject(end, Trained(task.id))

    def _trained(self, task_id: int) -> ex.Input | None:
        """Compute a task whose time has come; its answer if the upload takes no time."""
        waiting = self._pending.pop(task_id, None)
        if waiting is None:
            return None
        client = waiting.task.client
        payload, state = self._answer(waiting, self._pending.values())
        self._trained_states[client] = state
        nbytes = self._size(payload)
        answer: ex.Push | ex.Fail = ex.Push(task_id, client, payload, nbytes)
        seconds = self.world.upload_seconds(self.seed, client, nbytes)
        if self.crowd is not None:
            left = self.crowd.leaves(client, self.now) - self.now
            if left < seconds:
                seconds, answer = left, ex.Fail(task_id, client, "the client left")
        if seconds > 0:
            self.inject(self.now + seconds, answer)
            return None
        return self._answered(answer)

    def _data(self, task: Task) -> Examples:
        return data_of(self.clients, task.client, task.dispatched_at)

    def _local_steps(self, client: str, task: Task) -> int:
        usual = None if task.config else self._steps.get(client)
        if usual is not None:
            return usual
        if client not in self._counts:
            self._counts[client] = len(self.clients[client])
        steps = self.algorithm.trainer.steps(self._counts[client], task.config)
        if not task.config:
            self._steps[client] = steps
        return steps

    def _answered(self, answer: ex.Push | ex.Fail) -> ex.Input | None:
        if self._busy.get(answer.client) != answer.task:
            return None  # overtaken: the client left, or was given other work
        del self._busy[answer.client]
        state = self._trained_states.pop(answer.client, None)
        if state is not None and type(answer) is ex.Push:
            # Only now: what the server never got must not count on the client either.
            self.store.put(answer.client, state)
        return answer

    def _switched(self, switch: Switch) -> ex.Input:
        client = switch.client
        following = self.world.next_switch(self.seed, client, switch.k + 1, self.now)
        if following is not None:
            self.inject(following[0], Switch(client, switch.k + 1, following[1]))
        if switch.online:
            return ex.Join(client)
        task = self._busy.pop(client, None)
        self._trained_states.pop(client, None)
        if task is not None:
            self._pending.pop(task, None)
        return ex.Leave(client)

    def snapshot(self, store: Store, path: str) -> Any:
        """The complete state as plain data; tensors go to `store` under `path`."""
        models: list[Tensors] = []
        pending = []
        answers, states = {}, {}
        for waiting in self._pending.values():
            task, model = waiting.task, waiting.model
            if not any(model is known for known in models):
                models.append(model)
            at = next(i for i, known in enumerate(models) if known is model)
            pending.append((encode(task), at, waiting.due))
            if waiting.answer is not None:
                answers[str(task.id)], states[str(task.id)] = waiting.answer
        entries = [
            (time, rank, sequence, type(item).__name__,
             encode(item, store, f"{path}.heap[{sequence}]"))
            for time, rank, sequence, item in sorted(self._heap)
        ]  # fmt: skip
        return {
            "now": self.now,
            "sequence": self._sequence,
            "busy": dict(self._busy),
            "heap": entries,
            "models": encode(models, store, f"{path}.models"),
            "pending": pending,
            "answers": encode(answers, store, f"{path}.answers"),
            "states": encode(states, store, f"{path}.states"),
            "clients": encode(dict(self.store.items()), store, f"{path}.clients"),
            "trained": encode(self._trained_states, store, f"{path}.trained"),
        }

    def restore(self, data: Any, store: Store, node: Node) -> None:
        """Take a snapshot's state; `node` has taken its own before."""
        self.now, self._sequence = data["now"], data["sequence"]
        self._busy = dict(data["busy"])
        self._heap = [
            (time, rank, sequence, decode(KINDS[kind], item, store, path=f"heap[{sequence}]"))
            for time, rank, sequence, kind, item in data["heap"]
        ]
        models = decode(tuple[Tensors, ...], data["models"], store, path="models")
        tasks = [(decode(Task, task, path="pending"), *more) for task, *more in data["pending"]]
        self._pending = {task.id: Waiting(task, models[at], due) for task, at, due in tasks}
        self.store.clear()
        like = {"": fresh(self.algorithm, node.model)}
        kept, trained, states = (
            decode(Mapping[str, ClientState], data[name], store, path=name, like=like)
            for name in ("clients", "trained", "states")
        )
        payloads = decode(Mapping[str, Payload], data["answers"], store, path="answers")
        for task_id, payload in payloads.items():
            self._pending[int(task_id)].answer = payload, states[task_id]
        self._trained_states = dict(trained)
        for client, state in kept.items():
            self.store.put(client, state)


def _closed(due: Waiting, others: Collection[Waiting]) -> Answer:
    raise ProtocolError("the simulator is closed")
