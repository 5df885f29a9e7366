"""Virtual time: who arrives when, what is lost on the way, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from shoal import exchange as ex
from shoal.aggregators import Mean, Sum
from shoal.core import Algorithm, Chain, Coordinator, View
from shoal.errors import DataError, Stalled
from shoal.messages import Action, Aggregate, Cancel, Commit, Dispatch, Task, Timer, Update
from shoal.node import Node
from shoal.planes import Local
from shoal.simulation import Constant, Devices, OnOff
from shoal.trainers.quadratic import Quadratic
from shoal.transports import Simulator, run
from support import play, q3

TRAINER = Quadratic(lr=0.1, local_steps=10)


@dataclass(frozen=True)
class Eager(Coordinator[tuple[str, ...]]):
    """Everyone always works; every answer is a commit. Its state says what it saw, in order."""

    def init(self) -> tuple[str, ...]:
        return ()

    def on_start(self, state: tuple[str, ...], view: View) -> tuple[Any, Sequence[Action]]:
        return state, [Dispatch(client) for client in view.idle]

    def on_join(self, state: Any, client: str, view: View) -> tuple[Any, Sequence[Action]]:
        return (*state, f"+{client} {view.now:g}"), [Dispatch(client)]

    def on_leave(self, state: Any, client: str, view: View) -> tuple[Any, Sequence[Action]]:
        return (*state, f"-{client} {view.now:g}"), ()

    def on_update(self, state: Any, update: Update, view: View) -> tuple[Any, Sequence[Action]]:
        seen = f"{update.client} {view.now:g}"
        return (*state, seen), [Aggregate(update.id), Commit(), Dispatch(update.client)]

    def on_fail(
        self, state: Any, task: Task, reason: str, view: View
    ) -> tuple[Any, Sequence[Action]]:
        again = [Dispatch(task.client)] if task.client in view.idle else []
        return (*state, f"{task.client} {reason} {view.now:g}"), again

    def on_timeout(self, state: Any, timer: str, view: View) -> tuple[Any, Sequence[Action]]:
        return (*state, f"{timer} {view.now:g}"), ()


def algorithm(coordinator: Coordinator[Any] = Eager(), trainer: Any = TRAINER) -> Algorithm:
    return Algorithm(coordinator, trainer, Sum())


def test_arrivals_follow_the_speeds() -> None:
    devices = Devices(speeds={"c0": 1.0, "c1": 2.5, "c2": 4.0})
    played = play(algorithm(), q3(), 6, devices=devices)
    arrivals = [(t.client, t.arrived) for t in played.tasks if t.outcome == "aggregated"]
    expected = [("c0", 10), ("c0", 20), ("c1", 25), ("c0", 30), ("c2", 40), ("c0", 40)]
    assert sorted(arrivals) == sorted(expected)


def test_links_add_the_bytes_on_the_wire() -> None:
    slow = Devices(down=Constant(10.0), up=Constant(20.0))
    played = play(algorithm(), {"c0": q3()["c0"]}, 1, devices=slow)
    task = played.tasks[0]
    assert 8 < task.bytes_down < task.bytes_up  # the counts of an update go with it
    assert task.arrived == pytest.approx(10 + task.bytes_down / 10 + task.bytes_up / 20)


def test_updates_come_before_timers_of_the_same_time() -> None:
    @dataclass(frozen=True)
    class Timed(Eager):
        def on_start(self, state: Any, view: View) -> tuple[Any, Sequence[Action]]:
            return state, [Timer("t", 10.0), Dispatch("c0")]

    played = play(algorithm(Timed()), {"c0": q3()["c0"]}, 2)
    assert played.node.state.inner[:2] == ("c0 10", "t 10")


def test_a_cancelled_task_is_never_computed() -> None:
    class Counting(Quadratic):
        def train(self, *args: Any) -> Any:
            computed.append(args[3].id)
            return super().train(*args)

    @dataclass(frozen=True)
    class Cancelling(Eager):
        def on_update(self, state: Any, update: Update, view: View) -> tuple[Any, Any]:
            out = [Cancel(task) for task in view.in_flight]
            return state, [Aggregate(update.id), Commit(), *out, Dispatch(update.client)]

    computed: list[int] = []
    trainer = Counting(lr=0.1, local_steps=10)
    devices = Devices(speeds={"c0": 1.0, "c1": 50.0, "c2": 70.0})
    played = play(algorithm(Cancelling(), trainer), q3(), 3, devices=devices)
    cancelled = {t.task for t in played.tasks if t.outcome == "cancelled"}
    assert len(computed) == 3
    assert not cancelled & set(computed)


def test_dropout_fails_tasks_and_keeps_the_run_going() -> None:
    played = play(algorithm(), q3(), 200, devices=Devices(dropout=0.25))
    lost = [t for t in played.tasks if t.reason == "dropped out"]
    finished = [t for t in played.tasks if t.outcome == "aggregated"]
    assert len(lost) / (len(lost) + len(finished)) == pytest.approx(0.25, abs=0.08)
    assert all(0 < t.ended - t.started < 10 for t in lost)


def test_clients_leave_and_come_back() -> None:
    devices = Devices(availability=OnOff(Constant(25.0), Constant(15.0), 1.0))
    played = play(algorithm(), {"c0": q3()["c0"]}, 4, devices=devices)
    seen = played.node.state.inner
    assert seen[:3] == ("c0 10", "c0 20", "c0 the client left 25")
    assert seen[3:5] == ("-c0 25", "+c0 40")


def test_a_coordinator_that_does_nothing_is_a_stall() -> None:
    class Idle(Eager):
        def on_start(self, state: Any, view: View) -> tuple[Any, Sequence[Action]]:
            return state, ()

    with pytest.raises(Stalled, match="3 clients, nothing in flight"):
        play(algorithm(Idle()), q3(), 1)


def test_a_client_without_data_is_named() -> None:
    clients = q3()
    clients["c1"] = clients["c1"].take(np.array([], dtype=np.int64))
    with pytest.raises(DataError, match="'c1' has no data"):
        play(algorithm(), clients, 3)


def test_private_values_never_leave_the_client() -> None:
    class Leaky(Quadratic):
        def train(self, model: Any, *rest: Any) -> Any:
            payload, state = super().train(model, *rest)
            tensors = payload.tensors.with_group("private/", model)
            return type(payload)(tensors, payload.num_examples, payload.steps), state

    made = algorithm(trainer=Leaky(lr=0.1, local_steps=10))
    simulator = Simulator(made, q3(), Devices())
    node = Node(made.coordinator, Local(Mean(), Chain()), made.trainer.initial(0))
    pushes = 0
    while pushes < 3:
        given, now = simulator.receive()
        if isinstance(given, ex.Push):
            pushes += 1
            assert "private/" not in given.payload.tensors.groups
        for effect in node.handle(given, now):
            simulator.perform(effect)


def test_run_is_the_loop() -> None:
    from shoal.combinators import until

    made = algorithm()
    node = Node(until(made.coordinator, seconds=35.0), Local(Sum(), Chain()), TRAINER.initial(0))
    run(node, Simulator(made, q3(), Devices()))
    assert node.stopped == "35.0 s are over"
    assert node.now == 35.0
