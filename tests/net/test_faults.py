"""A short set of the trials of `benchmarks/network_faults.py`, and single faults one by one."""

import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from net.served_support import CLIENTS, running, softmax
from net.test_protocol import answer_of, wide
from net.test_serve import work
from shoal import journal, packing
from shoal.errors import CheckpointError
from shoal.messages import Payload
from shoal.net import served as served_module
from shoal.net.client import Client
from shoal.net.link import Link
from shoal.net.protocol import DIGEST, Refused, digest
from shoal.tracking import read

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import network_trials as trials
from network_watch import Watch, written

pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("server", 1), ("client", 1), ("network", 1), ("disk", 3), ("certificate", 2), ("all", 1)
    ],
)  # fmt: skip
def test_a_trial(kind: str, seed: int, tmp_path: Path) -> None:
    found = trials.run(kind, seed, tmp_path)
    assert found.problems == [], found.faults


def test_a_hang_is_seen_and_a_slow_machine_is_none(tmp_path: Path) -> None:
    over = threading.Event()
    stuck = threading.Thread(target=over.wait, daemon=True)
    stuck.start()
    assert not Watch(lambda: 0, 0.3).ended(stuck)
    start = time.monotonic()
    steps = Watch(lambda: int(4 * min(1.0, time.monotonic() - start)), 0.6)
    assert not steps.ended(stuck) and time.monotonic() - start > 1.3  # it went on for 1 s
    assert steps.longest > 0.6
    with running(tmp_path, softmax(), clients=2, patience=3.0) as server:
        client = Client(server.url, "a")
        client.join()
        before = written(tmp_path)
        waiting = threading.Thread(target=client.pull, daemon=True)
        waiting.start()
        assert not Watch(lambda: written(tmp_path), 0.5).ended(waiting)
        assert written(tmp_path) == before  # who only waits is no progress
        client.stop()
        waiting.join(10)
        client.close()
    over.set()


def test_clocks_that_jump_stop_no_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock goes back and forth by days while a run goes on."""
    real, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + 86400 * (next(jumps) % 7 - 3))
    with running(tmp_path, softmax(), patience=2.0) as server:
        threads = [work(server.url, name) for name in CLIENTS]
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        server.join()
    run = read(tmp_path / "softmax")
    assert [commit.updates for commit in run.commits] == [4] * 4
    assert run.commits[-1].time < 20


def test_a_full_disk_stops_the_run_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is told to try again; nothing half-written stays."""
    failing = []

    def sync(self: journal.Journal) -> None:
        if failing and self._pending:
            self._pending.clear()
            raise CheckpointError("cannot write the journal: no space. Free space")
        real(self)

    real = journal.Journal.sync
    monkeypatch.setattr(journal.Journal, "sync", sync)
    with running(tmp_path, softmax(), clients=1, stay=True) as server:
        client = Client(server.url, "a")
        client.join()
        given = client.pull()
        assert given is not None
        failing.append(True)
        data = packing.pack(answer_of(given))
        headers = {**client._headers, DIGEST: digest(data, "sha256")}
        path = f"runs/softmax/tasks/{given.task.id}/push"
        with pytest.raises(Refused) as told:
            client._link.ask("PUT", path, body=[data], headers=headers, timeout=5.0)
        assert (told.value.status, told.value.error) == (503, "stopped")
        failing.clear()
        Link(server.url).ask("POST", "runs/softmax/resume")
        assert client.answer(given, answer_of(given)) == "accepted"
        client.close()


def test_what_is_half_written_is_cut(tmp_path: Path) -> None:
    """A real write that fails half-way, by the limit on a file's size."""
    log = journal.Journal(tmp_path, 0)
    log.append(journal.ex.Join("a"), 1.0)
    log.sync()
    end = log.bytes
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (end + 10, before[1]))
    try:
        log.append(journal.ex.Join("b"), 2.0)
        with pytest.raises(CheckpointError, match="Free space"):
            log.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "journal-0000000000.log").stat().st_size == end
    log.append(journal.ex.Join("c"), 3.0)
    log.close()
    assert [entry.given for entry in journal.entries(tmp_path)] == [
        journal.ex.Join("a"), journal.ex.Join("c")
    ]  # fmt: skip


