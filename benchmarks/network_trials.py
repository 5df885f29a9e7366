"""One trial of a served run under faults: a seed draws what breaks; what must hold is checked.

A server runs in a process of its own that may kill itself at any step on its way to disk, clients
in threads or processes, and a proxy between them that cuts, delays, repeats and reorders requests.
"""

import contextlib
import hashlib
import multiprocessing
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from network_breaks import PATIENCE, Plan, Proxy, die, server_main
from network_certificates import LONG, Expired, expired
from network_watch import Watch, written
from shoal import wire
from shoal.errors import ShoalError
from shoal.experiment import Experiment, to_toml
from shoal.messages import Payload
from shoal.net.client import Client, Work
from shoal.net.link import Unreachable
from shoal.net.protocol import Refused
from shoal.seeds import rng
from shoal.tensors import Tensors
from shoal.tracking import read

CLIENTS = ("a", "b", "c", "d")
HANG = 2 * PATIENCE  # seconds without anything that happens: one wait, and a slow machine's work
LONGEST = 10 * PATIENCE  # seconds for which clients that are not awaited any more go on
KINDS = ("server", "client", "network", "disk", "clock", "certificate", "all")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["shoal.net.server", "shoal.net.client", "network_trials", "network_breaks"]
)


@dataclass(frozen=True)
class Trial:
    """What came of one trial.

    Attributes:
        faults: what broke, in words.
        problems: what did not hold; empty if all did.
        seconds: that it took.
        still: seconds without anything that happened, at most.
    """

    kind: str
    seed: int
    faults: list[str]
    problems: list[str]
    seconds: float
    still: float


def experiment(large: bool, commits: int = 5) -> Experiment:
    """Synchronous rounds of four clients with an exact mean; a small model, or one of 1.2 MB."""
    hidden = (4100,) if large else (16,)
    trainer = shoal.numpy.MLP(lr=0.1, hidden=hidden, features=64, classes=10)
    return shoal.Experiment(
        model=None,
        data=shoal.data.digits(clients=4),
        algorithm=shoal.fedavg(trainer=trainer, aggregator=shoal.Mean(exact=True)),
        commits=commits,
        evaluate_every=1000,
        checkpoint_every=2,
        name="faults",
    )


def answer(work: Work) -> Payload:
    """A delta that depends on the model, the client and its task's number alone."""
    draws = rng(0, "fault", work.task.client, work.task.number)
    noise = draws.standard_normal(work.model.layout.size, np.float32)
    delta = np.float32(0.1) * noise - np.float32(0.01) * work.model.dense
    return Payload(Tensors(work.model.layout, delta), 1 + len(work.task.client), steps=1)


# The clients


