"""The server: sockets, signals, and the runs behind them."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, MissingExtra, positive
from shoal.experiment import Experiment
from shoal.net.access import Gate, Open, check_binding
from shoal.net.app import App, Routes
from shoal.net.clients import Clients
from shoal.net.desk import Desk
from shoal.net.hall import Hall
from shoal.net.inflow import Http
from shoal.net.limits import Limits, Quota
from shoal.net.operators import Operators
from shoal.tracking import Sink

try:
    import uvicorn
except ImportError as error:
    raise MissingExtra("uvicorn", "server") from error

AGAIN = 3.0  # seconds after which a client whose answer was lost has asked again
LINGER = 5.0  # seconds in which clients may still hear that all runs are over
log = logging.getLogger("shoal.net")


@dataclass(frozen=True)
class Serving:
    """How a server listens.

    Attributes:
        host: address to listen on; without a certificate, loopback only.
        port: 0 for any that is free.
        store: directory for the runs, the server's book and whatever it must not forget.
        clients: how many must be there before a run begins.
        patience: seconds without a sign of life (a poll, a heartbeat, bytes that move) after which
            a client has left.
        certificate, key: PEM files for TLS.
        authority: PEM file of the CA whose client certificates are verified; "" for none.
        trust: packages and files that submitted experiments may name beside the dictionaries.
        stay: go on listening once all runs are over.
        flower: directory of a Flower app; SuperNodes may then take part and run it.
        quota: what each run may take; see `limits`.
        limits: what each client may ask, of a server with a certificate.
        log: "text" for people, "json" for programs.
        traces: the OpenTelemetry exporter to send traces with; "" for none.
    """

    host: str = "127.0.0.1"
    port: int = 7733
    store: str = "served"
    clients: int = 1
    patience: float = 60.0
    certificate: str = ""
    key: str = ""
    authority: str = ""
    trust: tuple[str, ...] = ()
    stay: bool = False
    flower: str = ""
    quota: Quota = field(default_factory=Quota)
    limits: Limits = field(default_factory=Limits)
    log: str = "text"
    traces: str = ""

    def __post_init__(self) -> None:
        """Check the fields."""
        positive("serving.clients", self.clients)
        positive("serving.patience", self.patience)
        if not 0 <= self.port < 65536:
            raise ConfigError("serving.port", f"{self.port} is not in 0 .. 65535")
        if bool(self.certificate) != bool(self.key):
            raise ConfigError("serving.key", "a certificate and its key come together")
        if self.log not in ("text", "json"):
            raise ConfigError("serving.log", f"must be text or json, got {self.log!r}")
        check_binding(self.host, self.certificate)


@dataclass(frozen=True)
class Ended:
    """How a run ended: "done", "stopped" or "failed", and what broke, if something did."""

    name: str
    path: Path
    status: str
    problem: str


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the business of who runs the server."""
        yield


