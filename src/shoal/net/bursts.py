"""Large bodies read by whoever writes them on: in one thread, for as long as they come without a
pause, through one block of memory that stays in the processor's cache. The loop only waits.

For plain sockets; what comes over TLS goes through `inflow`.
"""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterator

from shoal.net.calls import Gone

BLOCK = 1 << 20  # bytes: fits the processor's cache, so that writing it on does not wait for it
LEAST = 256 << 10  # bytes that are worth to be written on before more come
MOST = 8 << 20  # bytes of a burst, so that others get a thread as well
PAUSE = 1  # milliseconds without a byte that end a burst
_SPARE = 16  # blocks kept for the next body
_spare: list[bytearray] = []


def plain(transport: asyncio.Transport) -> bool:
    """Whether the bytes of a transport's socket are those that it brings."""
    tls = transport.get_extra_info("ssl_object") is not None
    return not tls and hasattr(select, "poll") and transport.get_extra_info("socket") is not None


class Bursts:
    """The rest of a request's body.

    Args:
        transport: that it comes from, paused; it stays so.
        first: what the parser has read of it already.
        left: bytes that follow.
        ended: called on the loop once nothing more is read here: whether the connection is gone,
            and how many bytes did not come.
    """

    def __init__(
        self, transport: asyncio.Transport, first: bytes, left: int,
        ended: Callable[[bool, int], None],
    ) -> None:  # fmt: skip
        self._first, self.left, self._ended = first, left, ended
        # A descriptor of its own, as the loop takes care of the transport's.
        of = transport.get_extra_info("socket")
        self._socket = socket.socket(of.family, of.type, of.proto, os.dup(of.fileno()))
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._gone = self._dry = False
        self.held = False  # whether it is this side that waits
        self._wake: asyncio.Future[None] | None = None

    async def blocks(self) -> AsyncIterator[Iterator[memoryview]]:
        """What has come, as it comes; see `Call.blocks`.

        Raises:
            Gone: if the connection breaks; what came before was given out.
        """
        try:
            while self.left and not self._gone:
                if self._dry:
                    await self._readable()
                self.held = True
                yield self._burst()
                self.held = False
            if self.left:
                raise Gone
        finally:
            self.held = False
            self._socket.close()
            self._ended(self._gone, self.left)

    def cut(self) -> None:
        """The connection is gone; from the loop."""
        self._gone = True
        self._stir()

    def _burst(self) -> Iterator[memoryview]:
        """In a thread: what comes without a pause."""
        block = _spare.pop() if _spare else bytearray(BLOCK)
        view, room = memoryview(block), MOST
        self._dry = False
        if self._first:
            first, self._first = self._first, b""
            yield memoryview(first)
        while room > 0 and (have := self._filled(view[: self.left])):
            self.left -= have
            room -= have
            yield view[:have]
        if len(_spare) < _SPARE:
            _spare.append(block)

    def _filled(self, view: memoryview) -> int:
        """Read until a block is full, or nothing more comes; the bytes that came."""
        have = 0
        while have < len(view) and not self._gone:
            try:
                count = self._socket.recv_into(view[have:])
            except BlockingIOError:
                if have >= LEAST:
                    break
                if not self._poll.poll(PAUSE):
                    self._dry = True
                    break
            except OSError:
                self._gone = True
            else:
                have += count
                self._gone = not count
        return have

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        loop.add_reader(self._socket, self._stir)
        try:
            await self._wake
        finally:
            loop.remove_reader(self._socket)

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
