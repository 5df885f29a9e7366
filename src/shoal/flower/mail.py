"""Messages to and from SuperNodes, taken apart into objects named by their digests.

A node pulls a message's tree of object names and then each object; it pushes its reply likewise.
"""

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from shoal.errors import MissingExtra, ModelError
from shoal.flower import records
from shoal.flower.client_app import message
from shoal.messages import Payload
from shoal.net.hosted import Work
from shoal.net.volumes import Volume

try:
    from flwr.app import RecordDict
    from flwr.app.message import make_message
    from flwr.common.serde import message_to_proto
    from flwr.supercore.inflatable.inflatable_object import (
        UnexpectedObjectContentError,
        get_all_nested_objects,
        get_object_id,
        get_object_tree,
        iterate_object_tree,
        no_object_id_recompute,
    )
    from flwr.supercore.inflatable.inflatable_utils import (
        inflate_object_from_contents,
        validate_object_content,
    )
except ImportError as error:
    raise MissingExtra("flwr", "flower") from error

_ROOM = 1 << 20  # bytes of a reply beside its arrays


@dataclass(frozen=True, eq=False)
class Letter:
    """A task on its way to a node: the message without content, its tree, its objects' bytes."""

    work: Work
    message: Any
    tree: Any
    objects: dict[str, bytes]


class Press:
    """Makes letters; the arrays of a model version are made once for all nodes."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Volume, dict[bool, tuple[Any, dict[str, bytes]]]] = (
            WeakKeyDictionary()
        )

    def letter(self, work: Work, run: int, node: int, legacy: bool) -> Letter:
        """The letter for a task.

        Raises:
            ModelError: for a task or a model that Flower has no form for.
        """
        with no_object_id_recompute():
            carried, known = self._carried(work.volume, legacy)
            made = message(work.task, records.instruction(work.task, carried, legacy), run, node)
            objects = {
                name: known[name] if name in known else thing.deflate()
                for name, thing in get_all_nested_objects(made).items()
            }
            tree = get_object_tree(made)
        return Letter(
            work, message_to_proto(make_message(made.metadata, RecordDict())), tree, objects
        )

    def _carried(self, volume: Volume, legacy: bool) -> tuple[Any, dict[str, bytes]]:
        versions = self._made.setdefault(volume, {})
        if legacy not in versions:
            carried = records.carry(volume.model, legacy)
            found = get_all_nested_objects(carried)
            versions[legacy] = carried, {name: thing.deflate() for name, thing in found.items()}
        return versions[legacy]


@dataclass(eq=False)
class Parcel:
    """A reply on its way in.

    Attributes:
        work: that it answers.
        root: name of the object that is the message.
        missing: names of the objects that have not come.
        left: bytes that may still come.
    """

    work: Work
    root: str
    missing: set[str]
    left: int
    objects: dict[str, bytes] = field(default_factory=dict)

    def take(self, name: str, content: bytes) -> bool:
        """Add an object; whether it was the last one.

        Raises:
            ModelError: if it is not what its name says, or too much.
        """
        if name not in self.missing:
            return False
        self.left -= len(content)
        if self.left < 0:
            raise ModelError(f"the reply to task {self.work.task.id} is too large for its model")
        if get_object_id(content) != name:
            raise ModelError(f"object {name} was damaged on its way")
        self.objects[name] = content
        self.missing.discard(name)
        return not self.missing

    def open(self) -> tuple[Payload | None, str]:
        """The answer, or why the app failed.

        Raises:
            ModelError: if it is no answer.
        """
        try:
            for content in self.objects.values():
                validate_object_content(content)
            reply = inflate_object_from_contents(self.root, self.objects)
            if reply.has_error():
                return None, str(reply.error.reason)
            return records.payload(self.work.task, self.work.volume.model, reply.content), ""
        except (
            UnexpectedObjectContentError, ValueError, KeyError, TypeError, IndexError,
            AttributeError, RecursionError,
        ) as error:  # fmt: skip
            problem = f"the reply cannot be read: {type(error).__name__}: {error}"
            raise ModelError(problem) from error


def parcel(work: Work, tree: Any) -> Parcel:
    """A reply that is announced by its tree.

    Raises:
        ModelError: if it has more objects than a model's answer.
    """
    names = {found.object_id for found in iterate_object_tree(tree)}
    size = 4 * work.volume.room  # doubles for halves
    if len(names) > 64 + 4 * len(work.volume.model) + size // _ROOM:
        raise ModelError(f"a reply of {len(names)} objects is no answer to task {work.task.id}")
    room = size + _ROOM + 1024 * len(names)
    return Parcel(work, tree.object_id, names, room)
