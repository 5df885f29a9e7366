"""A client's loop: failures slow it down and end it, several runs take turns, stopping is quick."""

import random
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from net.served_support import running, softmax
from net.test_protocol import answer_of
from shoal.errors import CheckpointError, ConfigError
from shoal.messages import Payload
from shoal.net import labor as labor_module
from shoal.net.client import Client, Work
from shoal.net.labor import GaveUp, labor
from shoal.net.turns import Turns

pytestmark = pytest.mark.timeout(60)


def test_tasks_that_fail_again_and_again_end_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slower and slower, and with the last reason; the run itself goes on."""
    monkeypatch.setattr(labor_module, "FIRST", 0.02)
    rests: list[float] = []
    with running(tmp_path, softmax(), clients=1, stay=True) as server:
        assert server.hall is not None

        def train(work: Work) -> Payload:
            raise ValueError(f"no room\nfor task {work.task.id}")

        with Client(server.url, "c0") as client:
            rest = client.rest
            client.rest = lambda s: rests.append(s) or rest(s)  # type: ignore[method-assign, func-returns-value]
            with pytest.raises(GaveUp, match="5 tasks in a row failed, the last one by ValueError"):
                client.run(train, failures=5)
        waits = [seconds for seconds in rests if seconds]
        assert len(waits) == 4
        assert all(0.5 * f <= w <= f for w, f in zip(waits, (0.02, 0.04, 0.08, 0.16), strict=True))
        failures = (tmp_path / "softmax" / "failures.jsonl").read_text("utf-8").splitlines()
        assert len(failures) == 5 and "in train" in failures[0]
        assert server.hall.desks["softmax"].running

        failing = iter([True, True, False] * 9)

        def flaky(work: Work) -> Payload:
            if next(failing):
                raise ValueError("now and then")
            return answer_of(work)

        with Client(server.url, "c0") as client:
            assert "4 commits" in client.run(flaky, failures=3)  # those in a row count


@pytest.mark.parametrize("error", [CheckpointError("no room"), ConfigError("lr", "is odd")])
def test_what_waiting_does_not_mend_ends_it_at_once(error: Exception, tmp_path: Path) -> None:
    def train(work: Work) -> Payload:
        raise error

    with running(tmp_path, softmax(), clients=1, stay=True) as server:
        with Client(server.url, "c0") as client, pytest.raises(type(error)):
            client.run(train)
        assert (tmp_path / "softmax" / "failures.jsonl").exists()


def test_an_answer_that_does_not_fit_is_a_failure_too(tmp_path: Path) -> None:
    told: list[bool] = []

    def wrong(work: Work) -> Payload:
        flat = work.model.flat * float("nan")
        return Payload(work.model.with_flat(flat), 1)

    with running(tmp_path, softmax(), clients=1, stay=True) as server:
        with Client(server.url, "c0") as client, pytest.raises(GaveUp, match="2 tasks in a row"):
            labor(client, wrong, settled=told.append, failures=2)
        assert told == [False, False]


def test_a_client_that_is_stopped_begins_no_task(tmp_path: Path) -> None:
    begun: list[int] = []

    def train(work: Work) -> Payload:
        begun.append(work.task.id)
        return answer_of(work)

    with running(tmp_path, softmax(), clients=1, stay=True) as server:
        with Client(server.url, "c0") as client:

            def turn() -> nullcontext[None]:
                client.stop()  # while it waited for its turn
                return nullcontext()

            assert labor(client, train, turn=turn) == ""
        assert begun == []


def test_turns_share_time_evenly() -> None:
    """Tasks of 5 and of 1: the time is shared, not the number; and nobody saves time up."""
    now = [0.0]
    turns, spent = Turns(lambda: now[0]), {"long": 0.0, "short": 0.0, "late": 0.0}
    gate = threading.Barrier(3)
    lock = threading.Lock()

    def run(name: str, seconds: float, until: float) -> None:
        gate.wait()
        while now[0] < until:
            with turns.take(name):
                with lock:
                    now[0] += seconds
                    spent[name] += seconds
                time.sleep(0.001)  # the others get to ask meanwhile

    threads = [
        threading.Thread(target=run, args=given)
        for given in (("long", 5.0, 200.0), ("short", 1.0, 200.0))
    ]
    for thread in threads:
        thread.start()
    gate.wait()
    for thread in threads:
        thread.join(20)
    assert abs(spent["long"] - spent["short"]) <= 12
    gate = threading.Barrier(3)
    before = dict(spent)
    threads = [
        threading.Thread(target=run, args=given)
        for given in (("late", 2.0, 300.0), ("short", 2.0, 300.0))
    ]
    for thread in threads:
        thread.start()
    gate.wait()
    for thread in threads:
        thread.join(20)
    assert abs(spent["late"] - (spent["short"] - before["short"])) <= 12


def test_turns_exclude_each_other_whatever_happens() -> None:
    turns, inside, most, rng = Turns(), [0], [0], random.Random(1)
    pauses = {name: [rng.random() * 0.002 for _ in range(20)] for name in "abcd"}

    def run(name: str) -> None:
        for pause in pauses[name]:
            try:
                with turns.take(name):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(pause)
                    inside[0] -= 1
                    if pause > 0.0015:
                        raise ValueError("a task failed")
            except ValueError:
                continue

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert most[0] == 1
