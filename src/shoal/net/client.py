"""A client of a federation, for programs of one's own.

    with shoal.Client("http://localhost:7733") as client:
        for work in client:
            client.answer(work, train(work.model, work.task))

Everything that breaks on the way is tried again: the server counts an answer once.
"""

import json
import secrets
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from shoal import downlink, packing, wire
from shoal.errors import ModelError, ShoalError
from shoal.messages import Payload
from shoal.net.assigned import Stopped, Work
from shoal.net.link import (
    Backoff,
    Link,
    Reply,
    Signer,
    Unreachable,
    address,
    only_run,
    room,
    unsigned,
)
from shoal.net.protocol import (
    DIGEST,
    INLINE,
    SESSION,
    Model,
    Raw,
    Refused,
    fastest,
    hasher,
    split_work,
)
from shoal.tensors import Tensors

__all__ = ["Client", "Stopped", "Work"]
POLL = 25  # seconds that a pull asks to wait
ROOM = 16 << 20  # bytes of a model that may come with its task
START, OUTAGE = 5.0, 600.0  # seconds to try at first; and after a server that was there went away


class Client:
    """Joins a run when it is first used, and works for it.

    Args:
        url: of the server, with the run's name behind it if there are several.
        name: of this client, unique in the run; the machine's name if empty.
        context: TLS; None for the system's authorities.
        sign: gives the headers that say who asks.
        outage: seconds to keep trying while the server cannot be reached.

    Attributes:
        experiment: as TOML, once joined.
        run_id: of this very run, once joined.
        over: why the run is over, once it is.
    """

    def __init__(
        self,
        url: str,
        name: str = "",
        *,
        context: ssl.SSLContext | None = None,
        sign: Signer = unsigned,
        outage: float = OUTAGE,
    ) -> None:
        self.name = name or socket.gethostname()
        self._link = Link(url, context=context, sign=sign)
        self._pulse = Link(url, context=context, sign=sign)
        *_, self.run_name = address(url)
        self._outage, self._kind, self._room = outage, fastest(), ROOM
        self._headers: dict[str, str] = {}
        self._key = ""  # of the next session
        self._patience = 60.0
        self._work: Work | None = None
        self._held: tuple[int, Tensors] | None = None  # a model that later ones are changes of
        self._stopped, self._left = threading.Event(), False
        self._beat = threading.Thread(target=self._beating, name="shoal-heartbeat", daemon=True)
        self.experiment, self.run_id, self.over = "", "", ""

    def join(self) -> None:
        """Join the run, or join it again.

        Raises:
            Unreachable: if the server cannot be reached.
            Refused: if the server does not take this client.
        """
        first, self._key = not self._headers, secrets.token_hex(16)
        try:
            reply = self._try(self._join, START if first else self._outage)
        except Unreachable:
            if not self._link.reached:
                raise
            reply = self._try(self._join, self._outage)  # it is there, and what breaks will pass
        table = json.loads(reply.body)
        self._headers = {SESSION: table["session"]}
        self._patience, self.experiment = float(table["patience"]), str(table["experiment"])
        self.run_id = str(table["run_id"])
        self._link.timeout = self._pulse.timeout = max(1.0, self._patience)
        if first:
            self._beat.start()

    def pull(self) -> Work | None:
        """Wait for work; None once the run is over or the client is closed."""
        while not self._stopped.is_set():
            try:
                found = self._try(self._pull, self._outage)
            except Stopped:
                return None
            except Refused as refused:
                if refused.status != 410:
                    raise
                self.over = refused.problem
                return None
            if isinstance(found, Work):
                self._work = found
                return found
        return None

    def answer(self, work: Work, payload: Payload) -> str:
        """Send an answer: "accepted", "repeated" (it was before), or "over" (it came too late).

        Raises:
            Refused: if the server does not take the payload; says why.
        """
        pieces = packing.pieces(payload)
        try:
            reply = self._try(lambda: self._push(work.task.id, pieces), self._outage)
        except Refused as refused:
            if refused.status != 410:
                raise
            self.over = refused.problem
            return "over"
        finally:
            self._work = None
        return str(json.loads(reply.body)["status"])

    def fail(self, work: Work, error: BaseException | str) -> None:
        """Give work up, and tell the server why."""
        trace = ""
        if isinstance(error, BaseException):
            trace = "".join(traceback.format_exception(error))[-30_000:]
            error = f"{type(error).__name__}: {error}"
        body = json.dumps({"reason": error[:2000] or "no reason given", "traceback": trace})
        self._work = None
        path = self._path(f"tasks/{work.task.id}/fail")
        try:
            self._try(
                lambda: self._link.ask("POST", path, body=[body.encode()], headers=self._headers),
                self._outage,
            )
        except Refused as refused:
            if refused.status != 410:
                raise
            self.over = refused.problem

    def __iter__(self) -> Iterator[Work]:
        """Work, until the run is over; work that was not answered in between is given up."""
        while (work := self.pull()) is not None:
            yield work
            if self._work is work:
                self.fail(work, "the client went on without an answer")

    def run(self, train: Callable[[Work], Payload], failures: int = 10) -> str:
        """Work until the run is over; why it is. What `train` raises is told to the server.

        Args:
            train: does a task.
            failures: tasks in a row that may fail, at longer and longer intervals; 0 for any.

        Raises:
            GaveUp: if so many failed; says why the last one did.
        """
        from shoal.net.labor import labor

        return labor(self, train, failures=failures)

    def accepted(self) -> int:
        """The last of this client's tasks whose answer counts, as the server knows it; -1 if none.

        Raises:
            Refused: 410 if the run is over.
        """
        ask = partial(self._link.ask, "POST", self._path("heartbeat"))
        reply = self._try(lambda: ask(headers=self._headers), self._outage)
        return int(json.loads(reply.body)["accepted"])

    def rest(self, seconds: float) -> bool:
        """Wait, but not longer than the server's patience allows; whether the client is stopped."""
        return self._stopped.wait(min(seconds, self._patience / 4))

    def close(self) -> None:
        """Leave the run and close the connections."""
        self._stopped.set()
        if self._headers and not self._left:  # also once it is over: then it has heard
            self._left = True
            try:
                self._link.close()
                self._link.ask("POST", self._path("leave"), headers=self._headers, timeout=3.0)
            except ShoalError:
                pass  # it is gone, or does not know us: nothing to leave
        self._link.close()

    def stop(self) -> None:
        """Let `pull` give no more work; from any thread or a signal handler."""
        self._stopped.set()

    def __enter__(self) -> Self:
        self.join()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Requests

    def _path(self, rest: str) -> str:
        return f"runs/{quote(self.run_name, safe='')}/{rest}"

    def _try(self, call: Callable[[], Any], limit: float) -> Any:
        """Do something until it works; joins again where the server forgot this client."""
        backoff = Backoff(limit, self._stopped.wait)
        while True:
            try:
                return call()
            except Unreachable as error:
                backoff.wait(error)
            except Refused as refused:
                if refused.status in (429, 503, 507) or refused.retry_after:
                    backoff.wait(refused, refused.retry_after)
                elif refused.error == "session" and self._headers:
                    backoff.wait(refused)
                    self.join()
                elif refused.error in ("overtaken", "gap"):
                    backoff.wait(refused)
                else:
                    raise
            if self._stopped.is_set():
                raise Stopped("the client was stopped")

    def _join(self) -> Reply:
        if not self.run_name:
            self.run_name = only_run(self._link)
        try:
            return self._asked_to_join()
        except Refused as refused:
            if refused.error != "session":
                raise
            self._key = secrets.token_hex(16)  # the one before has ended already
            return self._asked_to_join()

    def _asked_to_join(self) -> Reply:
        body = json.dumps({"client": self.name, "session": self._key}).encode()
        return self._link.ask("POST", self._path("join"), body=[body])

    def _pull(self) -> Work | None:
        wait = max(1, int(min(POLL, self._patience / 3)))
        query: dict[str, str | int] = {"wait": wait, "digest": self._kind, "room": self._room}
        path, timeout = self._path("pull"), wait + max(1.0, self._patience / 2)
        ask = partial(self._link.ask, "POST", path, query=query, headers=self._headers)
        try:
            reply = ask(timeout=timeout, most=self._room + INLINE)
        except Unreachable:
            self._room = 0  # by range from now on, so that what came before a break is not lost
            raise
        if reply.status == 204:
            return None
        try:
            task, model, body = split_work(reply.body)
        except ModelError as error:
            raise Unreachable(f"the server's {error}") from error
        if not len(body):
            body = self._download(task.id, model.bytes)
        made = hasher(self._kind)
        made.update(body)
        if f"{self._kind}={made.hexdigest()}" != model.digest:
            raise Unreachable(f"the model of task {task.id} was damaged on its way")
        found = wire.load(body)[0] if model.base < 0 else self._followed(model, body)
        if found is None:
            self.join()  # whoever joins is given whole models
            return None
        if model.number >= 0:
            self._held = model.number, found
        return Work(task, found)

    def _followed(self, model: Model, body: memoryview) -> Tensors | None:
        """The model that changes lead to; None if they are not of the one that this client has."""
        if self._held is None or self._held[0] != model.base:
            return None
        found = downlink.follow(self._held[1], body)
        made = hasher(self._kind)
        for piece in wire.parts(found):
            made.update(piece)
        return found if f"{self._kind}={made.hexdigest()}" == model.whole else None

    def _download(self, task: int, size: int) -> memoryview:
        into, at = room(size), 0
        path = self._path(f"tasks/{task}/model")
        while at < size:
            fetch = partial(self._link.download, path, into, at)
            at = self._try(lambda: fetch(self._headers, self._patience), self._outage)  # noqa: B023
        return into

    def _push(self, task: int, pieces: list[bytes | memoryview]) -> Reply:
        path = self._path(f"tasks/{task}/push")
        made = hasher(self._kind)
        for piece in pieces:
            made.update(piece)
        headers = {**self._headers, DIGEST: f"{self._kind}={made.hexdigest()}"}
        size = sum(memoryview(piece).nbytes for piece in pieces)
        if size <= INLINE:
            body, encoding = _smaller(pieces)
            return self._link.ask("PUT", path, body=body, headers=headers | encoding)
        offset, again = 0, True
        while True:
            try:
                return self._link.ask(
                    "PUT",
                    path,
                    query={"offset": offset, "total": size},
                    body=_from(pieces, offset),
                    headers=headers,
                )
            except Refused as refused:
                if refused.error not in ("digest", "gap") or not again:
                    raise
                offset, again = 0, False  # what was there of another payload is gone now
            except Unreachable:
                offset = self._offset(path)

    def _offset(self, path: str) -> int:
        try:
            reply = self._try(
                lambda: self._link.ask("GET", path, headers=self._headers), self._outage
            )
        except Refused as refused:
            if refused.error != "task":
                raise
            return 0  # it was answered, or is over: the server will say so
        return int(json.loads(reply.body)["offset"])

    def _beating(self) -> None:
        """Say that this client lives while it works, and hear whether its work is still wanted."""
        while not self._stopped.wait(max(0.05, self._patience / 4)):
            work = self._work
            if work is None:
                continue
            try:
                reply = self._pulse.ask("POST", self._path("heartbeat"), headers=self._headers)
            except ShoalError:
                continue  # the thread that works will meet it, and try again
            table = json.loads(reply.body)
            if table["revoked"] and table["task"] == work.task.id:
                work.revoked.set()
        self._pulse.close()


def _smaller(pieces: list[bytes | memoryview]) -> tuple[list[Raw], dict[str, str]]:
    """The pieces as they are, or compressed if that saves a fifth and zstd is installed."""
    try:
        import zstandard
    except ImportError:
        return list(pieces), {}
    data = b"".join(pieces)
    if len(data) < 16 << 10:
        return [data], {}
    packer = zstandard.ZstdCompressor(level=1)
    if len(packer.compress(data[: 16 << 10])) > 13 << 10:
        return [data], {}
    return [packer.compress(data)], {"content-encoding": "zstd"}


def _from(pieces: list[bytes | memoryview], offset: int) -> list[Raw]:
    """The pieces behind an offset."""
    found: list[Raw] = []
    for piece in pieces:
        view = memoryview(piece).cast("B")
        if offset < len(view):
            found.append(view[offset:])
        offset = max(0, offset - len(view))
    return found
