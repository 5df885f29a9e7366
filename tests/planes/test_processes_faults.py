"""The process plane under kills and pressure: nothing lost, bounded memory, no idle work, no leaks.

SHOAL_TRIALS=200 makes the trials with killed workers as many.
"""

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, ClassVar

import numpy as np
import pytest

from planes.processes_support import FORMS, LARGE, drive, model, on, update
from shoal.aggregators import Krum, Mean, Median
from shoal.core import NOTHING
from shoal.errors import ConfigError, ProtocolError
from shoal.planes import Local, processes_pool
from shoal.planes.processes import Processes
from shoal.planes.processes_pool import Pool, WorkerError
from shoal.planes.processes_round import check_disjoint
from shoal.planes.shared import SharedMemoryError, Space, Store, Writer, find, sweep
from shoal.planes.worker import Input
from shoal.tensors import Tensors, equal

TRIALS = int(os.environ.get("SHOAL_TRIALS", "30"))
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
unix = pytest.mark.skipif(sys.platform == "win32", reason="kills like Unix")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    shared = Pool(2, 2)
    yield shared
    shared.close()


# Faults


def kill(pool: Pool, choice: float) -> None:
    pids = pool.pids
    if pids:
        os.kill(pids[int(choice * len(pids))], KILL)


@pytest.mark.timeout(600)
def test_killed_workers_cost_nothing() -> None:
    rule = Mean(exact=True)
    plane = Processes(rule, NOTHING, workers=(2, 2), lanes=3, fan_in=2)
    plane.start(model(LARGE), 0)
    local = Local(rule, NOTHING)
    local.start(model(LARGE), 0)
    deaths, processes = 0, set(plane.pool.pids)
    for trial in range(TRIALS):
        rng = np.random.default_rng(trial)
        count, whom, timer = int(rng.integers(1, 9)), float(rng.random()), None
        at = int(rng.integers(0, count)) if trial % 2 else -1
        if trial % 2 == 0:  # at any moment, else after one of the folds
            timer = Timer(float(rng.random() ** 2 * 0.05), kill, (plane.pool, whom))
            timer.start()
        for i in range(count):
            for each in (plane, local):
                drive(each, 100 * trial + i, 1, FORMS)
            if i == at:
                kill(plane.pool, whom)
        assert plane.folded == count
        assert equal(plane.commit(), local.commit()), f"trial {trial}"
        if timer is not None:
            timer.join()
        assert plane.store.objects == 0
        deaths += len(set(plane.pool.pids) - processes)
        processes |= set(plane.pool.pids)
    assert deaths >= TRIALS // 2  # the trials try something
    plane.close()
    assert plane.pool.pids == []


def test_killed_workers_cost_nothing_between_passes_over_whole_updates() -> None:
    rule = Krum(f=1, m=3)
    plane, local = Processes(rule, NOTHING, workers=(2, 2), shards=3), Local(rule, NOTHING)
    for each in (plane, local):
        each.start(model(LARGE), 0)
    began = set(plane.pool.pids)
    for trial in range(4):
        for each in (plane, local):
            drive(each, 100 * trial, 6, ("dense", "sparse", "model"))
        kill(plane.pool, trial / 4)  # it is noticed when it is to measure
        timer = Timer(0.01 * trial, kill, (plane.pool, 1 - (trial + 1) / 4))
        timer.start()
        assert equal(plane.commit(), local.commit()), f"trial {trial}"
        timer.join()
        assert plane.store.objects == 0
    assert not began & set(plane.pool.pids)
    plane.close()


@dataclass(frozen=True)
class Deadly:
    """A mean that no worker survives."""

    scope: ClassVar[str] = "coordinate"
    init = staticmethod(Mean().init)
    merge = staticmethod(Mean().merge)
    finish = staticmethod(Mean().finish)
    clear = staticmethod(Mean().clear)

    def fold(self, acc: Any, value: Tensors, weight: float, client: str) -> Any:
        if multiprocessing.parent_process() is not None:
            os._exit(3)
        return Mean().fold(acc, value, weight, client)