@dataclass
class Worked:
    """What happened in a trial.

    Attributes:
        known: answers that were acknowledged, by client and task.
        problems: what should not have happened.
        servers: how many were started.
    """

    known: list[tuple[str, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    servers: int = 0


@contextlib.contextmanager
def joined(url: str, name: str, given: Expired | None = None) -> Iterator[Client]:
    """A client; dials again where a loaded machine takes long to start the server."""
    end = time.monotonic() + LONGEST
    while True:
        context, outage = (given.context(), given.outage) if given else (None, LONG)
        client = Client(url, name, context=context, outage=outage)
        try:
            client.join()
            break
        except Unreachable:
            if given or time.monotonic() > end:
                raise
    try:
        yield client
    finally:
        client.close()


def client_main(url: str, name: str, path: str, how: str) -> None:
    """Work until the run is over; die before, during or after the second push."""
    pushes = 0

    def note(text: str) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    try:
        with joined(url, name) as client:
            for work in client:
                payload = answer(work)
                pushes += 1
                if how and pushes == 2:
                    if how == "before":
                        die()
                    if how.startswith("during"):
                        threading.Timer(float(how.split()[1]), die).start()
                status = client.answer(work, payload)
                note(f"{status} {work.task.id}")
                if how and pushes == 2:
                    die()
    except ShoalError as error:
        if not _too_late(error):
            note(f"problem {type(error).__name__}: {error}")


def _too_late(error: ShoalError) -> bool:
    """Whether somebody came, or came back, when the run had ended; what it made is checked."""
    return isinstance(error, Refused) and error.status == 410


def _threads(url: str, worked: Worked, given: Expired | None) -> list[Any]:
    def main(name: str) -> None:
        problem, end = "", time.monotonic() + LONGEST
        while not problem and time.monotonic() < end:
            try:
                with joined(url, name, given) as client:
                    for work in client:
                        status = client.answer(work, answer(work))
                        if status != "over":
                            worked.known.append((name, work.task.id))
                return
            except ShoalError as error:
                if _too_late(error):
                    return
                told = f"{type(error).__name__}: {error}"
                problem = given.stopped(name, error) if given else told
                time.sleep(0.1)
        worked.problems.append(f"client {name}: {problem or 'hangs'}")

    made = [threading.Thread(target=main, args=(name,), daemon=True) for name in CLIENTS]
    for thread in made:
        thread.start()
    return made


# The trial


def run(kind: str, seed: int, folder: Path, large: bool | None = None) -> Trial:
    """One trial in a directory of its own."""
    draws = rng(seed, "trial", kind)
    big = bool(draws.random() < 0.3) if large is None else large
    made = experiment(big)
    start, worked = time.monotonic(), Worked()
    most = 260 if big else 200
    given, plans = expired(draws, most, folder) if kind == "certificate" else (None, [])
    plans = plans or _plans(kind, draws, most)
    faults = [str(plan) for plan in plans if plan.broken]
    stop = threading.Event()
    port = _free()
    to_serve = (str(folder / "store"), port, to_toml(made), plans, given, worked, stop)
    keeper = threading.Thread(target=_keep, args=to_serve, daemon=True)
    proxy = Proxy(port, seed, 0.15) if kind in ("network", "all") else None
    keeper.start()
    watch = Watch(lambda: (written(folder), len(worked.known), worked.servers), HANG)
    url = f"http{'s' if given else ''}://127.0.0.1:{proxy.port if proxy else port}/faults"
    if kind == "client":
        late = float(draws.random()) * 0.01
        die = str(draws.choice(["before", f"during {late:.4f}", "after"]))
        faults.append(f"client a dies {die} its push")
        _processes(url, folder, die, worked, watch)
    else:
        for name, thread in zip(CLIENTS, _threads(url, worked, given), strict=True):
            if not watch.ended(thread):
                worked.problems.append(f"client {name} hangs")
    faults += [f"{name} stopped by {error}" for name, error in given.told.items()] if given else []
    if proxy is not None:
        proxy.close()
        faults += proxy.faults
    if not watch.ended(keeper):
        worked.problems.append("the server did not end")
    stop.set()
    keeper.join(5)
    problems = [*worked.problems, *_checked(folder / "store" / "faults", made, worked, big)]
    return Trial(kind, seed, faults, problems, time.monotonic() - start, watch.longest)


def _plans(kind: str, draws: np.random.Generator, most: int) -> list[Plan]:
    """What happens to the servers of a trial, one after the other; the last ones live."""
    live = [Plan(), Plan()]
    if kind in ("server", "all"):
        times = draws.integers(1, 3)
        return [*(Plan(kill=int(draws.integers(1, most))) for _ in range(times)), *live]
    if kind == "disk":
        return [Plan(full=int(draws.integers(8, most))), *live]
    return [Plan(clock=kind == "clock"), *live]


def _keep(
    store: str, port: int, toml: str, plans: list[Plan], given: Expired | None, worked: Worked,
    stop: threading.Event,
) -> None:  # fmt: skip
    """Start a server again and again, until one ends by itself with the run."""
    for plan in plans:
        worked.servers += 1
        process = _context.Process(
            target=server_main, args=(store, port, toml, plan, len(CLIENTS)), daemon=True
        )
        process.start()
        while process.is_alive() and not stop.is_set():
            process.join(0.02)
            if given and given.over(plan, port, len(CLIENTS)):
                process.kill()
        if stop.is_set():
            process.kill()
            process.join()
            return
        with contextlib.suppress(ShoalError, OSError):
            if process.exitcode == 0 and read(Path(store) / "faults").meta.status == "done":
                return


def _processes(url: str, folder: Path, die: str, worked: Worked, watch: Watch) -> None:
    notes = {name: folder / f"client-{name}" for name in CLIENTS}

    def begin(name: str, how: str) -> Any:
        process = _context.Process(
            target=client_main, args=(url, name, str(notes[name]), how), daemon=True
        )
        process.start()
        return process

    running = {name: begin(name, die if name == "a" else "") for name in CLIENTS}
    watch.ended(running["a"])
    if running["a"].exitcode != 0:
        running["a"] = begin("a", "")
    for name, process in running.items():
        if not watch.ended(process):
            worked.problems.append(f"client {name} hangs")
            process.kill()
        for line in notes[name].read_text("utf-8").splitlines() if notes[name].exists() else ():
            status, _, rest = line.partition(" ")
            if status == "problem":
                worked.problems.append(f"client {name}: {rest}")
            elif status != "over":
                worked.known.append((name, int(rest)))


_models: dict[bool, str] = {}


def expected(large: bool) -> str:
    """The digest of the model of an undisturbed run."""
    if large not in _models:
        _models[large] = ""
        with tempfile.TemporaryDirectory() as folder:
            found = run("none", 0, Path(folder), large)
            if found.problems:
                raise RuntimeError(f"an undisturbed run has problems: {found.problems}")
            _models[large] = _digest(Path(folder) / "store" / "faults")
    return _models[large]


def _digest(path: Path) -> str:
    model = wire.load((path / "model.safetensors").read_bytes())[0]
    return hashlib.sha256(model.dense.tobytes()).hexdigest()


def _checked(path: Path, made: Experiment, worked: Worked, large: bool) -> list[str]:
    """What does not hold of a run's directory."""
    try:
        found = read(path)
        bits = _digest(path)
    except (ShoalError, OSError) as error:
        return [f"the run cannot be read: {error}"]
    problems = []
    if found.meta.status != "done":
        problems.append(f"the run is {found.meta.status}")
    counted = [task.task for task in found.tasks if task.outcome == "aggregated"]
    if len(counted) != len(set(counted)):
        problems.append("an update counted twice")
    lost = {task for _, task in worked.known} - set(counted)
    if lost:
        problems.append(f"acknowledged updates of tasks {sorted(lost)} are lost")
    if [commit.updates for commit in found.commits] != [len(CLIENTS)] * int(made.commits or 0):
        problems.append(f"commits of {[c.updates for c in found.commits]} updates")
    wanted = expected(large)
    if wanted and bits != wanted:
        problems.append("other bits than an undisturbed run")
    return problems


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
