"""The endpoints of clients: join, pull, model, push, fail, heartbeat, leave."""

import asyncio
import logging
import re
import time
from contextlib import aclosing
from itertools import chain

from shoal import __version__
from shoal import exchange as ex
from shoal.net.access import allowed
from shoal.net.app import Handler, Routes
from shoal.net.calls import Call
from shoal.net.desk import Desk, Session
from shoal.net.hall import Hall
from shoal.net.hosted import Answer, Message, Pushed, Work
from shoal.net.protocol import (
    DIGEST,
    INLINE,
    SESSION,
    TENSORS_TYPE,
    WORK_TYPE,
    Model,
    Raw,
    Refused,
    digest,
    field,
    join_work,
)
from shoal.net.uploads import Upload, present
from shoal.net.volumes import Volume

POLL = 30.0  # seconds that a pull waits at most
_KEY = re.compile("[0-9a-f]{32}")
_REASON, _TRACE = 2000, 32_000  # characters kept of a client's failure
log = logging.getLogger("shoal.net")


class Clients:
    """What clients ask of the runs in a hall."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        task = "runs/{run}/tasks/{task}"
        made: dict[tuple[str, str], tuple[str, Handler]] = {
            ("POST", "runs/{run}/join"): ("join", self.join),
            ("POST", "runs/{run}/pull"): ("pull", self.pull),
            ("POST", "runs/{run}/heartbeat"): ("heartbeat", self.heartbeat),
            ("POST", "runs/{run}/leave"): ("leave", self.leave),
            ("GET", f"{task}/model"): ("model", self.model),
            ("GET", f"{task}/push"): ("push", self.pushed),
            ("PUT", f"{task}/push"): ("push", self.push),
            ("POST", f"{task}/fail"): ("push", self.fail),
        }
        self.routes: Routes = made

    async def join(self, call: Call) -> None:
        """A client comes; it learns its session and the experiment."""
        table = await call.table()
        client = field(table, "client", str, call.principal.name)
        allowed(call.principal, "join", call.run, client)
        if not 0 < len(client) <= 200 or not client.isprintable():
            raise Refused(400, "malformed", f"{client[:80]!r} is no name for a client")
        desk = self._hall.desk(call.run)
        self._hall.quotas.joining(desk, client)
        key = field(table, "session", str, "")
        if key and not _KEY.fullmatch(key):
            raise Refused(400, "malformed", "a session is 32 random hexadecimal digits")
        session = await desk.join(client, key)
        log.info("%s: %s joined", call.run, client)
        await call.reply(
            {
                "session": session.id,
                "client": client,
                "run": call.run,
                "run_id": desk.host.served.id,
                "patience": desk.patience,
                "experiment": desk.toml,
                "server": __version__,
            }
        )

    async def pull(self, call: Call) -> None:
        """Work, once there is some; nothing after a while."""
        desk, session = self._known(call)
        await call.body(0)
        have = call.number("have", 1 << 62)
        seconds = min(float(call.number("wait", int(POLL))), POLL, desk.patience / 2)
        work = await desk.pull(session, have, seconds)
        desk.touch(session.client)
        if work is None:
            self._require_on(desk, session)
            await call.nothing()
            return
        volume, kind = work.volume, call.query.get("digest", "sha256")
        if max(volume.size, volume.room) <= INLINE:
            model = _described(volume, kind)
        else:
            loop = asyncio.get_running_loop()
            model = await loop.run_in_executor(None, _described, volume, kind)
        body = join_work(work.task, model, volume.whole if volume.small else b"")
        if volume.small or volume.size > call.number("room", 0):
            await call.whole(body, 200, WORK_TYPE)
            return
        pieces = chain([memoryview(body)], volume.slices(0, volume.size))
        await call.stream(
            pieces, len(body) + volume.size, 200, WORK_TYPE, {}, lambda: desk.touch(session.client)
        )

    async def model(self, call: Call) -> None:
        """The model of a client's task, or a range of it."""
        desk, session = self._known(call)
        volume = self._mine(desk, session, call.task).volume
        start, stop = call.range(volume.size)
        partial = "range" in call.headers
        extra = {"accept-ranges": "bytes"}
        if partial:
            extra["content-range"] = f"bytes {start}-{stop - 1}/{volume.size}"
        await call.stream(
            volume.slices(start, stop), stop - start, 206 if partial else 200, TENSORS_TYPE, extra,
            lambda: desk.touch(session.client),
        )  # fmt: skip

    async def pushed(self, call: Call) -> None:
        """How many bytes of a payload are here."""
        desk, session = self._known(call)
        self._mine(desk, session, call.task)
        upload = desk.uploads.get(call.task)
        here = upload.size if upload is not None else present(desk.payloads, call.task)
        await call.reply({"offset": here})

    async def push(self, call: Call) -> None:
        """A payload, whole or from an offset on."""
        desk, session = self._known(call)
        work = desk.task_of(session.client)
        if work is None or work.task.id != call.task:
            await self._tell(call, await self._ask(desk, call, session, b"", 0, ""))
            return
        want = call.headers.get(DIGEST, "")
        offset = call.number("offset", 0)
        total = call.number("total", offset + call.length)
        most = 2 * work.volume.room + INLINE
        if max(total, offset + call.length) > most:
            problem = f"{total} bytes where task {call.task} takes at most {most}"
            raise Refused(413, "too_large", problem)
        self._hall.quotas.pushing(desk, call.length)
        if total > INLINE:
            await self._large(call, desk, session, want, offset, total)
            return
        data = await call.body(min(most, INLINE))
        if call.headers.get("content-encoding", "identity") != "identity":
            data = _decoded(data, call.headers["content-encoding"], most)
        _check(data, want)
        await self._tell(call, await self._ask(desk, call, session, data, len(data), ""))

    async def _large(
        self, call: Call, desk: Desk, session: Session, want: str, offset: int, total: int
    ) -> None:
        """A payload that goes to a file while it comes."""
        kind = want.partition("=")[0]
        upload = desk.uploads.get(call.task)
        if upload is not None and not upload.fits(total, kind):
            await upload.give_up()
            desk.uploads.pop(call.task, None)
            raise Refused(409, "gap", "another payload was on its way", "send all of it")
        if upload is None:
            spares = desk.host.served.spares
            upload = desk.uploads[call.task] = Upload(desk.payloads, call.task, total, kind, spares)

        def moved() -> None:
            desk.touch(session.client)

        async with aclosing(call.blocks()) as blocks:
            whole = await upload.take(offset, want, blocks, moved)
        if not whole:
            await call.reply({"status": "partial", "offset": upload.size}, 202)
            return
        answer = await self._ask(desk, call, session, upload.data, total, upload.name)
        if answer.status in ("malformed", "over") and not answer.kept:
            desk.uploads.pop(call.task, None)
            upload.path.unlink(missing_ok=True)
        await self._tell(call, answer)

    async def fail(self, call: Call) -> None:
        """A client gives a task up, and says why."""
        desk, session = self._known(call)
        table = await call.table()
        reason = field(table, "reason", str)[:_REASON].splitlines() or ["no reason given"]
        trace = field(table, "traceback", str, "")[:_TRACE]
        work = desk.task_of(session.client)
        if work is not None and work.task.id == call.task:  # nobody fills the disk with others'
            desk.host.fail_note(session.client, call.task, reason[0], trace)
        log.warning("%s: task %d of %s failed: %s", call.run, call.task, session.client, reason[0])
        given = ex.Fail(call.task, session.client, reason[0])
        await self._tell(call, await desk.ask(lambda reply: Message(given, reply)))

    async def heartbeat(self, call: Call) -> None:
        """A client is alive, and learns whether to drop its task."""
        desk, session = self._known(call)
        await call.body(0)
        self._require_on(desk, session)
        work = desk.task_of(session.client)
        has = -1 if work is None else work.task.id
        last = desk.host.served.accepted.get(session.client, -1)
        revoked = has >= 0 and desk.is_revoked(has)
        await call.reply({"task": has, "revoked": revoked, "accepted": last})

    async def leave(self, call: Call) -> None:
        """A client goes."""
        desk, session = self._known(call)
        await call.body(0)
        await desk.leave(session.client)
        log.info("%s: %s left", call.run, session.client)
        await call.reply({"status": "left"})

    def _known(self, call: Call) -> tuple[Desk, Session]:
        """The run and the client of a request, which is a sign of life."""
        desk = self._hall.desk(call.run)
        session = desk.session(call.headers.get(SESSION, ""))
        allowed(call.principal, "pull", call.run, session.client)
        desk.touch(session.client)
        return desk, session

    def _mine(self, desk: Desk, session: Session, task: int) -> Work:
        self._require_on(desk, session)
        work = desk.task_of(session.client)
        if work is None or work.task.id != task:
            raise Refused(404, "task", f"task {task} is not in this client's hands", "pull again")
        return work

    def _require_on(self, desk: Desk, session: Session) -> None:
        if desk.status == "stopped":
            problem = f"run {desk.name!r} is stopped"
            raise Refused(503, "stopped", problem, "try again later", retry_after=1)
        if not desk.running:
            desk.told.add(session.client)
            desk.told_at = time.monotonic()
            raise Refused(410, "over", f"run {desk.name!r} is over: {desk.problem}")

    async def _ask(
        self, desk: Desk, call: Call, session: Session, raw: Raw, nbytes: int, file: str
    ) -> Answer:
        if not desk.running and desk.status != "stopped":
            return Answer("over", desk.problem)
        client, task = session.client, call.task
        return await desk.ask(lambda reply: Pushed(task, client, raw, nbytes, file, reply))

    async def _tell(self, call: Call, answer: Answer) -> None:
        if answer.status in ("malformed", "rejected"):
            raise Refused(422, answer.status, answer.problem)
        if answer.status == "stopped":
            raise Refused(503, "stopped", answer.problem, "try again later", retry_after=1)
        await call.reply({"status": answer.status, "problem": answer.problem})


