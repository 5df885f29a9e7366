"""A served run under load: rounds, updates a second, idle clients, large payloads.

The server is a process of its own, its store on the machine's disk; the load comes from here.
"""

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import shoal
from blob import Blob
from harness import Figure, at_least, at_most, finish, quick
from network_flower import beside_flower
from shoal import packing
from shoal.messages import Payload
from shoal.net.client import Client
from shoal.net.link import Reply
from shoal.net.protocol import DIGEST, hasher
from shoal.net.server import bound, many_files
from shoal.tensors import Tensors, zeros

SHOAL = [sys.executable, "-c", "import sys; from shoal.cli import main; sys.exit(main())"]
CLIENTS = 10
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a file system without a disk


def experiment(hidden: tuple[int, ...], classes: int, buffered: bool) -> shoal.Experiment:
    """An experiment whose clients need not train; it never ends by itself."""
    trainer = shoal.numpy.MLP(lr=0.1, hidden=hidden, features=64, classes=classes)
    mean = shoal.Mean()
    rounds = shoal.fedavg(trainer=trainer, aggregator=mean)
    algorithm = shoal.fedbuff(10, trainer=trainer) if buffered else rounds
    data = shoal.data.digits(clients=2)
    return shoal.Experiment(
        model=None, data=data, algorithm=algorithm, commits=10**9, evaluate_every=10**9, name="load"
    )  # fmt: skip


