"""`shoal serve`: experiments behind a server, and those that its store holds."""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from shoal import config
from shoal.commands.present import present
from shoal.commands.refs import experiments

OWN = "serving."


def serve(chosen: argparse.Namespace) -> int:
    """Serve until the runs are over, or for ever if none is named."""
    from shoal.net.server import Serving

    own = [text for text in chosen.settings if text.startswith(OWN)]
    rest = [text for text in chosen.settings if not text.startswith(OWN)]
    found = [(e, name) for ref in chosen.ref for e, name in _named(ref, rest)]
    serving = settled(Serving(stay=not found), [text.removeprefix(OWN) for text in own])
    if chosen.store is not None:
        serving = replace(serving, store=str(chosen.store))
    if chosen.port is not None:
        serving = replace(serving, port=chosen.port)
    if chosen.flower:
        serving = replace(serving, flower=chosen.flower)
    from shoal.net.logs import configure

    configure("json" if serving.log == "json" else "text")
    ended = _run(serving, [(name, e) for e, name in found])
    failed = [run for run in ended if run.problem and run.status in ("failed", "stopped")]
    for run in failed:
        print(f"shoal: run {run.name} {run.status}: {run.problem}", file=sys.stderr)
    for run in ended:
        if run.status == "stopped" and not run.problem:
            print(f"run {run.name} is saved. Go on with the same command.")
    done = [run.path for run in ended if run.status == "done"]
    if done:
        present(done, done[0] / "report.html")
    return 2 if failed else 0


def settled(value: Any, settings: list[str]) -> Any:
    """A dataclass with `name=value` settings applied."""
    table = config.encode(value, type(value), full=True)
    for setting in settings:
        config.assign(table, setting)
    known = {f.name for f in fields(value)}
    return config.decode(type(value), {k: v for k, v in table.items() if k in known})


def _named(ref: str, settings: list[str]) -> list[tuple[Any, str]]:
    found, name = experiments(ref, settings)
    if len(found) == 1:
        return [(found[0], name)]
    return [(e, e.title.replace(" ", "-").replace(",", "")) for e in found]


def _run(serving: Any, runs: Sequence[tuple[str, Any]]) -> list[Any]:
    from shoal.net.logs import tracer
    from shoal.net.operations import Operations
    from shoal.net.server import Server, many_files

    many_files()
    gate, context, tend = _guarded(serving)
    traces = tracer(serving.traces)
    operations = Operations(gate, traces)
    routes = _routes(serving, operations, gate)

    async def main() -> list[Any]:
        extra = {} if gate is None else {"gate": gate}
        server = Server(
            serving, context=context, routes=routes, observe=operations.observe, tend=tend,
            sinks=lambda run, path: [*_sinks(run, path), *operations.sinks(run, path)], **extra,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, server.stop)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(server.stop))
        with contextlib.suppress(AttributeError, NotImplementedError):  # Windows has none
            loop.add_signal_handler(signal.SIGHUP, tend)
        return await server.serve(runs, _ready)

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(main())
    finally:
        traces.close()
        if gate is not None:
            gate.close()


def _routes(serving: Any, operations: Any, gate: Any) -> Any:
    """The endpoints beside those of clients and operators."""
    if not serving.flower:
        return operations.routes
    from shoal.flower.fleet import fleet

    supernodes = fleet(serving, gate)
    return lambda hall: {**operations.routes(hall), **supernodes(hall)}


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _guarded(serving: Any) -> tuple[Any, Any, Callable[[], None]]:
    """The gate and TLS of a server that others can reach, and what looks after its certificate.

    Loopback needs none of it.
    """
    if not serving.certificate:
        print("shoal: no certificate, so this server listens on loopback only", file=sys.stderr)
        return None, None, lambda: None
    from shoal.net.certificates import check
    from shoal.net.gate import Guard
    from shoal.net.renewal import Renewal
    from shoal.net.tls import server_context

    warning = check(Path(serving.certificate))
    if warning:
        print(f"shoal: {warning}", file=sys.stderr)
    authority = Path(serving.authority) if serving.authority else None
    paths = Path(serving.certificate), Path(serving.key), authority
    context = server_context(*paths)
    guard = Guard(Path(serving.store) / "access", limits=serving.limits)
    return guard, context, Renewal(context, *paths).look


def _ready(url: str, hall: Any) -> None:
    print(f"serving {', '.join(hall.desks) or 'no run yet'} at {url}", flush=True)
    for desk in hall.desks.values():
        for note in desk.host.served.notes:
            print(f"shoal: {desk.name}: {note}", file=sys.stderr)


def _sinks(experiment: Any, path: Path) -> list[Any]:
    from shoal.tracking.sinks import Guarded, named

    def warn(text: str) -> None:
        logging.getLogger("shoal.net").warning("%s", text)

    made = [named(name).of_run(experiment.title, path) for name in experiment.sinks]
    return [Guarded(sink, warn) for sink in (*made, Announce(path.name))]


class Announce:
    """Says what each evaluation measured, and which clients' tasks failed."""

    def __init__(self, run: str) -> None:
        self._run, self._log = run, logging.getLogger("shoal.net")

    def write(self, record: Any) -> None:
        """Take one record."""
        from shoal.messages import EvaluationRecord, StopRecord

        if isinstance(record, EvaluationRecord):
            found = "  ".join(f"{name} {value:.4f}" for name, value in record.metrics.items())
            self._log.info("%s: %8.1f s  v%d  %s", self._run, record.time, record.version, found)
        elif isinstance(record, StopRecord):
            self._log.info("%s: over at v%d: %s", self._run, record.version, record.reason)

    def close(self) -> None:
        """Nothing to do."""
