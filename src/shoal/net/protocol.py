"""What server and client say to each other: names, digests, errors. See docs/protocol.md."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shoal import plain
from shoal.errors import ModelError, ShoalError
from shoal.messages import Task

VERSION = 1  # of the protocol; also the first part of every path
SESSION, DIGEST = "shoal-session", "shoal-digest"
WORK_TYPE, TENSORS_TYPE, JSON_TYPE = (
    "application/vnd.shoal.work",
    "application/vnd.shoal.tensors",
    "application/json",
)
INLINE = 1 << 20  # bytes: larger models are downloaded by range, larger payloads go to a file
CHUNK = 1 << 20  # bytes moved at once
MAX_TEXT = 64 << 10  # bytes of a JSON body
Raw = bytes | bytearray | memoryview


class Refused(ShoalError):
    """A request that the server does not carry out.

    Attributes:
        status: of HTTP.
        error: a word for programs, e.g. "too_large".
        problem: what is wrong, for people.
        todo: what to do about it.
        retry_after: seconds after which the same request may pass; 0 for never by waiting.
    """

    def __init__(
        self, status: int, error: str, problem: str, todo: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(status, error, problem, todo, retry_after)
        self.status, self.error, self.problem, self.todo = status, error, problem, todo
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.problem}; {self.todo}" if self.todo else self.problem

    def body(self) -> dict[str, str]:
        """As JSON goes over the wire."""
        return {"error": self.error, "problem": self.problem, "todo": self.todo}


class Hash(Protocol):
    """Takes bytes, gives their digest."""

    def update(self, data: Raw, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """The digest of all so far."""


def hasher(kind: str) -> Hash:
    """A hash by its name on the wire.

    Raises:
        Refused: for one that is not known, or not installed here.
    """
    if kind == "sha256":
        return hashlib.sha256()
    if kind == "xxh128":
        try:
            import xxhash
        except ImportError:
            raise Refused(400, "digest", "xxh128 is not installed here", "use sha256") from None
        made: Hash = xxhash.xxh3_128()
        return made
    raise Refused(400, "digest", f"digest {kind!r:.40} is not known", "use sha256 or xxh128")


def fastest() -> str:
    """The fastest digest that is installed."""
    try:
        hasher("xxh128")
    except Refused:
        return "sha256"
    return "xxh128"


def digest(data: Raw, kind: str) -> str:
    """`kind=hex` of some bytes."""
    made = hasher(kind)
    made.update(data)
    return f"{kind}={made.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Model:
    """Where the model of a task is: `bytes` whose digest is `digest`.

    Attributes:
        number: of a model that the client is to keep; -1 for one that it is not.
        base: of the model that the client holds, and that the bytes are changes of, see
            `shoal.downlink`; -1 for a safetensors file.
        whole: the digest of the model, as a safetensors file, that the changes lead to.
    """

    version: int
    bytes: int
    digest: str
    number: int = -1
    base: int = -1
    whole: str = ""


def join_work(task: Task, model: Model, body: Raw) -> bytes:
    """A task and its model as they are pulled: u64 length, JSON, safetensors (or nothing)."""
    table = {"task": plain.encode(task), "model": plain.encode(model)}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, body])


def split_work(data: bytes) -> tuple[Task, Model, memoryview]:
    """The parts of what `join_work` made.

    Raises:
        ModelError: if it is not that.
    """
    view = memoryview(data)
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 + length:
        raise ModelError(f"work cut short: {len(view)} bytes")
    try:
        table = json.loads(bytes(view[8 : 8 + length]))
        task: Task = plain.decode(Task, table["task"], path="task")
        model: Model = plain.decode(Model, table["model"], path="model")
    except (ValueError, KeyError, TypeError, RecursionError, ShoalError) as error:
        raise ModelError(f"work cannot be read: {error!r}") from error
    return task, model, view[8 + length :]


def field(table: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A field of a JSON body.

    Raises:
        Refused: if it is missing or of another type.
    """
    value = table.get(name, default)
    if type(value) is not kind:
        problem = f"{name!r} must be {kind.__name__}, got {value!r:.80}"
        raise Refused(400, "malformed", problem)
    return value