def test_what_kills_every_worker_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes_pool, "TRIES", 2)
    plane = Processes(Deadly(), NOTHING, workers=(1, 1))
    plane.start(model(60), 0)
    drive(plane, 0, 1)
    with pytest.raises(WorkerError, match=r"2 workers died .* exit code 3"):
        plane.commit()
    plane.abandon()
    assert plane.store.objects == 0
    plane.close()


def test_nothing_is_counted_twice(pool: Pool) -> None:
    stored: Any = None
    item = Input(3, stored, "delta", 1.0, "c")
    check_disjoint([{1, 2}], [item])
    check_disjoint([{1, 2}, {4}], [item])
    for merged, inputs in (
        ([{1, 3}], [item]), ([{1, 2}, {2, 4}], []), ([{1}, {3}], [item]), ([{1}], [item, item]),
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match=r"updates \[.*\] would be counted twice"):
            check_disjoint(merged, inputs)
    plane = on(pool, Mean())
    plane.start(model(60), 0)
    drive(plane, 0, 1)
    with pytest.raises(ProtocolError, match="update 0 was folded before"):
        drive(plane, 0, 1)
    plane.drop(0)
    assert plane.folded == 1
    plane.close()


# Memory


def test_updates_wait_for_memory(pool: Pool) -> None:
    like = model(LARGE)
    plane, local = on(pool, Mean(exact=True), budget=8 << 20), Local(Mean(exact=True), NOTHING)
    for each in (plane, local):
        each.start(like, 0)
    for i in range(60):  # 34 MB through 8 MB
        for each in (plane, local):
            drive(each, i, 1)
        assert plane.store.taken <= plane.store.mapped <= 8 << 20
    assert equal(plane.commit(), local.commit())
    assert plane.store.objects == 0
    plane.close()


def test_a_full_budget_is_an_error_with_numbers(pool: Pool) -> None:
    plane = on(pool, Median(), budget=3 << 20)
    plane.start(model(LARGE), 0)
    with pytest.raises(ConfigError, match=r"budget: \d+ of 3145728 bytes .* 0 held and 3 folded"):
        drive(plane, 0, 9)
    assert plane.folded == 3
    plane.commit()
    drive(plane, 0, 3)
    plane.close()
    tight = on(pool, Mean(exact=True), budget=1 << 20)
    with pytest.raises(ConfigError, match=r"budget: 1048576 bytes .* Mean"):
        tight.start(model(LARGE), 0)
    tight.close()


def test_only_keys_travel(pool: Pool) -> None:
    plane = on(pool, Mean())
    plane.start(model(LARGE), 0)
    plane.put(0, update(plane.model, 0))
    _, stored = plane._held[0]
    assert len(stored.ref.key) == 16
    assert len(pickle.dumps(stored)) < 2000
    plane.close()


def test_objects_are_found_by_key_without_copies() -> None:
    store, space = Store(10 << 20), Space()
    payload = update(model(1000), 1, "quantized")
    stored = store.write(payload.tensors)
    memory = space.memory(stored.ref)
    assert equal(find(stored.content, memory), payload.tensors)
    plain = store.write(payload.tensors.with_flat(payload.tensors.dense))
    seen = find(plain.content, space.memory(plain.ref))
    assert np.shares_memory(seen.flat, space.memory(plain.ref))
    assert not seen.flat.flags.writeable
    store.retain(stored.ref)
    store.release(stored.ref)
    assert store.objects == 2
    store.release(stored.ref)
    again = store.allocate(memory.size - 128)
    assert again.segment == stored.ref.segment and again.key != stored.ref.key
    with pytest.raises(SharedMemoryError, match="released before"):
        space.memory(stored.ref)
    with pytest.raises(SharedMemoryError, match="released before"):
        store.memory(stored.ref)
    with pytest.raises(SharedMemoryError, match="does not fit a segment"):
        Writer(space.memory(again)).put(np.zeros(1 << 20))
    with pytest.raises(SharedMemoryError, match="bytes do not fit"):
        store.allocate(11 << 20)
    store.close()
    space.tidy()
    with pytest.raises(SharedMemoryError, match="not there"):
        space.memory(again)