def _described(volume: Volume, kind: str) -> Model:
    """Where a volume's model is; hashes it."""
    whole = "" if volume.changes is None else volume.digest(kind, model=True)
    text = volume.digest(kind)
    return Model(volume.version, volume.size, text, volume.number, volume.base, whole)


def _check(data: Raw, want: str) -> None:
    kind = want.partition("=")[0]
    if not kind:
        raise Refused(400, "digest", f"a payload comes with {DIGEST}: sha256=... (or xxh128=...)")
    if digest(data, kind) != want:
        raise Refused(422, "digest", f"the payload's digest is not {want:.80}", "send it again")


def _decoded(data: bytes, encoding: str, most: int) -> bytes:
    """A compressed body; never more than `most` bytes of it are made."""
    if encoding != "zstd":
        raise Refused(415, "encoding", f"{encoding!r:.40} is not read", "use zstd or none")
    try:
        import zstandard
    except ImportError:
        raise Refused(415, "encoding", "zstd is not installed here", "use none") from None
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data) as reader:
            found: bytes = reader.read(most + 1)
    except zstandard.ZstdError as error:
        raise Refused(400, "encoding", f"the body is not zstd: {error}") from None
    if len(found) > most:
        raise Refused(413, "too_large", f"decompressed, it has more than {most} bytes")
    return found
