"""Flower's Fleet protocol: `POST /v1/fleet/<name>`, protobuf both ways, each call signed.

SuperNodes take part in the runs of a server as its own clients do; all they lack is done here.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, MissingExtra, ModelError
from shoal.flower.bundle import Bundle, bundle
from shoal.flower.crew import Crew, Mate
from shoal.flower.mail import parcel
from shoal.flower.nodes import FOLDER, Caller, Keys, Roster
from shoal.net.access import Denied, Principal, Request
from shoal.net.app import PUBLIC, Handler, Routes
from shoal.net.calls import Call
from shoal.net.gate import Guard
from shoal.net.hall import Hall
from shoal.net.openapi import document
from shoal.net.protocol import Refused
from shoal.net.server import Serving

try:
    from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
    from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise MissingExtra("flwr", "flower") from error

MEDIA = "application/protobuf"
POLL = 20.0  # seconds that a pull waits at most; a node breaks off after 30
_SMALL, _OBJECT = 8 << 20, 64 << 20  # bytes of a body; Flower cuts arrays into smaller objects
_OVER = 2007  # Flower's code: the run does not go on
Act = Callable[[Mate, Any], Awaitable[Any]]
log = logging.getLogger("shoal.net")


def fleet(serving: Serving, guard: Guard | None = None) -> Callable[[Hall], Routes]:
    """The endpoints for SuperNodes, where `serving.flower` is the directory of their app.

    Args:
        serving: where and how.
        guard: of a server with a certificate: limits each node, and writes down who came, went and
            was refused.

    Without a certificate every node may come, as everybody may on loopback; with one, those whose
    public keys lie in the store's `access/supernodes`.

    Raises:
        ConfigError: if the app cannot be built, a key cannot be read, or nodes would be lost
            between two signs of life.
        MissingExtra: if Flower is not installed.
    """
    if serving.patience <= HEARTBEAT_DEFAULT_INTERVAL:
        raise ConfigError(
            "serving.patience",
            f"SuperNodes give a sign of life every {HEARTBEAT_DEFAULT_INTERVAL} s while they train:"
            f" it must be longer, got {serving.patience:g}",
        )
    made = bundle(Path(serving.flower))
    roster = Roster(Path(serving.store) / "access" / FOLDER) if serving.certificate else None
    if roster is not None:
        roster.names()
    keys = Keys(roster)
    poll = min(POLL, serving.patience / 2)
    return lambda hall: Fleet(Crew(hall, _noted(guard)), made, Door(keys, guard), poll).routes


def _noted(guard: Guard | None) -> Callable[[str, str, str], None]:
    """Writes down what a node did, in which run."""
    if guard is None:
        return lambda node, what, run: None
    return lambda node, what, run: guard.note(Principal(node, "client"), what, run, node)


@dataclass(frozen=True)
class Door:
    """What every call passes before anything of it is read.

    Attributes:
        keys: which nodes may call.
        guard: see `fleet`.
    """

    keys: Keys
    guard: Guard | None = None

    def admit(self, call: Call) -> Caller:
        """The node behind a call.

        Raises:
            Denied: 401 if there is none, 413 or 429 if it asks too much.
        """
        try:
            caller = self.keys.admit(call.headers)
        except Denied as denied:
            raise self.refused(call, denied) from denied
        if self.guard is not None:
            self.guard.spend(caller.name, call.headers)
        return caller

    def refused(self, call: Call, denied: Denied) -> Denied:
        """A refusal, written down."""
        log.warning("a SuperNode is refused: %s", denied.problem)
        peer = call.scope["client"][0] if call.scope.get("client") else ""
        asked = Request("POST", str(call.scope["path"]), "", call.headers, peer)
        return denied if self.guard is None else self.guard.refused(asked, denied)


class Fleet:
    """The endpoints.

    Args:
        crew: the nodes.
        app: that they run.
        door: that calls pass.
        poll: seconds that a pull waits.
    """

    def __init__(self, crew: Crew, app: Bundle, door: Door, poll: float) -> None:
        self._crew, self._app, self._door, self._poll = crew, app, door, poll
        acts: dict[str, tuple[Any, Act]] = {
            "register-node": (fleet_pb2.RegisterNodeFleetRequest, self._register),
            "activate-node": (fleet_pb2.ActivateNodeRequest, self._activate),
            "deactivate-node": (fleet_pb2.DeactivateNodeRequest, self._deactivate),
            "unregister-node": (fleet_pb2.UnregisterNodeFleetRequest, self._unregister),
            "send-node-heartbeat": (heartbeat_pb2.SendNodeHeartbeatRequest, self._heartbeat),
            "pull-messages": (fleet_pb2.PullMessagesRequest, self._pull),
            "get-run": (run_pb2.GetRunRequest, self._run),
            "get-fab": (fab_pb2.GetFabRequest, self._fab),
            "pull-object": (message_pb2.PullObjectRequest, self._object),
            "confirm-message-received": (
                message_pb2.ConfirmMessageReceivedRequest,
                self._confirm,
            ),
            "push-messages": (fleet_pb2.PushMessagesRequest, self._push),
            "push-object": (message_pb2.PushObjectRequest, self._take),
        }
        routes: Mapping[tuple[str, str], tuple[str, Handler]] = {
            ("POST", f"fleet/{name}"): (PUBLIC, self._handler(kind, act))
            for name, (kind, act) in acts.items()
        } | {("GET", "openapi.json"): (PUBLIC, _described)}
        self.routes: Routes = routes

    def _handler(self, kind: Any, act: Act) -> Handler:
        most = _OBJECT if kind is message_pb2.PushObjectRequest else _SMALL

        async def handle(call: Call) -> None:
            try:
                caller = self._door.admit(call)
                asked = kind()
                asked.ParseFromString(await call.body(most))
                self._same(call, caller, asked)
                answer = await act(self._crew.mate(caller), asked)
            except Denied as denied:
                # Nodes try again after 503, and give up after 429.
                status = 503 if denied.status == 429 else denied.status
                await call.reply({"code": 0, "detail": denied.problem}, status)
            except DecodeError as error:
                await call.reply({"code": 0, "detail": f"the body: {error}"}, 400)
            except ModelError as error:
                await call.reply({"code": 0, "detail": str(error)}, 422)
            except Refused as refused:
                status = 403 if refused.status in (403, 410) else refused.status
                await call.reply({"code": _OVER, "detail": refused.problem}, status)
            else:
                await call.whole(answer.SerializeToString(), 200, MEDIA)

        return handle

    def _same(self, call: Call, caller: Caller, asked: Any) -> None:
        """Refuse (401) a request about another node than the one that signed it."""
        fields = asked.DESCRIPTOR.fields_by_name
        if "public_key" in fields:
            right = asked.public_key == caller.key
        else:
            right = (asked.node.node_id if "node" in fields else asked.node_id) == caller.number
        if not right:
            problem = "the call is signed by another SuperNode than it speaks for"
            raise self._door.refused(call, Denied(401, problem))

    async def _register(self, mate: Mate, asked: Any) -> Any:
        return fleet_pb2.RegisterNodeFleetResponse(node_id=mate.caller.number)

    async def _activate(self, mate: Mate, asked: Any) -> Any:
        log.info("SuperNode %s is here", mate.caller.name)
        return fleet_pb2.ActivateNodeResponse(node_id=mate.caller.number)

    async def _deactivate(self, mate: Mate, asked: Any) -> Any:
        await self._crew.leave(mate)
        return fleet_pb2.DeactivateNodeResponse()

    async def _unregister(self, mate: Mate, asked: Any) -> Any:
        await self._crew.leave(mate)
        return fleet_pb2.UnregisterNodeFleetResponse()

    async def _heartbeat(self, mate: Mate, asked: Any) -> Any:
        return heartbeat_pb2.SendNodeHeartbeatResponse(success=True)

    async def _pull(self, mate: Mate, asked: Any) -> Any:
        letter = await self._crew.letter(mate, self._poll)
        if letter is None:
            return fleet_pb2.PullMessagesResponse()
        return fleet_pb2.PullMessagesResponse(
            messages_list=[letter.message], message_object_trees=[letter.tree]
        )

    async def _run(self, mate: Mate, asked: Any) -> Any:
        self._crew.desk(asked.run_id)
        return run_pb2.GetRunResponse(run=self._app.run(asked.run_id))

    async def _fab(self, mate: Mate, asked: Any) -> Any:
        if asked.hash_str != self._app.digest:
            raise Refused(404, "app", f"there is no app {asked.hash_str!r:.80} here")
        return fab_pb2.GetFabResponse(fab=self._app.fab())

    async def _object(self, mate: Mate, asked: Any) -> Any:
        letter = mate.letters.get(self._crew.desk(asked.run_id).name)
        content = None if letter is None else letter.objects.get(asked.object_id)
        if content is None:
            return message_pb2.PullObjectResponse(object_found=False, object_available=False)
        return message_pb2.PullObjectResponse(
            object_found=True, object_available=True, object_content=content
        )

    async def _confirm(self, mate: Mate, asked: Any) -> Any:
        name = self._crew.desk(asked.run_id).name
        letter = mate.letters.get(name)
        if letter is not None and letter.message.metadata.message_id == asked.message_object_id:
            del mate.letters[name]
        return message_pb2.ConfirmMessageReceivedResponse()

    async def _push(self, mate: Mate, asked: Any) -> Any:
        if len(asked.messages_list) != 1 or len(asked.message_object_trees) != 1:
            raise Refused(400, "malformed", "one message and its tree are pushed at a time")
        told = asked.messages_list[0].metadata
        desk = self._crew.desk(told.run_id)
        work = desk.task_of(mate.caller.name)
        session = secrets.token_hex(16)
        if work is None or told.group_id.rpartition("/")[2] != str(work.task.id):
            log.info("%s: %s answers a task that is over", desk.name, mate.caller.name)
            return fleet_pb2.PushMessagesResponse(session_id=session)
        coming = parcel(work, asked.message_object_trees[0])
        mate.parcels[desk.name] = session, coming
        return fleet_pb2.PushMessagesResponse(
            objects_to_push=sorted(coming.missing), session_id=session
        )

    async def _take(self, mate: Mate, asked: Any) -> Any:
        desk = self._crew.desk(asked.run_id)
        self._crew.pushing(desk, len(asked.object_content))
        session, coming = mate.parcels.get(desk.name, ("", None))
        if coming is None or session != asked.session_id:
            return message_pb2.PushObjectResponse(stored=False)
        try:
            last = coming.take(asked.object_id, asked.object_content)
        except ModelError as error:
            del mate.parcels[desk.name]
            await self._crew.give_up(desk, coming.work, str(error))
            raise
        if last:
            # To its end, even if the node breaks off: the answer may be durable already.
            await asyncio.shield(self._crew.deliver(mate, desk, coming))
        return message_pb2.PushObjectResponse(stored=True)


async def _described(call: Call) -> None:
    """The server's interface, with the calls of nodes."""
    await call.reply(document(fleet=True))