# Life


@needs_proc
def test_idle_workers_use_no_processor_time() -> None:
    plane = Processes(Mean(), NOTHING, workers=(2, 2))
    plane.start(model(LARGE), 0)
    drive(plane, 0, 4)
    plane.commit()
    drive(plane, 10, 4)
    plane._now().gathered()  # everything is folded, and a commit is awaited
    time.sleep(0.2)
    before, own = [ticks(pid) for pid in plane.pool.pids], time.process_time()
    time.sleep(3.0)
    assert [ticks(pid) for pid in plane.pool.pids] == before
    assert time.process_time() - own < 0.05
    plane.close()


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_the_pool_follows_the_expected_load() -> None:
    pool = Pool(1, 3)
    plane = on(pool, Mean())
    assert pool.pids == []
    pool.resize(0)
    first = pool.pids
    assert len(first) == 1
    pool.expect(plane, 1.3)
    assert len(pool.pids) == 2 and pool.pids[0] == first[0]
    pool.expect(plane, 40.0)
    assert len(pool.pids) == 3
    pool.expect(plane, 0.0)
    assert len(pool.pids) == 1
    plane.start(model(60), 0)
    drive(plane, 0, 5)
    before = pool.pids
    plane.commit()
    drive(plane, 0, 5)
    plane.commit()
    assert pool.pids == before  # warm workers are used again
    assert 0 < plane.load < 40
    plane.close()
    pool.close()
    assert pool.pids == []


def test_nothing_is_left_behind(pool: Pool) -> None:
    plane = Processes(Mean(), NOTHING, workers=(1, 1))
    plane.start(model(LARGE), 0)
    drive(plane, 0, 3)
    folder, pids = plane.store.folder, plane.pool.pids
    assert list(folder.iterdir())
    del plane
    gc.collect()
    assert not folder.exists()
    assert not any(alive(pid) for pid in pids)


CRASH = """
import os, signal, sys
import numpy as np
from shoal.aggregators import Mean
from shoal.core import NOTHING
from shoal.messages import Payload
from shoal.planes.processes import Processes
from shoal.tensors import Tensors
if __name__ == "__main__":
    model = Tensors.of({"x": np.zeros(300_000, np.float32)})
    plane = Processes(Mean(), NOTHING, workers=(2, 2))
    plane.start(model, 0)
    for i in range(3):
        plane.put(i, Payload(model, 1))
        plane.fold(i, 1.0, "c")
    plane.commit()
    for i in range(3):
        plane.put(i, Payload(model, 1))
        plane.fold(i, 1.0, "c")
    print(plane.store.folder, *plane.pool.pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@unix
def test_a_crashed_server_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "crash.py"
    script.write_text(CRASH)
    done = subprocess.run(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=False, timeout=60
    )
    folder, *pids = done.stdout.split()
    assert done.returncode == -KILL and len(pids) == 2
    until_ = time.monotonic() + 20
    while time.monotonic() < until_ and (
        Path(folder).exists() or any(alive(int(pid)) for pid in pids)
    ):
        time.sleep(0.05)
    assert not Path(folder).exists()
    assert not any(alive(int(pid)) for pid in pids)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.exists() and Path("/proc/self").exists():
        return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def test_what_others_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "shoal-plane-left"
    left.mkdir()
    (left / "owner").touch()
    (left / "1").write_bytes(bytes(100))
    (tmp_path / "shoal-plane-new").mkdir()  # its owner is about to lock it
    one, other = Store(1 << 20, tmp_path), Store(1 << 20, tmp_path)
    sweep(tmp_path)
    assert not left.exists() and (tmp_path / "shoal-plane-new").exists()
    assert one.folder.exists() and other.folder.exists()
    one.close()
    other.close()
    assert not one.folder.exists() and not other.folder.exists()
