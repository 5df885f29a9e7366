"""Large bodies on their way in, past the HTTP parser.

Once a request's head is read and its body is known to be long, the socket is read straight into a
few blocks of memory that are used again and again: no copy, no object and no callback a packet.
Whoever takes the blocks may write one batch to disk while the loop reads the next.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from shoal.errors import MissingExtra
from shoal.net.bursts import Bursts, plain
from shoal.net.calls import BODY, Gone

try:
    import httptools
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
except ImportError as error:
    raise MissingExtra("uvicorn", "server") from error

HEAD = 64 << 10  # bytes of a request's first line and headers
BLOCK = 256 << 10  # bytes: fits the processor's cache, so that writing it on does not wait for it
AHEAD = 8  # blocks that wait at most for whoever takes them
_SPARE = 64  # blocks kept for the next body
_spare: list[bytearray] = []


class Inflow(asyncio.BufferedProtocol):
    """The rest of a request's body; a protocol for as long as it comes.

    Args:
        transport: that it comes from, paused.
        first: what the parser has read of it already.
        left: bytes that follow.
        back: the protocol that takes over behind the body.
        ended: called behind the body's last byte, with reading paused.
    """

    def __init__(
        self, transport: asyncio.Transport, first: bytes, left: int, back: asyncio.Protocol,
        ended: Callable[[], None],
    ) -> None:  # fmt: skip
        self._transport, self._left, self._back, self._ended = transport, left, back, ended
        self._first, self._block, self._filled = first, bytearray(), 0
        self._full: list[memoryview] = []
        self._gone = self._dropped = self._paused = False
        self._wake: asyncio.Future[None] | None = None
        transport.set_protocol(self)
        transport.resume_reading()

    async def blocks(self) -> AsyncIterator[list[memoryview]]:
        """What has come, as it comes; valid until the next is asked for.

        Raises:
            Gone: if the connection breaks; what came before was given out.
        """
        try:
            if self._first:
                yield [memoryview(self._first)]
            while True:
                if not self._full and self._left and not self._gone:
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
                if self._gone or not self._left:
                    self._put()
                taken, self._full = self._full, []
                if taken:
                    self._resume()
                    yield taken
                    _give_back(taken)
                elif self._gone:
                    raise Gone
                elif not self._left:
                    return
        finally:
            self.drop()

    @property
    def left(self) -> int:
        """Bytes that follow."""
        return self._left

    @property
    def held(self) -> bool:
        """Whether it is this side that waits."""
        return self._paused

    # As a protocol

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: never beyond the body."""
        if not self._block:
            self._block, self._filled = _spare.pop() if _spare else bytearray(BLOCK), 0
        return memoryview(self._block)[self._filled : min(BLOCK, self._filled + self._left)]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        self._filled += nbytes
        self._left -= nbytes
        if self._dropped:
            self._filled = 0
        elif self._filled == BLOCK:
            self._put()
            if len(self._full) >= AHEAD and self._left:
                self._paused = True
                self._transport.pause_reading()
        if not self._left:
            self._ended()
            self._transport.set_protocol(self._back)
        if self._full or not self._left:
            self._stir()

    def eof_received(self) -> bool | None:
        """The other side sends no more."""
        return self._back.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._gone = True
        self._back.connection_lost(exc)
        self._stir()

    def pause_writing(self) -> None:
        """The other side is slow to read."""
        self._back.pause_writing()

    def resume_writing(self) -> None:
        """It has read."""
        self._back.resume_writing()

    def _put(self) -> None:
        """What was read of a block is ready to be taken."""
        if self._filled:
            self._full.append(memoryview(self._block)[: self._filled])
            self._block, self._filled = bytearray(), 0

    def _resume(self) -> None:
        if self._paused and not self._gone:
            self._paused = False
            self._transport.resume_reading()

    def drop(self) -> None:
        """Nobody takes the blocks any more: what still comes is read and forgotten."""
        self._dropped = True
        _give_back(self._full)
        self._full, self._filled = [], 0
        self._resume()

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def _give_back(blocks: list[memoryview]) -> None:
    for view in blocks:
        block = view.obj
        view.release()
        if len(_spare) < _SPARE and isinstance(block, bytearray):
            _spare.append(block)


class Http(HttpToolsProtocol):
    """HTTP/1.1: large bodies past the parser, the client's certificate in the scope.

    What a request may keep waiting is bounded: the size of its head, and the time without a byte.
    """

    _headed = False  # whether the head of the request that comes is here
    _head = 0  # bytes of a head that is not
    _since = 0.0  # when the head began, or a byte of the body came; 0 if nothing is awaited
    _body: Inflow | Bursts | None = None
    _left = 0  # bytes that it lacked when it was looked at last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody dialed in."""
        super().connection_made(transport)
        self._since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if isinstance(self._body, Bursts):
            self._body.cut()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._headed or not self._since:
            self._since = self.loop.time()
        self._head += len(data)
        super().data_received(data)
        if not self._headed and self._head > HEAD:
            self.send_400_response("The head of a request has at most 64 KiB.")

    def on_message_complete(self) -> None:
        """A request is here."""
        super().on_message_complete()
        self._rest()

    def stalled(self, now: float, patience: float) -> bool:
        """Whether a request has begun to come, and does not go on."""
        if self._body is not None and (self._body.held or self._body.left != self._left):
            self._left, self._since = self._body.left, now
        return bool(self._since) and now - self._since > patience

    def _rest(self) -> None:
        self._headed, self._head, self._since, self._body = False, 0, 0.0, None

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        tls = self.transport.get_extra_info("ssl_object")
        if tls is not None:
            from shoal.net.tls import subject

            self.scope["state"] = {"certificate": subject(tls.getpeercert())}

    def on_headers_complete(self) -> None:
        """A request's head is here."""
        self._headed, self._head, self._since = True, 0, self.loop.time()
        super().on_headers_complete()
        cycle = self.cycle

        def body(length: int) -> AsyncIterator[Iterable[memoryview]] | None:
            return self._inflow(cycle, length)

        self.scope["extensions"] = {BODY: body}  # type: ignore[dict-item]

    def _inflow(
        self, cycle: RequestResponseCycle, length: int
    ) -> AsyncIterator[Iterable[memoryview]] | None:
        """The body of so many bytes in blocks; None where the parser has it, or most of it."""
        left = length - len(cycle.body)
        if cycle is not self.cycle or not cycle.more_body or cycle.disconnected or left < BLOCK:
            return None
        if cycle.waiting_for_100_continue:
            cycle.waiting_for_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        first, cycle.body = bytes(cycle.body), bytearray()
        self.flow.pause_reading()

        def whole() -> None:
            # The parser still waits for the body, so another one goes on behind it.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            cycle.more_body = False
            cycle.message_event.set()
            self.transport.pause_reading()
            self._rest()
            if cycle.response_complete:
                self.flow.resume_reading()

        def ended(gone: bool, left: int) -> None:
            if not left:
                whole()
            elif not gone:  # nobody takes the rest
                self._body = Inflow(self.transport, b"", left, self, whole)
                self._body.drop()
            elif not self.transport.is_closing():
                self.transport.resume_reading()  # and see that it is gone

        if plain(self.transport):
            self._body = Bursts(self.transport, first, left, ended)
        else:
            self._body = Inflow(self.transport, first, left, self, whole)
        return self._body.blocks()
