"""What enters and leaves a node: inputs from a transport, effects for it to perform."""

from dataclasses import dataclass

from shoal.messages import Metrics, Payload, Record, Task
from shoal.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Begin:
    """Start the run with the clients that have joined so far."""


@dataclass(frozen=True, slots=True)
class Join:
    """A client is there."""

    client: str


@dataclass(frozen=True, slots=True)
class Leave:
    """A client is gone, with whatever it was doing."""

    client: str


@dataclass(frozen=True, slots=True)
class Push:
    """A client answers a task; `nbytes` were on the wire."""

    task: int
    client: str
    payload: Payload
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Fail:
    """A client gives a task up and says why."""

    task: int
    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of a `Wake` has come."""

    timer: str
    at: float


@dataclass(frozen=True, slots=True)
class Assessed:
    """The metrics asked for by an `Assess`."""

    version: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Given:
    """To a relay: a task and a model from its parent."""

    task: Task
    model: Tensors


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing more will come by itself: a transport has no input left."""


Input = Begin | Join | Leave | Push | Fail | Tick | Assessed | Given | Quiet


@dataclass(frozen=True, slots=True)
class Assign:
    """Send a task and its model, of `nbytes` on the wire, to a client.

    Attributes:
        number: of a model that the client is to keep, as later tasks may bring changes of it; -1
            for one that it is not.
        changes: that lead to it from the model of `number - len(changes)`, which the client holds,
            in place of the model; None to send the model.
    """

    task: Task
    model: Tensors
    nbytes: int
    number: int = -1
    changes: tuple[Tensors, ...] | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell a client to drop a task and to answer `Fail`."""

    task: Task


@dataclass(frozen=True, slots=True)
class Wake:
    """Answer `Tick(timer, at)` at that time; a later one of the same name replaces it."""

    timer: str
    at: float


@dataclass(frozen=True, slots=True)
class Assess:
    """Measure a model and answer `Assessed`."""

    version: int
    model: Tensors


@dataclass(frozen=True, slots=True)
class Deliver:
    """From a relay: its answer to the parent's task."""

    task: Task
    payload: Payload


Effect = Assign | Revoke | Wake | Assess | Deliver | Record