class Server:
    """Runs behind a port.

    Args:
        serving: where and how.
        gate: who may ask what.
        routes: further endpoints, made for the hall, e.g. for health and metrics.
        context: TLS; None for plain HTTP.
        sinks: makes further places for the records of a run.
        observe: told of every answered request: method, path, status, run.
        tend: called at least once a second, e.g. to look after the certificate.
    """

    def __init__(
        self,
        serving: Serving,
        *,
        gate: Gate = Open(),
        routes: Callable[[Hall], Routes] = lambda hall: {},
        context: ssl.SSLContext | None = None,
        sinks: Callable[[Experiment, Path], Sequence[Sink]] = lambda experiment, path: (),
        observe: Callable[[str, str, int, str], None] = lambda method, path, status, run: None,
        tend: Callable[[], None] = lambda: None,
    ) -> None:
        self._tend = tend
        self.serving, self._gate, self._routes, self._context = serving, gate, routes, context
        self._sinks, self._observe = sinks, observe
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Save all runs and end; from the loop's thread."""
        self._stop.set()

    async def serve(
        self, experiments: Sequence[tuple[str, Experiment]], ready: Callable[[str, Hall], None]
    ) -> list[Ended]:
        """Serve runs until they are over (or `stop` is called); how each ended.

        Args:
            experiments: by name; none for those of the store that were running.
            ready: told the URL once requests are answered.

        Raises:
            ConfigError: for a port in use, a store that another server holds, or an experiment
                that cannot be served.
        """
        serving = self.serving
        listening = bound(serving.host, serving.port)
        try:
            hall = Hall(
                Path(serving.store), clients=serving.clients, patience=serving.patience,
                trust=serving.trust, sinks=self._sinks, quota=serving.quota,
            )  # fmt: skip
        except BaseException:
            listening.close()
            raise
        uvicorn_server = _Uvicorn(self._config(hall))
        running: asyncio.Task[None] | None = None
        connections = uvicorn_server.server_state.connections
        sweeping = asyncio.create_task(_sweep(connections, serving.patience))
        try:
            names = await _opened(hall, experiments)
            running = asyncio.create_task(uvicorn_server.serve(sockets=[listening]))
            scheme = "https" if self._context else "http"
            host, port = listening.getsockname()[:2]
            ready(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", hall)
            await self._until_over(hall, names, running)
            ended = [_ended(hall.desks[name]) for name in names]
        finally:
            sweeping.cancel()
            await hall.close()
            if running is not None:
                uvicorn_server.should_exit = True
                await running
            listening.close()
        return ended

    def _config(self, hall: Hall) -> uvicorn.Config:
        routes = {**Clients(hall).routes, **Operators(hall).routes, **self._routes(hall)}
        config = uvicorn.Config(
            App(routes, self._gate, self._observe), http=Http, ws="none", lifespan="off",
            log_config=None, access_log=False, server_header=False, date_header=False,
            timeout_keep_alive=max(75, int(2 * self.serving.patience)), backlog=4096,
            timeout_graceful_shutdown=3,
        )  # fmt: skip
        config.load()
        config.ssl = self._context
        return config

    async def _until_over(
        self, hall: Hall, names: Sequence[str], running: "asyncio.Task[None]"
    ) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        pause = min(1.0, self.serving.patience / 4)
        try:
            while not self._stop.is_set() and not running.done():
                changed = asyncio.create_task(hall.changed.wait())
                await asyncio.wait(
                    {stopping, running, changed}, timeout=pause, return_when="FIRST_COMPLETED"
                )
                changed.cancel()
                hall.changed.clear()
                self._tend()
                for desk in hall.desks.values():
                    desk.reap()
                if not self.serving.stay and names and all(_over(hall.desks[n]) for n in names):
                    await _told([hall.desks[name] for name in names])
                    return
        finally:
            stopping.cancel()


async def _opened(hall: Hall, experiments: Sequence[tuple[str, Experiment]]) -> list[str]:
    for name, experiment in experiments:
        await hall.open(experiment, name)
    names = [name for name, _ in experiments]
    for row in hall.ledger.runs():
        if row.name not in names and row.status == "running":
            await hall.resume(row.name)
    return names


async def _sweep(connections: Collection[Any], patience: float) -> None:
    """Hang up on whoever begins a request and does not go on with it."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(patience / 4)
        now = loop.time()
        for connection in list(connections):
            if connection.stalled(now, patience):
                connection.transport.abort()


def _over(desk: Desk) -> bool:
    return not desk.running and desk.ended


async def _told(desks: Sequence[Desk]) -> None:
    """Wait until the clients have heard that all is over, but not for those who are gone."""
    end = asyncio.get_running_loop().time() + LINGER
    while asyncio.get_running_loop().time() < end:
        if all(map(_heard, desks)):
            return
        await asyncio.sleep(0.02)


def _heard(desk: Desk) -> bool:
    """Whether clients know that a run is over: they left, or did not ask again for a while."""
    quiet = time.monotonic() - desk.told_at > AGAIN
    here = set(desk.clients)
    return desk.status == "stopped" or not here or (here <= desk.told and quiet)


def _ended(desk: Desk) -> Ended:
    status = "stopped" if desk.running else desk.status
    problem = "" if desk.host.error is None else desk.problem
    return Ended(desk.name, desk.directory, status, problem)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: if the port is in use, or the address is none of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=4096)
    except OSError as error:
        problem = f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        raise ConfigError("port", problem) from error


def many_files() -> None:
    """Let this process hold as many connections as the system allows it."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
