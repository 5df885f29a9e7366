"""What passes between clients, node, plane and coordinator: immutable data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from shoal.tensors import Tensors

Value = bool | int | float | str
Config = Mapping[str, Value]
Metrics = Mapping[str, float]
NOTHING: Metrics = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Task:
    """Work that a client is asked to do.

    Attributes:
        id: unique within a run; an update is identified by it.
        client: who does it.
        version: the model version that it starts from (commits so far).
        number: how many tasks this client was given before; names its random draws.
        kind: "train", "evaluate", or a phase of a protocol.
        config: overrides of the trainer's hyperparameters, e.g. {"steps": 20}.
        dispatched_at: seconds on the node's clock.
        lease: seconds after which the task counts as failed; None for never.
        part: names of the model's values that it covers; None for all.
    """

    id: int
    client: str
    version: int
    number: int = 0
    kind: str = "train"
    config: Config = field(default_factory=dict)
    dispatched_at: float = 0.0
    lease: float | None = None
    part: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Payload:
    """What a client sends back.

    Attributes:
        tensors: the values; buffers (`buffer/`, `counter/`) are always values, never deltas.
        kind: "delta" (local minus base; only the client subtracts) or "model".
        num_examples: examples trained on.
        steps: local steps done.
        metrics: numbers measured by the client, e.g. {"loss": 0.3}.
    """

    tensors: Tensors
    num_examples: int
    steps: int = 1
    kind: str = "delta"
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Update:
    """A payload as a coordinator sees it: everything but the tensors.

    Attributes:
        id: its task's id.
        version: the model version that it started from.
        duration: seconds from dispatch to arrival.
    """

    id: int
    client: str
    version: int
    num_examples: int = 1
    steps: int = 1
    duration: float = 0.0
    metrics: Metrics = field(default_factory=dict)
    kind: str = "train"


# Events: what a coordinator is told.


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins, or a relay was given new work by its parent."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A client is there and idle."""

    client: str


@dataclass(frozen=True, slots=True)
class Left:
    """A client is gone; `Failed` was told before for each of its tasks."""

    client: str


@dataclass(frozen=True, slots=True)
class Updated:
    """An update arrived and is held until it is aggregated or discarded."""

    update: Update


@dataclass(frozen=True, slots=True)
class Failed:
    """A task ended without an update: error, rejection, lost lease, departure or cancellation."""

    task: Task
    reason: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """A timer that the coordinator set has come."""

    timer: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The metrics of a model version."""

    version: int
    metrics: Metrics


Event = Started | Joined | Left | Updated | Failed | TimedOut | Evaluated

# Actions: what a coordinator wants done, in order.


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Give an idle client a task on the model as it is at this point of the list."""

    client: str
    config: Config = field(default_factory=dict)
    kind: str = "train"
    lease: float | None = None
    part: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask for a task to be dropped; its client stays busy until it answers or its lease ends."""

    task: int


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Fold an update into what will be committed, with this weight."""

    update: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Discard:
    """Throw away an update that is held."""

    update: int
    reason: str = "late"


@dataclass(frozen=True, slots=True)
class Commit:
    """Make the next model version of what was folded; with nothing folded, an equal model."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Forget what was folded since the last commit: a round that missed its quorum."""


@dataclass(frozen=True, slots=True)
class Send:
    """Of a relay: send the change since the last `Started` to the parent."""


@dataclass(frozen=True, slots=True)
class Timer:
    """Be told `TimedOut(name)` at a time in seconds, replacing that name's last; None clears."""

    name: str
    at: float | None


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Measure the model as it is at this point of the list; answered by `Evaluated`."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run; actions after it are dropped."""

    reason: str = "done"


Action = Dispatch | Cancel | Aggregate | Discard | Commit | Abandon | Send | Timer | Evaluate | Stop


# Records: what happened, for tracking.


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """The whole life of one task.

    Attributes:
        started, arrived, ended: seconds; `ended` is when it was aggregated or thrown away.
        outcome: "aggregated", "discarded", "rejected", "failed" or "cancelled".
        reason: why, unless aggregated.
        staleness: commits between the version it started from and its aggregation.
        bytes_down, bytes_up: on the wire.
    """

    task: int
    client: str
    version: int
    started: float
    arrived: float
    ended: float
    outcome: str
    reason: str = ""
    staleness: int = 0
    weight: float = 0.0
    num_examples: int = 0
    steps: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """One commit: the new version, how many updates are in it, how many clients were busy."""

    time: float
    version: int
    updates: int
    busy: int
    clients: int


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """The metrics of one version."""

    time: float
    version: int
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client joined ("joined") or left ("left")."""

    time: float
    client: str
    change: str


@dataclass(frozen=True, slots=True)
class StopRecord:
    """The run ended."""

    time: float
    version: int
    reason: str


Record = TaskRecord | CommitRecord | EvaluationRecord | ClientRecord | StopRecord
