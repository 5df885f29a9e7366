"""Clients as threads of this process, in real time."""

import heapq
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shoal import exchange as ex
from shoal import packing
from shoal.client import ClientState, fresh, work
from shoal.core import Algorithm
from shoal.errors import ShoalError
from shoal.messages import Metrics, Task
from shoal.node import Node
from shoal.plain import Store, decode, encode
from shoal.store import ClientStore, MemoryStore
from shoal.tensors import Tensors
from shoal.transports.simulator import Population, data_of


class Threads:
    """A transport whose clients train in a pool of threads on the wall clock.

    Args:
        algorithm: what the clients run.
        clients: the data of each client by name.
        evaluate: metrics of a model.
        seed: names every draw of the clients.
        workers: clients that train at once.
        store: where client states live between tasks.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        clients: Population,
        *,
        evaluate: Callable[[Tensors], Metrics] | None = None,
        seed: int = 0,
        workers: int = 4,
        store: ClientStore | None = None,
    ) -> None:
        self.algorithm, self.clients, self.seed = algorithm, clients, seed
        self.evaluate = evaluate or (lambda model: {})
        self.store = store if store is not None else MemoryStore()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="shoal-client")
        self._inputs: queue.SimpleQueue[ex.Input | BaseException] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, ex.Tick]] = []
        self._sequence = self._outstanding = 0
        self._revoked: set[int] = set()
        self._lock = threading.Lock()
        self._epoch = time.monotonic()
        for client in sorted(clients):
            self._inputs.put(ex.Join(client))
        self._inputs.put(ex.Begin())
        self._outstanding = self._inputs.qsize()

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._epoch

    def receive(self) -> tuple[ex.Input, float]:
        """The next input; waits for a client or a timer."""
        while True:
            wait = max(0.0, self._timers[0][0] - self.now) if self._timers else None
            if not self._outstanding and wait is None:
                return ex.Quiet(), self.now
            try:
                given = self._inputs.get(timeout=wait)
            except queue.Empty:
                return heapq.heappop(self._timers)[2], self.now
            self._outstanding -= 1
            if isinstance(given, BaseException):
                raise given
            return given, self.now

    def perform(self, effect: ex.Effect) -> None:
        """Start work, set a timer, or evaluate."""
        match effect:
            case ex.Assign(task, model, _):
                self._submit(self._work, task, model)
            case ex.Assess(version, model):
                self._submit(self._assess, version, model)
            case ex.Wake(timer, at):
                self._sequence += 1
                heapq.heappush(self._timers, (at, self._sequence, ex.Tick(timer, at)))
            case ex.Revoke(task):
                with self._lock:
                    self._revoked.add(task.id)

    def close(self) -> None:
        """Wait for the clients that train and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.store.close()

    def snapshot(self, store: Store, path: str) -> Any:
        """The clock and the client states; work that is out is lost with the process."""
        with self._lock:
            return {"clients": encode(dict(self.store.items()), store, f"{path}.clients")}

    def restore(self, data: Any, store: Store, node: Node) -> None:
        """Go on from a node's saved state: its tasks fail, its timers and evaluations go on."""
        like = {"": fresh(self.algorithm, node.model)}
        found = decode(Mapping[str, ClientState], data["clients"], store, path="clients", like=like)
        for client, state in found.items():
            self.store.put(client, state)
        self._epoch = time.monotonic() - node.now
        if not node.started:
            return
        while not self._inputs.empty():
            self._inputs.get()
        out = [*node.tasks.values(), *node.cancelled.values()]
        for task in out:
            self._inputs.put(ex.Fail(task.id, task.client, "the server restarted"))
        self._outstanding = len(out)
        for name, at in node.timers.items():
            self.perform(ex.Wake(name, at))
        for _ in range(node.evaluating):
            self.perform(ex.Assess(node.version, node.model))

    def _submit(self, call: Callable[..., ex.Input], *args: object) -> None:
        self._outstanding += 1
        self._pool.submit(self._answer, call, args)

    def _answer(self, call: Callable[..., ex.Input], args: tuple[object, ...]) -> None:
        try:
            self._inputs.put(call(*args))
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it
            self._inputs.put(error)

    def _assess(self, version: int, model: Tensors) -> ex.Input:
        return ex.Assessed(version, self.evaluate(model))

    def _work(self, task: Task, model: Tensors) -> ex.Input:
        client = task.client
        if self._dropped(task):
            return ex.Fail(task.id, client, "cancelled")
        with self._lock:
            state = self.store.get(client)
        try:
            data = data_of(self.clients, client, task.dispatched_at)
            payload, state = work(self.algorithm, task, model, data, state, self.seed)
        except ShoalError as error:
            return ex.Fail(task.id, client, str(error))
        if self._dropped(task):
            return ex.Fail(task.id, client, "cancelled")
        with self._lock:
            self.store.put(client, state)
        return ex.Push(task.id, client, payload, packing.size(payload))

    def _dropped(self, task: Task) -> bool:
        with self._lock:
            return task.id in self._revoked
