"""One request and its answer, over ASGI."""

import asyncio
import contextlib
import json
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from shoal.net.access import Principal
from shoal.net.protocol import CHUNK, JSON_TYPE, MAX_TEXT, Hash, Raw, Refused, hasher

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
SIGNED = "x-shoal-digest"  # of the body as sent, as `signing` has it
BODY = "shoal.body"  # the extension of ASGI that brings a large body in blocks, see `inflow`
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class Gone(Exception):
    """The other side closed the connection: nobody waits for an answer."""


@dataclass(slots=True)
class Call:
    """A request.

    Attributes:
        principal: who asks, once the gate let it pass.
        run, task: as the path names them; "" and -1 where it does not.
        headers: by lower-case name.
        query: by name.
        status: of the answer, once it began.
    """

    scope: Scope
    receive: Receive
    send: Send
    principal: Principal
    headers: Mapping[str, str]
    run: str = ""
    task: int = -1
    status: int = 0
    query: Mapping[str, str] = field(default_factory=dict)

    def parse(self) -> None:
        """Take the query apart.

        Raises:
            Refused: 400 if it has too many fields.
        """
        text = self.scope["query_string"].decode("latin-1")
        if not text:
            return
        try:
            self.query = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=32))
        except ValueError as error:
            raise Refused(400, "malformed", f"the query cannot be read: {error}") from None

    # What is asked

    @property
    def length(self) -> int:
        """The announced length of the body.

        Raises:
            Refused: 411 if there is none.
        """
        text = self.headers.get("content-length", "")
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            raise Refused(
                411, "length", "the body's length is not announced", "send Content-Length"
            )
        return int(text)

    def number(self, name: str, default: int) -> int:
        """A whole number of the query.

        Raises:
            Refused: 400 if it is none.
        """
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            raise Refused(400, "malformed", f"{name} is {text!r:.40}, not a whole number")
        return int(text)

    async def blocks(self) -> AsyncGenerator[Iterable[Raw], None]:
        """A body of any size as it comes; what is signed for is checked at its end.

        What is given out is to be gone through once, by any thread, before the next is asked for;
        a piece of it is valid until its next one. Close it if it is left early.

        Raises:
            Gone: if the connection breaks.
            Refused: 400 if the body is not the one that was signed for.
        """
        want = self.headers.get(SIGNED, "")
        made = hasher("sha256") if want else None
        past = self.scope.get("extensions", {}).get(BODY)
        known = past is not None and "transfer-encoding" not in self.headers
        direct = past(self.length) if known else None
        async with aclosing(direct or self._gathered()) as found:
            async for some in found:
                yield some if made is None else _fed(made, some)
        if made is not None:
            self._check_signed(made, want)

    async def _gathered(self) -> AsyncGenerator[Sequence[Raw], None]:
        """What the parser brings, a `CHUNK` or more at once."""
        pending: list[Raw] = []
        waiting = 0
        async for chunk in self._chunks():
            pending.append(chunk)
            waiting += len(chunk)
            if waiting >= CHUNK:
                yield pending
                pending, waiting = [], 0
        yield pending

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Gone
            chunk: bytes = message.get("body", b"")
            if chunk:
                yield chunk
            if not message.get("more_body"):
                return

    def _check_signed(self, made: Hash, want: str) -> None:
        if f"sha256:{made.hexdigest()}" != want:
            raise Refused(
                400, "digest", f"the body is not the one that {SIGNED} is of", "send again"
            )

    async def body(self, most: int) -> bytes:
        """The whole body.

        Raises:
            Refused: 413 if it has more than `most` bytes.
        """
        if "content-length" in self.headers and self.length > most:
            raise _too_large(self.length, most)
        found: list[bytes] = []
        size = 0
        async for chunk in self._chunks():
            size += len(chunk)
            if size > most:
                raise _too_large(size, most)
            found.append(chunk)
        data = found[0] if len(found) == 1 else b"".join(found)
        if want := self.headers.get(SIGNED, ""):
            made = hasher("sha256")
            made.update(data)
            self._check_signed(made, want)
        return data

    async def table(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            Refused: 400 if it is none.
        """
        data = await self.body(MAX_TEXT)
        try:
            found = json.loads(data or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refused(400, "malformed", f"the body is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise Refused(400, "malformed", "the body is not a JSON object")
        return found

    def range(self, size: int) -> tuple[int, int]:
        """The bytes asked for, of so many: from and to.

        Raises:
            Refused: 416 if there are no such bytes.
        """
        text = self.headers.get("range")
        if text is None:
            return 0, size
        found = _RANGE.fullmatch(text)
        start = int(found[1]) if found else size
        stop = int(found[2]) + 1 if found and found[2] else size
        if not start < min(stop, size):
            raise Refused(416, "range", f"{text!r:.60} of {size} bytes", "ask for bytes=N-")
        return start, min(stop, size)

    # The answer

    async def reply(
        self, table: Any, status: int = 200, extra: Mapping[str, str] = {}, linger: float = 0.0
    ) -> None:
        """Answer with JSON; see `whole`."""
        await self.whole(json.dumps(table).encode(), status, JSON_TYPE, extra, linger)

    async def whole(
        self, body: Raw, status: int, kind: str, extra: Mapping[str, str] = {}, linger: float = 0.0
    ) -> None:
        """Answer with a body.

        Args:
            linger: seconds to read what the client still sends, before the connection closes: one
                that is closed on unread bytes may take the answer with it.
        """
        await self._begin(status, len(body), kind, extra)
        if linger:
            await self.send({"type": "http.response.body", "body": body, "more_body": True})
            with contextlib.suppress(TimeoutError, Gone):
                async with asyncio.timeout(linger):
                    async for _ in self._chunks():
                        pass
            body = b""
        await self.send({"type": "http.response.body", "body": body})

    async def nothing(self) -> None:
        """Answer 204: nothing for now."""
        self.status = 204
        await self.send({"type": "http.response.start", "status": 204, "headers": []})
        await self.send({"type": "http.response.body", "body": b""})

    async def stream(
        self, pieces: Iterable[memoryview], size: int, status: int, kind: str,
        extra: Mapping[str, str], moved: Callable[[], None],
    ) -> None:  # fmt: skip
        """Answer with pieces of memory; `moved` is called after each."""
        await self._begin(status, size, kind, extra)
        for piece in pieces:
            await self.send({"type": "http.response.body", "body": piece, "more_body": True})
            moved()
        await self.send({"type": "http.response.body", "body": b""})

    async def _begin(self, status: int, size: int, kind: str, extra: Mapping[str, str]) -> None:
        self.status = status
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % size)]
        headers += [(name.encode(), value.encode("latin-1")) for name, value in extra.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})


def _fed(made: Hash, data: Iterable[Raw]) -> Iterator[Raw]:
    for piece in data:
        made.update(piece)
        yield piece


def _too_large(size: int, most: int) -> Refused:
    return Refused(413, "too_large", f"{size} bytes where at most {most} are taken")
