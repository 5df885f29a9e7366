"""`shoal join`: this machine as a client of served runs."""

import argparse
import signal
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from shoal.commands.serve import settled
from shoal.commands.trouble import tell
from shoal.errors import ConfigError, DataError

EVERY = "*"  # of `--run`: no name of a run has this form
Turn = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Joining:
    """How a client dials in.

    Attributes:
        ca: PEM file of the only authority to trust; the system's if empty.
        certificate, key: PEM files for mutual TLS.
        token: for enrolment, as the operator gave it.
        secret: file with this client's key; made by enrolment.
        outage: seconds to keep trying while the server cannot be reached.
        failures: tasks in a row that may fail before the client gives up; 0 for any number.
        node_config: what a Flower app sees of its node, as for `flower-supernode`.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    token: str = ""
    secret: str = ""
    outage: float = 600.0
    failures: int = 10
    node_config: str = ""


def join(chosen: argparse.Namespace) -> int:
    """Work for one run, or for several in turn, until they are over."""
    from shoal.net.turns import Turns

    how: Joining = settled(Joining(), chosen.settings)
    clients = _clients(chosen, how)

    def stop(number: int, frame: FrameType | None) -> None:
        if all(client.rest(0.0) for client in clients):  # asked before: now at once
            raise KeyboardInterrupt
        for client in clients:
            client.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    failures: list[BaseException] = []
    turns, several = Turns(), len(clients) > 1

    def work(number: int, client: Any) -> None:
        turn: Turn = partial(turns.take, str(number)) if several else nullcontext
        try:
            _work(client, turn, chosen, how)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            failures.append(error)
            if several:
                tell(error, chosen.verbose, f"{client.run_name}: ")

    threads = [
        threading.Thread(target=work, args=given, daemon=True) for given in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)  # so that signals are seen
    if failures and len(clients) == 1:
        raise failures[0]
    return 2 if failures else 0  # of several, each was told when it failed


def _clients(chosen: argparse.Namespace, how: Joining) -> list[Any]:
    """A client for each run, not joined yet."""
    from shoal.net.client import Client
    from shoal.net.link import unsigned

    context = _context(how)
    name = chosen.name or _share(chosen.data)
    found = []
    for url in chosen.url:
        sign = _signer(how, url, chosen.name, context) or unsigned
        for each in _runs(url, chosen.run, context, sign):
            found.append(Client(each, name, context=context, outage=how.outage, sign=sign))
    return found


def _runs(url: str, runs: Sequence[str], context: ssl.SSLContext | None, sign: Any) -> list[str]:
    """The addresses of runs."""
    from shoal.net.link import Link, address, listed

    if not runs:
        return [url]
    if address(url)[3]:
        raise ConfigError("--run", f"{url} names a run already: write one or the other")
    names = list(dict.fromkeys(runs))
    if EVERY in names:
        link = Link(url, context=context, sign=sign)
        try:
            names = listed(link)
        finally:
            link.close()
        if not names:
            raise DataError(f"{url} has no run going on that this client may join")
    return [f"{url.rstrip('/')}/{name}" for name in names]


def _work(client: Any, turn: Turn, chosen: argparse.Namespace, how: Joining) -> None:
    from shoal.net.client import Stopped

    with suppress(Stopped), client:
        _worker(client, chosen, how).run(turn, how.failures)
    print(f"{client.run_name}: {client.over or 'left'}", flush=True)


def _worker(client: Any, chosen: argparse.Namespace, how: Joining) -> Any:
    """What works for a client: the experiment's own trainer, or Flower code."""
    if chosen.flower:
        from shoal.flower.apps import load
        from shoal.flower.worker import FlowerWorker

        app = load(chosen.flower, client.name, how.node_config)
        made: Any = FlowerWorker(client, app, chosen.trust, chosen.state)
        holds = chosen.flower
    else:
        from shoal.net.worker import Worker

        made = Worker(client, chosen.data, chosen.trust, chosen.state)
        holds = f"{len(made.data)} examples"
    print(f"{client.name} joined {client.run_name}: {holds}", flush=True)
    return made


def _share(data: str) -> str:
    """A simulated client's own name, if its share is what is trained on."""
    return data.removeprefix("share:") if data.startswith("share:") else ""


def _context(how: Joining) -> ssl.SSLContext | None:
    if not (how.ca or how.certificate):
        return None
    from shoal.net.tls import client_context

    paths = [Path(text) if text else None for text in (how.ca, how.certificate, how.key)]
    return client_context(*paths)


def _signer(how: Joining, url: str, name: str, context: ssl.SSLContext | None) -> Any:
    if not (how.secret or how.token):
        return None
    if not (how.secret and name):
        problem = "an enrolled client has a key file (--set secret=FILE) and a --name"
        raise ConfigError("secret", problem)
    from shoal.net import signing
    from shoal.net.enroll import enrolled

    key = enrolled(url, how.token, name, Path(how.secret), context)

    return partial(signing.headers, key)
