"""What breaks in the trials of `network_trials.py`: a server that kills itself, and a proxy."""

import asyncio
import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.experiment import from_toml
from shoal.seeds import rng

PATIENCE = 10.0  # seconds
FULL = 3.0  # seconds for which a disk is full; clients wait for as long


@dataclass
class Plan:
    """What a server process does to itself.

    Attributes:
        kill: the step at which it dies; 0 for never.
        full: the step from which on the disk is full for a while; 0 for never.
        clock: whether the wall clock jumps.
        tls: its certificate and key, without their endings; "" for plain HTTP.
        expired: whether the certificate has expired.
    """

    kill: int = 0
    full: int = 0
    clock: bool = False
    tls: str = ""
    expired: bool = False

    @property
    def broken(self) -> bool:
        """Whether anything goes wrong by this plan."""
        return bool(self.kill or self.full or self.clock or self.expired)


# The server's process


def server_main(store: str, port: int, toml: str, plan: Plan, clients: int) -> None:
    """Serve until the run is over, or the plan says otherwise."""
    from shoal.net.server import Server, Serving
    from shoal.net.tls import server_context

    os.setpgrp()
    _sabotage(plan)
    serving = Serving(port=port, store=store, clients=clients, patience=PATIENCE)
    context = server_context(Path(f"{plan.tls}.pem"), Path(f"{plan.tls}.key")) if plan.tls else None

    async def main() -> None:
        server = Server(serving, context=context)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        await server.serve([("faults", from_toml(toml, "faults"))], lambda url, hall: None)

    asyncio.run(main())


def _sabotage(plan: Plan) -> None:
    """Count the steps to disk and back, and break what the plan says."""
    from shoal import checkpoint, journal
    from shoal.net import desk, ledger, served, uploads

    steps, free = 0, 0.0
    write = os.write

    def step() -> bool:
        nonlocal steps
        steps += 1
        return steps == plan.kill

    def filled() -> bool:
        nonlocal free
        free = free or time.monotonic() + FULL
        return time.monotonic() < free

    def torn(file: int, data: Any) -> int:
        if plan.full and steps >= plan.full and filled():
            write(file, bytes(data[: len(data) // 2]))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if step():
            write(file, bytes(data[: len(data) // 2]))
            die()
        return write(file, data)

    def around(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def hooked(*args: Any, **named: Any) -> Any:
            if step():
                die()
            found = inner(*args, **named)
            if step():
                die()
            return found

        setattr(owner, name, hooked)

    for module in (journal, uploads):
        module.os = _Os(torn)  # type: ignore[attr-defined]
    for owner, name in (
        (served.Served, "handle"), (served.Served, "sync"), (served.Served, "finish"),
        (checkpoint, "save"), (journal.Journal, "rotate"), (uploads.Upload, "_settle"),
        (uploads.Upload, "_open"), (ledger.Ledger, "session"), (ledger.Ledger, "mark"),
        (desk.Desk, "_take"),
    ):  # fmt: skip
        around(owner, name)
    if plan.clock:
        real = time.time
        jumps = rng(1, "clock")
        time.time = lambda: real() + float(jumps.choice([-90000.0, 0.0, 3600.0]))


class _Os:
    """The module `os`, with another `write`."""

    def __init__(self, write: Callable[[int, Any], int]) -> None:
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


# The proxy


class Proxy:
    """Forwards whole requests, and breaks some of them.

    Args:
        port: of the server behind it.
        seed: of what breaks.
        rate: of requests that something happens to.

    Attributes:
        port: where it listens.
        faults: what it did.
    """

    def __init__(self, port: int, seed: int, rate: float) -> None:
        self._behind, self._rate = port, rate
        self._draws = rng(seed, "proxy")
        self.faults: list[str] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        self._ready.wait(5)

    def close(self) -> None:
        """Cut all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 16)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        while cut := asyncio.all_tasks(self._loop):
            for task in cut:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*cut, return_exceptions=True))

    async def _serve(self, reader: Any, writer: Any) -> None:
        behind: Any = None
        try:
            while True:
                request = await _message(reader)
                if behind is None:
                    behind = await asyncio.open_connection("127.0.0.1", self._behind)
                fault = self._fault()
                if fault == "delay":
                    await asyncio.sleep(float(self._draws.random()) * 0.2)
                if fault == "cut before":
                    return
                if fault == "cut within":
                    behind[1].write(request[: int(self._draws.integers(1, len(request)))])
                    await behind[1].drain()
                    return
                if fault in ("twice", "again later"):
                    wait = 0.0 if fault == "twice" else float(self._draws.random()) * 0.5
                    asyncio.get_running_loop().create_task(self._repeat(request, wait))
                behind[1].write(request)
                await behind[1].drain()
                reply = await _message(behind[0])
                if fault == "cut answer":
                    writer.write(reply[: len(reply) // 2])
                    return
                writer.write(reply)
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            if behind is not None:
                behind[1].close()

    def _fault(self) -> str:
        if self._draws.random() >= self._rate:
            return ""
        kinds = ("delay", "cut before", "cut within", "cut answer", "twice", "again later")
        self.faults.append(str(self._draws.choice(kinds)))
        return self.faults[-1]

    async def _repeat(self, request: bytes, wait: float) -> None:
        await asyncio.sleep(wait)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._behind)
            writer.write(request)
            await asyncio.wait_for(_message(reader), 2.0)
            writer.close()
        except (OSError, EOFError, TimeoutError):
            pass


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP message with a Content-Length, or without a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return head + await reader.readexactly(int(value))
    return head
