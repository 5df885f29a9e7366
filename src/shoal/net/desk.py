"""A run as the loop sees it: who is there, who waits for work, what each has in hand.

Everything here runs on the loop's thread; only `deliver` is called from the run's.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shoal import exchange as ex
from shoal.journal import PAYLOADS
from shoal.messages import Record
from shoal.net.host import Host
from shoal.net.hosted import Answer, Item, Message, Outs, Work
from shoal.net.ledger import Ledger
from shoal.net.protocol import Refused
from shoal.net.served import Served
from shoal.net.uploads import Upload

RECENT = 4096  # records kept for those who watch


@dataclass(slots=True)
class Session:
    """A client that has joined; the id is its proof."""

    id: str
    client: str


class Desk:
    """The clients of one run.

    Args:
        name: of the run.
        served: the run, not started yet.
        ledger: where sessions are noted.
        clients: how many must be there before the run begins.
        patience: seconds without a sign of life after which a client has left.
        changed: called when the run's status changes.

    Attributes:
        status: "running", "stopped", "done" or "failed".
        problem: why it is over.
        ended: whether nothing more will happen; after the last evaluation.
        records: the newest, and `counted` of all so far.
    """

    def __init__(
        self,
        name: str,
        served: Served,
        ledger: Ledger,
        *,
        clients: int,
        patience: float,
        changed: Callable[["Desk"], None] = lambda desk: None,
    ) -> None:
        self.name, self.patience, self._ledger, self._changed = name, patience, ledger, changed
        self.toml, self.payloads = served.told, served.directory / PAYLOADS
        self.status, self.problem, self.ended = "running", "", False
        self.records: deque[Record] = deque(maxlen=RECENT)
        self.counted = 0
        self.uploads: dict[int, Upload] = {}
        self.told: set[str] = set()  # clients that were told that the run is over, and when last
        self.told_at = 0.0
        self._sessions: dict[str, Session] = {}
        self._by_client: dict[str, Session] = {}
        self._work: dict[str, Work] = {}
        self._revoked: set[int] = set()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._seen: dict[str, float] = {}
        self._replaced: deque[str] = deque(maxlen=1024)
        self._left: deque[str] = deque(maxlen=1024)
        self._watchers: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        for client, key in ledger.sessions(name).items():
            self._open(Session(key, client))
        self.host = Host(served, self._deliver, clients)

    @property
    def directory(self) -> Path:
        """Of the run."""
        return self.payloads.parent

    @property
    def clients(self) -> list[str]:
        """Who is there, sorted."""
        return sorted(self._seen)

    @property
    def running(self) -> bool:
        """Whether inputs are taken."""
        return self.status == "running"

    # Clients

    async def join(self, client: str, key: str = "") -> Session:
        """A client is there; it gets a session in place of the one that it may have had.

        Args:
            client: its name.
            key: the id that the session will have; "" for one made here. A join that comes twice,
                or late, brings the same one, and takes nobody's place.
        """
        session = self._sessions.get(key)
        if session is not None and session.client == client and client in self._seen:
            self.touch(client)
            return session
        if key and (session is not None or key in self._replaced):
            raise _replaced()
        if key in self._left:
            raise Refused(401, "session", "this session has ended", "join again")
        await self.ask(lambda reply: Message(ex.Join(client), reply))
        self._require_running()
        if key and (key in self._sessions or key in self._replaced):  # by the same one meanwhile
            return self.session(key)
        session = Session(key or secrets.token_hex(16), client)
        self._ledger.session(self.name, client, session.id)
        self._open(session)
        self._seen.setdefault(client, 0.0)
        self.touch(client)
        self._wake(client)
        return session

    async def leave(self, client: str) -> None:
        """A client is gone."""
        self._forget(client)
        if self.running:
            await self.ask(lambda reply: Message(ex.Leave(client), reply))

    def session(self, key: str) -> Session:
        """The session of an id.

        Raises:
            Refused: 401 if there is none, 409 if another one took its client's place.
        """
        session = self._sessions.get(key)
        if session is None and key in self._replaced:
            raise _replaced()
        if session is None:
            raise Refused(401, "session", "this session is not known", "join again")
        return session

    def touch(self, client: str) -> None:
        """A client gave a sign of life."""
        if client in self._seen:
            self._seen[client] = time.monotonic()

    def task_of(self, client: str) -> Work | None:
        """What a client has in hand."""
        return self._work.get(client)

    def is_revoked(self, task: int) -> bool:
        """Whether the client should drop a task."""
        return task in self._revoked

    async def pull(self, session: Session, have: int, seconds: float) -> Work | None:
        """Work for a client other than the task that it has; waits, None if there is none."""
        end = self._loop.time() + seconds
        while True:
            work = self._work.get(session.client)
            if work is not None and work.task.id != have:
                return work
            left = end - self._loop.time()
            if left <= 0 or not self.running or self._sessions.get(session.id) is not session:
                return None
            waiting = self._waiting.get(session.client)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)  # an older poll of the same client goes home
            future = self._waiting[session.client] = self._loop.create_future()
            timer = self._loop.call_later(left, _done, future)
            try:
                await future
            finally:
                timer.cancel()
                if self._waiting.get(session.client) is future:
                    del self._waiting[session.client]
            if self._waiting.get(session.client) is not None:
                return None

    async def ask(self, make: Callable[[Callable[[Answer], None]], Item]) -> Answer:
        """Give the run an input, and wait until it is durable and handled."""
        self._require_running()
        future: asyncio.Future[Answer] = self._loop.create_future()

        def reply(answer: Answer) -> None:
            if not future.done():  # who asked may be gone
                future.set_result(answer)

        self.host.put(make(reply))
        return await future

    def _require_running(self) -> None:
        if self.status == "stopped":
            problem = f"run {self.name!r} is stopped"
            raise Refused(503, "stopped", problem, "try again later", retry_after=1)
        if not self.running:
            raise Refused(410, "over", f"run {self.name!r} is over: {self.problem}")

    async def watch(self, seconds: float) -> None:
        """Wait until something happens, at most so long."""
        future: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(seconds, _done, future)
        self._watchers.append(future)
        await future
        timer.cancel()

    def reap(self) -> None:
        """Let those leave who gave no sign of life for longer than `patience`."""
        late = time.monotonic() - self.patience
        for client in [c for c, seen in self._seen.items() if seen < late]:
            waiting = self._waiting.get(client)
            if waiting is not None and not waiting.done():
                self.touch(client)  # it is connected, and waits for us
            elif self.running:
                self._forget(client)
                self.host.put(Message(ex.Leave(client)))

    def wake_all(self) -> None:
        """Send everybody home who waits."""
        for future in (*self._waiting.values(), *self._watchers):
            _done(future)
        self._watchers.clear()

    def _open(self, session: Session) -> None:
        before = self._by_client.get(session.client)
        if before is not None:
            self._sessions.pop(before.id, None)
            self._replaced.append(before.id)
        self._sessions[session.id] = self._by_client[session.client] = session

    def _forget(self, client: str) -> None:
        self._seen.pop(client, None)
        session = self._by_client.pop(client, None)
        if session is not None:
            self._sessions.pop(session.id, None)
            self._left.append(session.id)
            self._ledger.end(self.name, client)
        self._wake(client)

    def _wake(self, client: str) -> None:
        future = self._waiting.get(client)
        if future is not None:
            _done(future)

    # The run

    def _deliver(self, outs: Outs) -> None:
        """From the run's thread: let the loop take what a batch brought about."""
        # Once the loop is closed the server is gone, and nobody listens.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._take, outs)

    def _take(self, outs: Outs) -> None:
        for client, there in outs.present:
            if there:
                self._seen[client] = time.monotonic()
            elif client in self._seen:
                self._forget(client)
        for work in outs.work:
            self._work[work.task.client] = work
            self._wake(work.task.client)
        for task in outs.revoked:
            self._revoked.add(task.id)
        for client, number in outs.ended:
            self._done_with(client, number)
        for reply, answer in outs.replies:
            reply(answer)
        self.records.extend(outs.records)
        self.counted += len(outs.records)
        if outs.over is not None:
            # Between the stop and the last evaluation the run is over for clients only.
            self.status = "done" if outs.status == "running" else outs.status
            self.problem = outs.over
            self.wake_all()
            if outs.status != "running":
                self.ended = True
                self._changed(self)
        if self._watchers and outs.records:
            watchers, self._watchers = self._watchers, []
            for future in watchers:
                _done(future)

    def _done_with(self, client: str, task: int) -> None:
        work = self._work.get(client)
        if work is not None and work.task.id == task:
            del self._work[client]
        self._revoked.discard(task)
        upload = self.uploads.pop(task, None)
        if upload is not None:
            upload.drop()


def _replaced() -> Refused:
    problem = "another client joined under the same name"
    return Refused(409, "replaced", problem, "give each client a name of its own")


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