def test_large_answers_that_come_twice_or_too_late_leave_the_journal_whole(
    tmp_path: Path,
) -> None:
    """The file of a payload that the journal names is never moved or removed."""
    made = wide(commits=3)
    with running(tmp_path, made, clients=1) as server, Client(server.url, "a") as client:
        given = client.pull()
        assert given is not None and server.hall is not None
        data = packing.pack(Payload(given.model.with_flat(given.model.flat * 0), 3))
        path = f"runs/wide/tasks/{given.task.id}/push"

        def put() -> str:
            headers = {**client._headers, DIGEST: digest(data, "sha256")}
            query = {"offset": 0, "total": len(data)}
            link = Link(server.url)
            try:
                return link.ask(
                    "PUT", path, query=query, body=[data], headers=headers
                ).body.decode()
            finally:
                link.close()

        node = server.hall.desks["wide"].host.served.node
        assert "accepted" in put()
        assert "repeated" in put()
        stored = tmp_path / "wide" / "payloads" / f"{given.task.id}.bin"
        assert stored.read_bytes()[: len(data)] == data
        again = client.pull()
        assert again is not None
        # The coordinator cancels the task while its answer is on the way.
        node.cancelled[again.task.id] = node.tasks.pop(again.task.id)
        path = f"runs/wide/tasks/{again.task.id}/push"
        assert "over" in put()
        assert (tmp_path / "wide" / "payloads" / f"{again.task.id}.bin").exists()
        server.stop()
    names = [entry.file for entry in journal.entries(tmp_path / "wide") if entry.file]
    assert names == [f"{given.task.id}.bin", f"{again.task.id}.bin"]


def test_a_join_that_comes_again_takes_nobodys_place(tmp_path: Path) -> None:
    with running(tmp_path, softmax(), clients=2) as server:
        client = Client(server.url, "a")
        client.join()
        old = client._key
        assert client._asked_to_join().status == 200  # the same, twice
        assert client._link.ask("POST", "runs/softmax/heartbeat", headers=client._headers)
        client.join()
        client._key, new = old, client._key
        with pytest.raises(Refused, match="same name"):  # one from before, too late
            client._asked_to_join()
        client._key = new
        assert client._link.ask("POST", "runs/softmax/heartbeat", headers=client._headers)
        client.close()
        client._key = new
        with pytest.raises(Refused) as told:
            client._link.ask(
                "POST",
                "runs/softmax/join",
                body=[b'{"client": "a", "session": "%s"}' % new.encode()],
            )
        assert told.value.error == "session"


def test_a_stop_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives together with the stop is answered, too."""
    real = served_module.Served.save

    def slow(self: served_module.Served) -> None:
        time.sleep(0.3)
        real(self)

    monkeypatch.setattr(served_module.Served, "save", slow)
    with running(tmp_path, softmax(), clients=1, stay=True) as server:
        client = Client(server.url, "a")
        client.join()
        given = client.pull()
        assert given is not None and server.hall is not None
        server.hall.desks["softmax"].host.halt()
        data = packing.pack(answer_of(given))
        headers = {**client._headers, DIGEST: digest(data, "sha256")}
        start = time.monotonic()
        with pytest.raises(Refused) as told:
            client._link.ask(
                "PUT", f"runs/softmax/tasks/{given.task.id}/push", body=[data], headers=headers
            )
        assert told.value.status == 503 and time.monotonic() - start < 3
        Link(server.url).ask("POST", "runs/softmax/resume")
        assert client.answer(given, answer_of(given)) == "accepted"
        client.close()
