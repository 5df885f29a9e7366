"""A node's complete state as plain data, and back."""

from dataclasses import dataclass
from typing import Any

from shoal.messages import Task
from shoal.node import Held, Node
from shoal.plain import Store, decode, encode
from shoal.tensors import Tensors
from shoal.view import others, restored, stored


@dataclass(frozen=True)
class NodeState:
    """Everything that a node knows, but its plane's tensors."""

    now: float
    version: int
    started: bool
    stopped: str | None
    evaluating: int
    next_id: int
    clients: list[str]
    tasks: dict[int, Task]
    cancelled: dict[int, Task]
    held: dict[int, Held]
    numbers: dict[str, int]
    timers: dict[str, float]
    parent: Task | None
    base: Tensors
    committed: tuple[int, int]
    folded: tuple[int, int]
    state: Any
    plane: Any
    downlink: Any = None


def save(node: Node, store: Store, path: str) -> Any:
    """The node's state as plain data; tensors go to `store` under `path`."""
    state = NodeState(
        node.now, node.version, node.started, node.stopped, node.evaluating, node.next_id,
        stored(node.clients), node.tasks, node.cancelled, node.held, node.numbers, node.timers,
        node.parent, node.base, node.committed, node.folded, node.state, node.plane.snapshot(),
        node.downlink.state,
    )  # fmt: skip
    return encode(state, store, path)


def restore(node: Node, data: Any, store: Store) -> None:
    """Give a fresh node of the same algorithm and model layout a saved state."""
    like = NodeState(
        0.0, 0, False, None, 0, 0, [], {}, {}, {}, {}, {}, None, node.base, (0, 0), (0, 0),
        node.coordinator.init(), node.plane.snapshot(), node.downlink.state,
    )  # fmt: skip
    saved: NodeState = decode(NodeState, data, store, path="node", like=like)
    node.plane.restore(saved.plane)
    node.downlink.state = saved.downlink
    busy = {task.client for task in (*saved.tasks.values(), *saved.cancelled.values())}
    node.clients = restored(node.clients, saved.clients)
    node.idle = others(node.clients, busy)
    for name in (
        "now", "version", "started", "stopped", "evaluating", "next_id", "tasks", "cancelled",
        "held", "numbers", "timers", "parent", "base", "committed", "folded", "state",
    ):  # fmt: skip
        setattr(node, name, getattr(saved, name))
