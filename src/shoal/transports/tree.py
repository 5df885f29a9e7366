"""A two-level federation in virtual time: relays between the server and the clients.

Each relay is a node with a simulator of its own; the tree interleaves their clocks and carries
tasks and answers between them and the server, which sees the relays as its clients.
"""

import heapq
from collections.abc import Callable, Mapping
from typing import Any

from shoal import exchange as ex
from shoal import packing, snapshot
from shoal.messages import Metrics
from shoal.node import Node
from shoal.plain import Store, decode, encode
from shoal.tensors import Tensors
from shoal.transports.simulator import KINDS, TIMERS, UPDATES, Entry, Simulator, World


class Tree:
    """A transport whose clients are relays.

    Args:
        relays: a node (its coordinator made by `relay`) and the simulator of its clients, by name.
        world: the links between the server and the relays.
        evaluate: metrics of a model.
        seed: names every draw.
    """

    def __init__(
        self,
        relays: Mapping[str, tuple[Node, Simulator]],
        world: World,
        *,
        evaluate: Callable[[Tensors], Metrics] | None = None,
        seed: int = 0,
    ) -> None:
        self.relays, self.world, self.seed = dict(sorted(relays.items())), world, seed
        self.evaluate = evaluate or (lambda model: {})
        self.now = 0.0
        self._heap: list[Entry] = []
        self._sequence = 0
        self._busy: dict[str, int] = {}
        for name in self.relays:
            self._push(0.0, ex.Join(name))
        self._push(0.0, ex.Begin())

    def _push(self, time: float, item: ex.Input, rank: int = UPDATES) -> None:
        heapq.heappush(self._heap, (time, rank, self._sequence, item))
        self._sequence += 1

    def receive(self) -> tuple[ex.Input, float]:
        """The server's next input; relays' inputs before it are handled on the way."""
        while True:
            times = [
                (sim.next_time, name)
                for name, (_, sim) in self.relays.items()
                if sim.next_time is not None
            ]
            first = min(times, default=None)
            if first is not None and (not self._heap or first[0] <= self._heap[0][0]):
                self._advance(first[1])
            elif self._heap:
                self.now, _, _, given = heapq.heappop(self._heap)
                if not isinstance(given, ex.Push | ex.Fail) or self._answers(given):
                    return given, self.now
            else:
                return ex.Quiet(), self.now

    def perform(self, effect: ex.Effect) -> None:
        """Carry out an effect of the server."""
        match effect:
            case ex.Assign(task, model, nbytes):
                seconds = self.world.download_seconds(self.seed, task.client, nbytes)
                self._busy[task.client] = task.id
                self.relays[task.client][1].inject(self.now + seconds, ex.Given(task, model))
            case ex.Wake(timer, at):
                self._push(at, ex.Tick(timer, at), TIMERS)
            case ex.Assess(version, model):
                self._push(self.now, ex.Assessed(version, self.evaluate(model)))
            case ex.Revoke(task):
                if self._busy.get(task.client) == task.id:
                    self._push(self.now, ex.Fail(task.id, task.client, "cancelled"))

    def close(self) -> None:
        """Close the relays' simulators and planes."""
        for node, simulator in self.relays.values():
            simulator.close()
            node.plane.close()

    def _answers(self, given: ex.Push | ex.Fail) -> bool:
        """Whether an answer is to the relay's current task."""
        if self._busy.get(given.client) != given.task:
            return False
        del self._busy[given.client]
        return True

    def _advance(self, name: str) -> None:
        node, simulator = self.relays[name]
        given = simulator.advance()
        if given is None:
            return
        for effect in node.handle(given, simulator.now):
            if isinstance(effect, ex.Deliver):
                nbytes = packing.size(effect.payload)
                seconds = self.world.upload_seconds(self.seed, name, nbytes)
                answer = ex.Push(effect.task.id, name, effect.payload, nbytes)
                self._push(simulator.now + seconds, answer)
            else:
                simulator.perform(effect)

    def snapshot(self, store: Store, path: str) -> Any:
        """The complete state, relays included; tensors go to `store` under `path`."""
        heap = [
            (time, rank, sequence, type(item).__name__,
             encode(item, store, f"{path}.heap[{sequence}]"))
            for time, rank, sequence, item in sorted(self._heap)
        ]  # fmt: skip
        relays = {
            name: [
                snapshot.save(node, store, f"{path}.{name}.node"),
                simulator.snapshot(store, f"{path}.{name}.simulator"),
            ]
            for name, (node, simulator) in self.relays.items()
        }
        own = {"now": self.now, "sequence": self._sequence, "busy": dict(self._busy)}
        return own | {"heap": heap, "relays": relays}

    def restore(self, data: Any, store: Store, node: Node) -> None:
        """Take a snapshot's state; `node` has taken its own before."""
        self.now, self._sequence = data["now"], data["sequence"]
        self._busy = dict(data["busy"])
        self._heap = [
            (time, rank, sequence, decode(KINDS[kind], item, store, path=f"heap[{sequence}]"))
            for time, rank, sequence, kind, item in data["heap"]
        ]
        for name, (own, simulator) in self.relays.items():
            saved = data["relays"][name]
            snapshot.restore(own, saved[0], store)
            simulator.restore(saved[1], store, own)
