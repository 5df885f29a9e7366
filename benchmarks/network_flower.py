"""Synchronous rounds of ten trivial clients in Flower's deployment: SuperLink and SuperNodes.

They run in an environment of their own, `benchmarks/.peers`, which `plane.py` makes; in turns with
served rounds and with a bare exchange.

    python network_flower.py [4kB | 4MB]      prints the figures of one size, or of both
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from harness import Figure, at_least, quick
from shoal.net.server import bound

HERE = Path(__file__).resolve().parent
BIN = HERE / ".peers" / "bin"
CLIENTS = 10
PROJECT = """
[project]
name = "deployed"
version = "1.0.0"
description = "Trivial clients"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "deployed:server"
clientapp = "deployed:client"

[tool.flwr.app.config]
values = {values}
rounds = {rounds}
clients = {clients}
times = "{times}"
"""
CONNECTION = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""


def deployed(values: int, rounds: int) -> list[float]:
    """Seconds of each round but the first, in which the apps are started.

    Args:
        values: float32 numbers that go to each client and back.
        rounds: at least two.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place, port = Path(folder), _free()
        times = place / "times"
        app = place / "app"
        app.mkdir()
        shutil.copy(HERE / "peers" / "deployed.py", app)
        told = PROJECT.format(values=values, rounds=rounds, clients=CLIENTS, times=times)
        (app / "pyproject.toml").write_text(told, "utf-8")
        (place / "home").mkdir()
        (place / "home" / "config.toml").write_text(CONNECTION.format(port=port), "utf-8")
        link = ["flower-superlink", "--insecure", "--port", str(port)]
        begin(stack, place, [*link, "--disable-runtime-dependency-installation"])
        for _ in range(CLIENTS):
            node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"]
            begin(stack, place, [*node, "--port", str(_free())])
        _reached(port)
        run = subprocess.run(
            [str(BIN / "flwr"), "run", str(app), "here"], env=_environment(place), cwd=place,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        end = time.monotonic() + 60 * rounds
        while not times.exists() or "end" not in times.read_text("utf-8"):
            if run.returncode or time.monotonic() > end:
                log = (place / "log").read_text("utf-8", "replace")[-4000:]
                raise RuntimeError(f"Flower's rounds did not end: {run.stdout}{run.stderr}\n{log}")
            time.sleep(0.5)
        begun = [float(line) for line in times.read_text("utf-8").split()[:-1]]
    return [float(seconds) for seconds in np.diff(begun)[1:]]


def begin(stack: ExitStack, place: Path, command: list[str]) -> None:
    """Start a process, killed at the end with all its children."""
    with (place / "log").open("ab") as log:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], cwd=place, env=_environment(place),
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def end() -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    stack.callback(end)


def _environment(place: Path) -> dict[str, str]:
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    return {
        **os.environ, "PATH": path, "FLWR_HOME": str(place / "home"),
        "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def _reached(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _free() -> int:
    with bound("127.0.0.1", 0) as probe:
        port: int = probe.getsockname()[1]
    return port


Rounds = Callable[[tuple[int, ...], int, int], tuple[float, int]]
SIZES = {"4 kB": ((), 16), "4 MB": ((14_000,), 10)}  # of the hidden layers, and classes


def beside_flower(
    rounds: Rounds, bare: Callable[[int, int], float], sizes: Sequence[str] = tuple(SIZES)
) -> tuple[list[Figure], str]:
    """Shoal, the bare exchange and Flower in turns; figures and rows of a table.

    Args:
        rounds: milliseconds a served round, and bytes of the model.
        bare: milliseconds of an exchange of so many bytes, so many times.
        sizes: of the models, by their names.
    """
    if quick() or not (BIN / "flower-superlink").exists():
        print("no rounds of Flower: they take minutes, and benchmarks/.peers, which plane.py makes")
        return [], "Flower's deployment was not measured."
    figures, rows = [], []
    for name in sizes:
        hidden, classes = SIZES[name]
        count = 40 if name == "4 MB" else 200
        served, size = rounds(hidden, classes, count)
        plain = [bare(size, count)]
        theirs = np.multiply(deployed(size // 4, 4), 1e3)
        ours = [served, rounds(hidden, classes, count)[0]]
        plain.append(bare(size, count))
        times = float(np.median(theirs)) / max(ours)
        told = f"round of 10 clients, {name}: faster than Flower's deployment"
        figures.append(at_least(told, times, "times", 100))
        spans = (f"{min(ms):,.1f} .. {max(ms):,.1f}" for ms in (plain, ours, theirs))
        rows.append(f"| {name} | {' | '.join(spans)} |")
    text = f"""
Ten trivial clients, synchronous rounds, in turns: a bare TCP exchange of the same bytes and Shoal
(medians of two turns), and Flower {_version()}, a `flower-superlink` and ten `flower-supernode`s
with FedAvg of the message API and a client that returns what it got (its rounds but the first, in
which the apps start). Both of its sides poll every 3 s: most of a round is waiting.

| ms a round | bare TCP | Shoal | Flower |
|---|---|---|---|
{chr(10).join(rows)}"""
    return figures, text.strip()


def _version() -> str:
    asked = [
        str(BIN / "python"),
        "-c",
        "from importlib.metadata import version as v; print(v('flwr'))",
    ]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure and print, without a page."""
    from network import bare, rounds

    sizes = [name for name in SIZES if name.replace(" ", "") in sys.argv[1:]] or list(SIZES)
    figures, text = beside_flower(rounds, bare, sizes)
    print(text, *(json.dumps(f.__dict__) for f in figures), sep="\n")


if __name__ == "__main__":
    main()
