"""What a client has in hand."""

import threading
from dataclasses import dataclass, field

from shoal.errors import ShoalError
from shoal.messages import Task
from shoal.tensors import Tensors


class Stopped(ShoalError):
    """The client was stopped while it tried to reach the server."""


@dataclass(frozen=True, eq=False)
class Work:
    """A task and the model to start from.

    Attributes:
        revoked: set once the server does not want the answer any more.
    """

    task: Task
    model: Tensors
    revoked: threading.Event = field(default_factory=threading.Event)