class Served:
    """A server process."""

    def __init__(self, folder: Path, made: shoal.Experiment, clients: int) -> None:
        with bound("127.0.0.1", 0) as listening:
            self.port = listening.getsockname()[1]
        (folder / "load.toml").write_text(shoal.to_toml(made), "utf-8")
        arguments = ["serve", str(folder / "load.toml"), "--store", str(folder / "store")]
        arguments += ["--port", str(self.port), "--set", f"serving.clients={clients}"]
        with (folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*SHOAL, *arguments], stdout=subprocess.PIPE, stderr=log, cwd=folder,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent)},
            )  # fmt: skip
        assert self.process.stdout is not None
        assert b"serving" in self.process.stdout.readline()
        self.url = f"http://127.0.0.1:{self.port}/load"

    def resident(self) -> int:
        """Bytes of anonymous memory that the server holds."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


@contextmanager
def served(made: shoal.Experiment, clients: int, base: str | None = None) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(dir=base) as folder:
        server = Served(Path(folder), made, clients)
        try:
            yield server
        finally:
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()


def rounds(
    hidden: tuple[int, ...], classes: int, count: int, base: str | None = None
) -> tuple[float, int]:
    """Milliseconds a round of ten clients that send zeros, and bytes of the model."""
    sizes: list[int] = []
    times: list[float] = []
    with served(experiment(hidden, classes, False), CLIENTS, base) as server:

        def work(name: str) -> None:
            with Client(server.url, name) as client:
                answer: Payload | None = None
                for given in client:
                    if answer is None:
                        answer = Payload(zeros(given.model.layout), 1)
                        sizes.append(given.model.nbytes)
                    client.answer(given, answer)
                    if name == "c0":
                        times.append(time.perf_counter())
                    if given.task.version >= count:
                        return

        threads = [threading.Thread(target=work, args=(f"c{i}",)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return float(np.median(np.diff(times))) * 1e3, sizes[0]


def bare(size: int, count: int) -> float:
    """Milliseconds for so many bytes to and from each of ten sockets, one process each side."""
    script = (
        "import socket,sys,threading\n"
        "port,size,count=map(int,sys.argv[1:])\n"
        "def go():\n"
        "    s=socket.create_connection(('127.0.0.1',port)); b=bytearray(size); v=memoryview(b)\n"
        "    for _ in range(count):\n"
        "        n=0\n"
        "        while n<size: n+=s.recv_into(v[n:])\n"
        "        s.sendall(b)\n"
        "ts=[threading.Thread(target=go) for _ in range(10)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\n"
    )
    with bound("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        command = [sys.executable, "-c", script, str(port), str(size), str(count)]
        process = subprocess.Popen(command)
        others = [listening.accept()[0] for _ in range(CLIENTS)]
        data, times = bytearray(size), []
        into = memoryview(data)

        def exchange(other: socket.socket) -> None:
            other.sendall(data)
            have = 0
            while have < size:
                have += other.recv_into(into[have:])

        for _ in range(count):
            began = time.perf_counter()
            threads = [threading.Thread(target=exchange, args=(other,)) for other in others]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            times.append(time.perf_counter() - began)
        process.wait()
        for other in others:
            other.close()
    return float(np.median(times)) * 1e3


class Wire:
    """A client's connection for many at once: as little work as can be."""

    def __init__(self, server: Served, name: str) -> None:
        self.server, self.name = server, name
        self.head = ""

    async def open(self) -> None:
        """Connect and join."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        body = json.dumps({"client": self.name}).encode()
        _, answer = await self.ask("POST", "join", body)
        self.head = f"shoal-session: {json.loads(answer)['session']}\r\n"

    async def ask(
        self, method: str, rest: str, body: bytes = b"", more: str = ""
    ) -> tuple[int, bytes]:
        head = f"{method} /v1/runs/load/{rest} HTTP/1.1\r\nhost: 127.0.0.1\r\n{self.head}{more}"
        self.writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        found = await self.reader.readuntil(b"\r\n\r\n")
        status = int(found[9:12])
        at = found.find(b"content-length: ")
        size = int(found[at + 16 : found.index(b"\r", at)]) if at >= 0 else 0
        return status, await self.reader.readexactly(size)


async def pushes(server: Served, clients: int, seconds: float, rate: float) -> tuple[float, float]:
    """Updates a second, and the 99th percentile of a pull that finds work, in milliseconds."""
    wires = [Wire(server, f"w{i}") for i in range(clients)]
    await asyncio.gather(*(wire.open() for wire in wires))
    pulls: list[float] = []
    done = 0
    payload, more = b"", ""
    stop = time.perf_counter() + seconds

    async def work(wire: Wire, at: int) -> None:
        nonlocal done, payload, more
        due = time.perf_counter() + at / rate if rate else 0.0
        while time.perf_counter() < stop:
            if rate:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += clients / rate
            began = time.perf_counter()
            status, body = await wire.ask("POST", "pull?wait=1")
            if status != 200:
                continue
            pulls.append(time.perf_counter() - began)
            size = int.from_bytes(body[:8], "little")
            task = json.loads(body[8 : 8 + size])["task"]["id"]
            if not payload:
                from shoal import wire as tensors

                model = tensors.load(body[8 + size :])[0]
                payload = packing.pack(Payload(zeros(model.layout), 1))
                more = f"shoal-digest: sha256={hashlib.sha256(payload).hexdigest()}\r\n"
            status, _ = await wire.ask("PUT", f"tasks/{task}/push", payload, more)
            done += status == 200

    began = time.perf_counter()
    await asyncio.gather(*(work(wire, at) for at, wire in enumerate(wires)))
    return done / (time.perf_counter() - began), float(np.percentile(pulls, 99)) * 1e3


async def idle(server: Served, clients: int) -> float:
    """Bytes of server memory for each client that is connected and polls."""
    before = server.resident()
    wires = [Wire(server, f"i{i}") for i in range(clients)]
    for start in range(0, clients, 200):
        await asyncio.gather(*(wire.open() for wire in wires[start : start + 200]))
    polls = [asyncio.create_task(wire.ask("POST", "pull?wait=30")) for wire in wires]
    await asyncio.sleep(5 if not quick() else 2)
    after = server.resident()
    for poll in polls:
        poll.cancel()
    return (after - before) / clients


@dataclass(frozen=True)
class Moved:
    """Speeds in bytes a second, and memory in bytes.

    Attributes:
        down: of the model to the client.
        ingest: of an answer into the plane's memory, its digest computed on the way.
        whole: of an answer with the client's digest before, and sync, check and fold behind it.
        growth: of the server's anonymous memory while model and answer move, at its peak.
    """

    down: float
    ingest: float
    whole: float
    growth: float


def large(megabytes: int, base: str | None) -> Moved:
    """One large model down, and up twice: in two requests, and as a client does."""
    made = shoal.Experiment(
        model=None, data=shoal.data.digits(clients=2), commits=10**9, evaluate_every=10**9,
        algorithm=shoal.fedbuff(10, trainer=Blob(megabytes << 18)), name="load",
    )  # fmt: skip
    with served(made, 1, base) as server, Client(server.url, "c0") as client:
        before = server.resident()
        peak, done = [before], threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                peak.append(server.resident())

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.perf_counter()
        given = client.pull()
        down = time.perf_counter() - began
        assert given is not None
        values = np.ones(given.model.layout.size, np.float32)
        answer = Payload(Tensors(given.model.layout, values), 1)
        size = answer.tensors.nbytes
        pieces = packing.pieces(answer)
        total = sum(memoryview(piece).nbytes for piece in pieces)
        made_of = hasher("xxh128")
        for piece in pieces:
            made_of.update(piece)
        headers = {**client._headers, DIGEST: f"xxh128={made_of.hexdigest()}"}
        path = client._path(f"tasks/{given.task.id}/push")
        end = memoryview(pieces[-1]).cast("B")
        body, last = [*pieces[:-1], end[:-1]], bytes(end[-1:])

        def put(offset: int, data: list[bytes | memoryview]) -> Reply:
            query = {"offset": offset, "total": total}
            return client._link.ask("PUT", path, query=query, body=data, headers=headers)

        began = time.perf_counter()
        reply = put(0, body)
        ingest = time.perf_counter() - began
        assert reply.status == 202
        done.set()
        watcher.join()
        assert json.loads(put(total - 1, [last]).body)["status"] == "accepted"
        given = client.pull()
        assert given is not None
        began = time.perf_counter()
        assert client.answer(given, answer) == "accepted"
        whole = time.perf_counter() - began
        return Moved(size / down, size / ingest, size / whole, float(max(peak) - before))


def copied(megabytes: int) -> float:
    """Bytes a second over one bare socket between two processes."""
    size = megabytes << 20
    script = (
        "import socket,sys\n"
        "s=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n"
        "b=bytes(1<<20)\n"
        "for _ in range(int(sys.argv[2])): s.sendall(b)\n"
        "s.recv(1)\n"
    )
    with bound("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        process = subprocess.Popen([sys.executable, "-c", script, str(port), str(megabytes)])
        other, _ = listening.accept()
        into, have = memoryview(bytearray(1 << 20)), 0
        began = time.perf_counter()
        while have < size:
            have += other.recv_into(into)
        seconds = time.perf_counter() - began
        other.close()
        process.wait()
    return size / seconds


def small_updates() -> list[Figure]:
    """Rounds and updates of 4 kB, and clients that wait."""
    small, _ = rounds((), 16, 60 if quick() else 300)
    seconds, many = (4.0, 1000) if quick() else (12.0, 10_000)
    buffered = experiment((), 16, True)
    with served(buffered, 1) as server:
        rate, _ = asyncio.run(pushes(server, 64, seconds, 0.0))
    with served(buffered, 1) as server:
        _, p99 = asyncio.run(pushes(server, 64, seconds, 750.0))
    with served(experiment((), 16, False), many + 1) as server:
        each = asyncio.run(idle(server, many))
    return [
        at_most("round of 10 clients, 4 kB", small, "ms", 15),
        at_least("durable updates, push to fold", rate, "1/s", 1500),
        at_most("p99 of a pull at 750 updates/s", p99, "ms", 250),
        at_most(f"memory of each of {many} connected clients that poll", each / 1e3, "kB", 20),
    ]


def large_updates() -> tuple[list[Figure], str]:
    """Rounds of 4 MB, and payloads of a GB and more."""
    count = 10 if quick() else 120  # the first ones write to fresh files
    disk, size = rounds((14_000,), 10, count)
    memory, _ = rounds((14_000,), 10, count, MEMORY)
    plain = bare(size, count)
    megabytes = 128 if quick() else 1024
    copies = sorted(copied(megabytes) for _ in range(5))
    kept, held = large(megabytes, None), large(megabytes, MEMORY)
    most = large(256 if quick() else 4096, None)
    figures = [
        at_most("round of 10 clients, 4 MB, against bare TCP", disk / plain, "x", 3),
        at_most("the same, store in memory (tmpfs)", memory / plain, "x", 3),
        at_least("ingest to disk, of a bare copy", 100 * kept.ingest / copies[2], "%", 60),
        at_least("ingest to tmpfs, of a bare copy", 100 * held.ingest / copies[2], "%", 60),
        at_most(
            f"server memory while {'256 MB' if quick() else '4 GB'} move down and up",
            most.growth / 1e6, "MB", 64,
        ),
    ]  # fmt: skip
    text = (
        f"Ten sockets exchange {size / 1e6:.1f} MB each way in {plain:.1f} ms; served rounds take "
        f"{disk:.1f} ms with the store on disk, {memory:.1f} ms in memory. A bare socket copy, "
        f"which keeps nothing, moves {copies[2] / 1e6:,.0f} MB/s (median of 5, "
        f"{copies[0] / 1e6:,.0f} .. {copies[4] / 1e6:,.0f}).\n\n"
        "| MB/s | down | ingest | answer, until it is acknowledged |\n|---|---|---|---|\n"
        + _speeds(f"{megabytes} MB, disk", kept)
        + _speeds(f"{megabytes} MB, tmpfs", held)
        + _speeds(f"{'256' if quick() else '4096'} MB, disk", most)
        + "\nIngest is until all bytes are written to the payload's file and digested. An answer "
        "also waits for the client's own digest, the sync, the check and the fold; its sync is "
        "bound by the disk.\n"
    )
    return figures, text


def _speeds(name: str, moved: Moved) -> str:
    found = (moved.down, moved.ingest, moved.whole)
    return f"| {name} | " + " | ".join(f"{speed / 1e6:,.0f}" for speed in found) + " |\n"


def main() -> None:
    many_files()
    figures = small_updates()
    more, text = large_updates()
    others, beside = beside_flower(rounds, bare)
    finish("network", "A served run under load", f"{text}\n{beside}", [*figures, *more, *others])


if __name__ == "__main__":
    main()
