"""What passes between the thread that owns a run and the loop that talks to clients."""

from collections.abc import Callable
from dataclasses import dataclass, field

from shoal import exchange as ex
from shoal.messages import Record, Task
from shoal.net.protocol import Raw
from shoal.net.volumes import Volume


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a client's message, told once it is durable.

    Attributes:
        status: "accepted", "repeated" (it was accepted before), "over" (the task had ended),
            "rejected" (it does not fit; the task failed), "malformed" (it is no payload) or
            "stopped" (the run rests; the same may be sent again when it goes on).
        problem: why it was not accepted.
        kept: whether the journal refers to its payload, whatever became of it.
    """

    status: str
    problem: str = ""
    kept: bool = False


Reply = Callable[[Answer], None]


def nobody(answer: Answer) -> None:
    """The reply of a message that nobody waits for."""


@dataclass(frozen=True, slots=True)
class Message:
    """An input from a client or from the server itself."""

    given: ex.Join | ex.Leave | ex.Fail | ex.Assessed
    reply: Reply = nobody


@dataclass(frozen=True, slots=True)
class Pushed:
    """A payload as it was received, its digest checked.

    Attributes:
        task, client: what it answers, and who.
        raw: all its bytes, in memory or mapped from `file`.
        nbytes: of the payload, before what HTTP may do to it.
        file: its name under the run's payloads; "" if it is in memory.
    """

    task: int
    client: str
    raw: Raw
    nbytes: int
    file: str = ""
    reply: Reply = nobody


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that ends the run as failed."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Halt:
    """The server wants the run to save its state and pause."""


Item = Message | Pushed | Broken | Halt


@dataclass(frozen=True, slots=True)
class Work:
    """A task that is out, and its model's bytes."""

    task: Task
    volume: Volume


@dataclass(slots=True)
class Outs:
    """What a batch of inputs brought about, in order; told to the loop at once.

    Attributes:
        work: tasks given out.
        revoked: tasks that their clients should drop.
        ended: (client, task) that need no answer any more.
        present: clients that came (True) or went (False).
        replies: what to tell those who wait.
        records: what happened, for those who watch.
        over: why the run is over; None while it goes on.
        status: "running", "stopped", "done" or "failed".
    """

    work: list[Work] = field(default_factory=list)
    revoked: list[Task] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)
    present: list[tuple[str, bool]] = field(default_factory=list)
    replies: list[tuple[Reply, Answer]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    over: str | None = None
    status: str = "running"
