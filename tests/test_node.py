"""The engine's semantics, one test each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from shoal import exchange as ex
from shoal.aggregators import Mean
from shoal.core import Chain, Coordinator, View
from shoal.errors import ModelError, ProtocolError, Stalled
from shoal.messages import (
    Abandon,
    Action,
    Aggregate,
    Cancel,
    Commit,
    Discard,
    Dispatch,
    Evaluate,
    EvaluationRecord,
    Event,
    Failed,
    Payload,
    Started,
    Stop,
    TaskRecord,
    TimedOut,
    Timer,
    Updated,
)
from shoal.node import Node
from shoal.planes import Local
from shoal.tensors import Tensors
from shoal.testing import MODEL, Script


@dataclass(frozen=True)
class Scripted(Coordinator[tuple[Event, ...]]):
    """Answers each event with the next list of actions; its state is the events so far."""

    answers: Sequence[Sequence[Action]]
    keep: tuple[int, ...] = ()
    seen: list[Any] = field(default_factory=list)

    def init(self) -> tuple[Event, ...]:
        return ()

    def handle(
        self, state: tuple[Event, ...], event: Event, view: View
    ) -> tuple[tuple[Event, ...], Sequence[Action]]:
        self.seen.append((event, view.now, view.version, list(view.idle)))
        actions = self.answers[len(state)] if len(state) < len(self.answers) else ()
        return (*state, event), actions

    def held(self, state: tuple[Event, ...]) -> Sequence[int]:
        return self.keep


def node(*answers: Sequence[Action], keep: tuple[int, ...] = ()) -> tuple[Node, Scripted]:
    coordinator = Scripted(answers, keep)
    made = Node(coordinator, Local(Mean(), Chain()), MODEL)
    for client in ("a", "b"):
        made.handle(ex.Join(client), 0.0)
    return made, coordinator


def delta(value: float, **changes: Any) -> Payload:
    return Payload(Tensors.of({"x": np.array([value])}), 1, **changes)


def outcomes(effects: Sequence[Any]) -> list[tuple[int, str]]:
    return [(e.task, e.outcome) for e in effects if isinstance(e, TaskRecord)]


def test_clients_before_the_start_are_seen_not_announced() -> None:
    made, seen = node([])
    made.handle(ex.Begin(), 0.0)
    made.handle(ex.Join("c"), 1.0)
    assert [type(event).__name__ for event, *_ in seen.seen] == ["Started", "Joined"]
    assert seen.seen[0][3] == ["a", "b"]


def test_dispatch_after_commit_carries_the_new_version() -> None:
    made, _ = node([Dispatch("a")], [Aggregate(0), Commit(), Dispatch("a"), Dispatch("b")])
    made.handle(ex.Begin(), 0.0)
    effects = made.handle(ex.Push(0, "a", delta(2.0)), 5.0)
    tasks = [e.task for e in effects if isinstance(e, ex.Assign)]
    assert [(t.client, t.version, t.number) for t in tasks] == [("a", 1, 1), ("b", 1, 0)]
    assert made.model["x"][0] == 2.0


def test_a_repeated_answer_counts_once() -> None:
    made, _ = node([Dispatch("a")], [Aggregate(0), Commit()])
    made.handle(ex.Begin(), 0.0)
    made.handle(ex.Push(0, "a", delta(2.0)), 1.0)
    assert made.handle(ex.Push(0, "a", delta(2.0)), 1.0) == []
    assert made.version == 1
    assert made.model["x"][0] == 2.0


def test_an_answer_by_the_wrong_client_does_not_count() -> None:
    made, seen = node([Dispatch("a")])
    made.handle(ex.Begin(), 0.0)
    assert made.handle(ex.Push(0, "b", delta(2.0)), 1.0) == []
    assert len(seen.seen) == 1


def test_double_booking_raises() -> None:
    made, _ = node([Dispatch("a"), Dispatch("a")])
    with pytest.raises(ProtocolError, match="'a': it is busy"):
        made.handle(ex.Begin(), 0.0)


def test_dispatch_to_a_stranger_raises() -> None:
    made, _ = node([Dispatch("z")])
    with pytest.raises(ProtocolError, match="'z': it is not here"):
        made.handle(ex.Begin(), 0.0)


def test_a_leaked_update_raises() -> None:
    made, _ = node([Dispatch("a")], [])
    made.handle(ex.Begin(), 0.0)
    with pytest.raises(ProtocolError, match=r"updates \[0\] .* neither"):
        made.handle(ex.Push(0, "a", delta(1.0)), 1.0)


def test_an_update_may_be_held() -> None:
    made, _ = node([Dispatch("a")], [], keep=(0,))
    made.handle(ex.Begin(), 0.0)
    made.handle(ex.Push(0, "a", delta(1.0)), 1.0)
    assert set(made.held) == {0}


def test_aggregating_twice_raises() -> None:
    made, _ = node([Dispatch("a")], [Aggregate(0), Aggregate(0)])
    made.handle(ex.Begin(), 0.0)
    with pytest.raises(ProtocolError, match="update 0 is not held"):
        made.handle(ex.Push(0, "a", delta(1.0)), 1.0)


def test_staleness_is_counted_when_aggregated() -> None:
    made, _ = node(
        [Dispatch("a"), Dispatch("b")], [Aggregate(0), Commit()], [Aggregate(1), Commit()]
    )
    made.handle(ex.Begin(), 0.0)
    made.handle(ex.Push(0, "a", delta(1.0)), 1.0)
    effects = made.handle(ex.Push(1, "b", delta(1.0)), 2.0)
    assert [e.staleness for e in effects if isinstance(e, TaskRecord)] == [1]


def test_a_cancelled_client_is_busy_until_it_answers() -> None:
    made, seen = node([Dispatch("a")], [Cancel(0)])
    made.handle(ex.Begin(), 0.0)
    effects = made.handle(ex.Join("c"), 1.0)
    assert any(isinstance(e, ex.Revoke) for e in effects)
    assert made.idle == ["b", "c"]
    effects = made.handle(ex.Push(0, "a", delta(9.0)), 2.0)
    assert outcomes(effects) == [(0, "cancelled")]
    assert seen.seen[-1][0].reason == "cancelled"
    assert made.idle == ["a", "b", "c"]
    assert made.model["x"][0] == 0.0


def test_a_lease_ends_a_task_and_a_late_answer_is_dropped() -> None:
    made, seen = node([Dispatch("a", lease=10.0)])
    effects = made.handle(ex.Begin(), 0.0)
    wake = next(e for e in effects if isinstance(e, ex.Wake))
    made.handle(ex.Tick(wake.timer, wake.at), 10.0)
    assert isinstance(seen.seen[-1][0], Failed)
    assert "lease of 10.0 s" in seen.seen[-1][0].reason
    assert made.idle == ["a", "b"]
    assert made.handle(ex.Push(0, "a", delta(1.0)), 11.0) == []


def test_an_answer_in_time_ends_its_lease() -> None:
    made, seen = node([Dispatch("a", lease=10.0)], [Aggregate(0)])
    effects = made.handle(ex.Begin(), 0.0)
    wake = next(e for e in effects if isinstance(e, ex.Wake))
    made.handle(ex.Push(0, "a", delta(1.0)), 5.0)
    assert made.handle(ex.Tick(wake.timer, wake.at), 10.0) == []
    assert not any(isinstance(event, Failed) for event, *_ in seen.seen)


def test_a_client_that_leaves_fails_its_task_first() -> None:
    made, seen = node([Dispatch("a")])
    made.handle(ex.Begin(), 0.0)
    effects = made.handle(ex.Leave("a"), 3.0)
    assert [type(event).__name__ for event, *_ in seen.seen] == ["Started", "Failed", "Left"]
    assert outcomes(effects) == [(0, "failed")]
    assert made.idle == ["b"]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (delta(float("nan")), "NaN or infinity"),
        (Payload(Tensors.of({"y": np.zeros(1)}), 1), "without x and with unknown y"),
        (Payload(Tensors.of({"x": np.zeros(2)}), 1), "x has shape"),
        (Payload(Tensors.of({"x": np.zeros(1, np.float32)}), 1), "dtype float32"),
        (Payload(MODEL, 0), "num_examples is 0"),
        (Payload(MODEL, 1, kind="gradient"), "'gradient'"),
    ],
)
def test_a_bad_update_is_rejected_and_the_run_goes_on(payload: Payload, words: str) -> None:
    made, seen = node([Dispatch("a")], [Dispatch("a")], [Aggregate(1), Commit()])
    made.handle(ex.Begin(), 0.0)
    effects = made.handle(ex.Push(0, "a", payload), 1.0)
    assert outcomes(effects) == [(0, "rejected")]
    assert words in seen.seen[-1][0].reason
    assert "'a'" in seen.seen[-1][0].reason
    made.handle(ex.Push(1, "a", delta(1.0)), 2.0)
    assert made.version == 1


def test_a_later_timer_replaces_an_earlier_one_of_its_name() -> None:
    made, seen = node([Timer("t", 5.0)], [Timer("t", 8.0)])
    first = made.handle(ex.Begin(), 0.0)
    second = made.handle(ex.Join("c"), 1.0)
    wakes = [e for e in (*first, *second) if isinstance(e, ex.Wake)]
    made.handle(ex.Tick(wakes[0].timer, wakes[0].at), 5.0)
    assert not any(isinstance(event, TimedOut) for event, *_ in seen.seen)
    made.handle(ex.Tick(wakes[1].timer, wakes[1].at), 8.0)
    assert seen.seen[-1][0] == TimedOut("t")


def test_a_cleared_timer_never_comes() -> None:
    made, seen = node([Timer("t", 5.0)], [Timer("t", None)])
    wake = made.handle(ex.Begin(), 0.0)[-1]
    made.handle(ex.Join("c"), 1.0)
    assert isinstance(wake, ex.Wake)
    assert made.handle(ex.Tick(wake.timer, wake.at), 5.0) == []
    assert len(seen.seen) == 2


def test_a_commit_with_nothing_folded_leaves_the_model() -> None:
    made, _ = node([Commit()])
    before = made.model
    made.handle(ex.Begin(), 0.0)
    assert made.version == 1
    assert made.model is before


def test_abandon_forgets_what_was_folded() -> None:
    made, _ = node([Dispatch("a")], [Aggregate(0), Abandon(), Commit()])
    made.handle(ex.Begin(), 0.0)
    made.handle(ex.Push(0, "a", delta(5.0)), 1.0)
    assert made.model["x"][0] == 0.0


def test_a_stall_names_the_last_events() -> None:
    made, _ = node([])
    made.handle(ex.Begin(), 0.0)
    with pytest.raises(Stalled, match=r"2 clients, nothing in flight.*Started"):
        made.handle(ex.Quiet(), 0.0)


def test_stop_waits_for_the_evaluation_and_drops_the_rest() -> None:
    made, _ = node([Dispatch("a")], [Evaluate(), Stop("enough"), Commit(), Discard(99)])
    made.handle(ex.Begin(), 0.0)
    effects = made.handle(ex.Join("c"), 1.0)
    assert outcomes(effects) == [(0, "cancelled")]
    assert not made.done
    assert made.version == 0
    assert made.handle(ex.Push(0, "a", delta(1.0)), 2.0) == []
    effects = made.handle(ex.Assessed(0, {"accuracy": 0.5}), 3.0)
    assert effects == [EvaluationRecord(3.0, 0, {"accuracy": 0.5})]
    assert made.done


def test_updates_held_at_the_end_are_discarded() -> None:
    made, _ = node([Dispatch("a")], [], [Stop()], keep=(0,))
    made.handle(ex.Begin(), 0.0)
    made.handle(ex.Push(0, "a", delta(1.0)), 1.0)
    effects = made.handle(ex.Join("c"), 2.0)
    assert outcomes(effects) == [(0, "discarded")]


def test_a_model_payload_becomes_a_delta_to_the_current_model() -> None:
    made, _ = node(
        [Dispatch("a"), Dispatch("b")], [Aggregate(0), Commit()], [Aggregate(1), Commit()]
    )
    made.handle(ex.Begin(), 0.0)
    made.handle(ex.Push(0, "a", delta(3.0)), 1.0)
    made.handle(ex.Push(1, "b", delta(7.0, kind="model")), 2.0)
    assert made.model["x"][0] == 7.0


def test_a_model_with_nan_is_refused() -> None:
    with pytest.raises(ModelError, match="initial model"):
        Node(Scripted([]), Local(Mean(), Chain()), Tensors.of({"x": np.array([np.nan])}))


def test_time_may_not_run_backwards() -> None:
    made, _ = node()
    made.handle(ex.Begin(), 2.0)
    with pytest.raises(ProtocolError, match="backwards"):
        made.handle(ex.Join("c"), 1.0)


def test_evaluation_tasks_carry_metrics_and_nothing_to_aggregate() -> None:
    made, seen = node([Dispatch("a", kind="evaluate")], [])
    made.handle(ex.Begin(), 0.0)
    payload = Payload(Tensors.of({}), 5, 0, metrics={"loss": 1.0})
    made.handle(ex.Push(0, "a", payload), 1.0)
    event = seen.seen[-1][0]
    assert isinstance(event, Updated)
    assert event.update.kind == "evaluate"
    assert event.update.metrics == {"loss": 1.0}


def test_a_part_of_the_model_goes_out_and_must_come_back() -> None:
    model = Tensors.of({"u": np.zeros(2), "v": np.ones(3)})
    coordinator = Scripted([[Dispatch("a", part=("v",))], [Aggregate(0), Commit()]])
    made = Node(coordinator, Local(Mean(), Chain()), model)
    made.handle(ex.Join("a"), 0.0)
    assign = made.handle(ex.Begin(), 0.0)[0]
    assert isinstance(assign, ex.Assign)
    assert list(assign.model) == ["v"]
    made.handle(ex.Push(0, "a", Payload(Tensors.of({"v": np.full(3, 2.0)}), 1)), 1.0)
    assert made.model["v"].tolist() == [3.0, 3.0, 3.0]
    assert made.model["u"].tolist() == [0.0, 0.0]


def test_the_script_plays_a_real_node() -> None:
    play = Script(Scripted([[Dispatch("a")], [Aggregate(0, 1.0), Commit()]])).join("a")
    assert play.start() == [Dispatch("a")]
    assert play.update("a") == [Aggregate(0, 1.0), Commit()]
    assert play.node.version == 1
    assert isinstance(play.state[0], Started)
