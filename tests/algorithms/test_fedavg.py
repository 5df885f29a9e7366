"""FedAvg's rounds against scripts of events, closed forms and order statistics."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from shoal import plain
from shoal.algorithms._round import Round
from shoal.algorithms.fedavg import BEGIN, FedAvg, fedavg, schedule
from shoal.combinators import relay
from shoal.errors import ConfigError
from shoal.exchange import Given
from shoal.messages import (
    Abandon,
    Action,
    Aggregate,
    Cancel,
    Commit,
    Dispatch,
    Task,
    Timer,
)
from shoal.tensors import equal
from shoal.testing import MODEL, Script
from shoal.trainers.quadratic import Quadratic
from support import Q3_P

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
P = np.array(Q3_P) / sum(Q3_P)
NEXT = Timer(BEGIN, 0.0)


def dispatches(*clients: str) -> list[Action]:
    return [Dispatch(client) for client in clients]


# Rounds


def test_a_round_folds_on_arrival_commits_and_makes_for_the_next() -> None:
    script = Script(FedAvg()).join("a", "b", "c")
    assert script.start() == dispatches("a", "b", "c")
    assert script.update("b", num_examples=7) == [Aggregate(1, 7.0)]
    assert script.node.held == {}
    assert script.update("a", num_examples=2) == [Aggregate(0, 2.0)]
    assert script.update("c", num_examples=1) == [Aggregate(2, 1.0), Commit(), NEXT]
    assert script.wait(0) == dispatches("a", "b", "c")
    assert {task.version for task in script.node.tasks.values()} == {1}


def test_equal_weights_do_not_count_examples() -> None:
    script = Script(FedAvg(weighting="equal")).join("a", "b")
    script.start()
    assert script.update("a", num_examples=7) == [Aggregate(0, 1.0)]


def test_variable_local_work_counts_like_any_other() -> None:
    script = Script(FedAvg()).join("a", "b")
    script.start()
    assert script.update("a", num_examples=4, steps=1) == [Aggregate(0, 4.0)]
    assert script.update("b", num_examples=4, steps=90)[0] == Aggregate(1, 4.0)


def test_over_selection_takes_the_first_and_cancels_the_rest() -> None:
    script = Script(FedAvg(cohort=2, over_selection=1.5)).join("a", "b", "c")
    assert script.start() == dispatches("a", "b", "c")
    script.update("c")
    assert script.update("a") == [Aggregate(0), Cancel(1), Commit(), NEXT]
    assert script.update("b") == [NEXT]  # acknowledged and dropped; "b" is idle again
    assert script.wait(0) == dispatches("a", "b", "c")
    assert script.node.version == 1


def test_a_client_that_was_cancelled_takes_a_place_once_it_answers() -> None:
    script = Script(FedAvg(cohort=2, over_selection=1.5)).join("a", "b", "c")
    script.start()
    script.update("a")
    script.update("b")
    assert script.wait(0) == dispatches("a", "b")
    assert script.fail("c", "cancelled") == dispatches("c")
    assert script.update("c") == [Aggregate(5)]
    assert script.update("a") == [Aggregate(3), Cancel(4), Commit(), NEXT]


def test_the_deadline_takes_what_has_arrived() -> None:
    script = Script(FedAvg(deadline=10.0, quorum=2)).join("a", "b", "c")
    assert script.start() == [*dispatches("a", "b", "c"), Timer("round 0.0", 10.0)]
    script.update("a")
    script.update("b")
    late = [Cancel(2), Timer("round 0.0", None), Commit(), Timer(BEGIN, 10.0)]
    assert script.wait(10) == [*late, *dispatches("a", "b"), Timer("round 1.1", 20.0)]
    assert script.node.version == 1
    assert script.update("c") == dispatches("c")  # dropped, and free for the place that is left


def test_a_missed_quorum_abandons_the_round_and_changes_nothing() -> None:
    script = Script(FedAvg(deadline=10.0, quorum=2, replace_failed=True)).join("a", "b", "c")
    script.start()
    script.update("a")
    before = script.node.model
    actions = script.wait(10)
    assert actions[:4] == [Cancel(1), Cancel(2), Timer("round 0.0", None), Abandon()]
    assert script.node.version == 0
    assert equal(script.node.model, before)
    assert script.node.plane.folded == 0  # type: ignore[attr-defined]
    assert script.node.tasks == {}  # one idle client is less than the quorum
    script.fail("b", "cancelled")
    assert script.wait(0) == [*dispatches("a", "b"), Timer("round 0.1", 20.0)]


def test_a_completed_round_clears_its_deadline() -> None:
    script = Script(FedAvg(deadline=10.0)).join("a")
    script.start()
    script.wait(4)
    assert Timer("round 0.0", None) in script.update("a")
    assert script.wait(0) == [Dispatch("a"), Timer("round 1.1", 14.0)]
    assert script.wait(9) == []
    assert script.node.version == 1


# Failures, departures, newcomers


def test_failures_shrink_the_round() -> None:
    script = Script(FedAvg(cohort=3)).join("a", "b", "c", "d")
    out = {action.client for action in script.start() if isinstance(action, Dispatch)}
    one, two, three = sorted(out)
    assert script.fail(one) == []
    assert script.leave(two) == []
    assert script.update(three)[1:] == [Commit(), NEXT]


def test_another_client_takes_the_place_of_one_that_fails() -> None:
    script = Script(FedAvg(cohort=2, replace_failed=True)).join("a", "b", "c", "d")
    out = [action.client for action in script.start() if isinstance(action, Dispatch)]
    (other,) = script.fail(out[0])
    assert isinstance(other, Dispatch)
    assert other.client not in out
    (last,) = script.leave(out[1])
    assert isinstance(last, Dispatch)
    assert {other.client, last.client} | set(out) == set("abcd")
    assert script.fail(last.client) == []  # nobody is left who was not asked
    assert script.arrive("e") == dispatches("e")
    script.update("e")
    assert script.update(other.client)[1:] == [Commit(), NEXT]


def test_a_round_in_which_all_fail_is_abandoned() -> None:
    script = Script(FedAvg()).join("a", "b")
    script.start()
    script.fail("a")
    assert script.fail("b") == [Abandon(), NEXT]
    assert script.wait(0) == dispatches("a", "b")
    assert script.node.version == 0


def test_a_round_that_cannot_reach_its_quorum_ends_at_once() -> None:
    script = Script(FedAvg(quorum=2)).join("a", "b", "c")
    script.start()
    script.update("a")
    assert script.fail("b") == []
    assert script.fail("c") == [Abandon(), NEXT]
    script = Script(FedAvg(quorum=2)).join("a", "b")
    script.start()
    assert script.fail("a") == [Cancel(1), Abandon(), NEXT]


def test_rounds_wait_for_clients() -> None:
    script = Script(FedAvg(cohort=3, quorum=2))
    assert script.start() == []
    assert script.arrive("a") == [NEXT]
    assert script.wait(0) == []
    script.arrive("b")
    assert script.wait(0) == dispatches("a", "b")
    assert script.arrive("c") == dispatches("c")  # the cohort was not full
    assert script.arrive("d") == []
    assert script.leave("a") == []
    script.update("b")
    assert script.update("c")[1:] == [Commit(), NEXT]
    assert script.leave("b") == []
    assert script.wait(0) == dispatches("c", "d")


def test_a_client_works_once_per_round_even_if_it_comes_back() -> None:
    script = Script(FedAvg(cohort=3, replace_failed=True)).join("a", "b")
    script.start()
    script.update("a")
    script.leave("a")
    assert script.arrive("a") == []
    assert script.update("b")[1:] == [Commit(), NEXT]


def test_everyone_leaving_pauses_the_run() -> None:
    script = Script(FedAvg()).join("a")
    script.start()
    assert script.leave("a") == [Abandon(), NEXT]
    assert script.wait(0) == []
    script.arrive("a")
    assert script.wait(0) == dispatches("a")


# The cohort


@pytest.mark.parametrize(
    ("rounds", "present", "invited"),
    [
        (FedAvg(fraction=0.1), 50, 5),
        (FedAvg(fraction=0.1), 3, 1),
        (FedAvg(fraction=0.1, quorum=2), 3, 2),
        (FedAvg(fraction=1.0), 7, 7),
        (FedAvg(cohort=10, over_selection=1.3), 50, 13),
        (FedAvg(cohort=10, over_selection=1.1), 50, 11),  # 1.1 * 10 is above 11 in binary
        (FedAvg(cohort=10, over_selection=1.01), 50, 11),
        (FedAvg(cohort=10), 4, 4),
    ],
)
def test_how_many_are_invited(rounds: FedAvg, present: int, invited: int) -> None:
    script = Script(rounds).join(*(f"c{i}" for i in range(present)))
    assert len(script.start()) == invited


def test_cohorts_are_uniform_and_differ_from_round_to_round() -> None:
    script = Script(FedAvg(cohort=3)).join(*"abcdefghij")
    script.start()
    seen: Counter[str] = Counter()
    rounds = 2000
    for _ in range(rounds):
        cohort = [task.client for task in script.node.tasks.values()]
        seen.update(cohort)
        for client in cohort:
            script.update(client)
        script.wait(0)
    deviation = np.sqrt(rounds * 0.3 * 0.7)
    assert len(seen) == 10
    assert all(abs(count - 0.3 * rounds) < 4 * deviation for count in seen.values())


def test_replacements_are_uniform() -> None:
    seen: Counter[str] = Counter()
    for seed in range(600):
        script = Script(FedAvg(cohort=1, replace_failed=True), seed=seed).join(*"abcd")
        (first,) = script.start()
        assert isinstance(first, Dispatch)
        (second,) = script.fail(first.client)
        assert isinstance(second, Dispatch)
        seen[first.client + second.client] += 1
    assert len(seen) == 12
    assert max(abs(count - 50) for count in seen.values()) < 4 * np.sqrt(50)


def test_a_relay_draws_other_clients_for_each_task_of_its_parent() -> None:
    script = Script(relay(FedAvg(cohort=2))).join(*"abcdefgh")
    cohorts = set()
    for number in range(8):
        script.node.handle(Given(Task(number, "edge", number), MODEL), 0.0)
        cohort = [task.client for task in script.node.tasks.values()]
        cohorts.add(tuple(cohort))
        for client in cohort:
            script.update(client)
    assert len(cohorts) > 4


def test_a_state_within_a_round_has_a_plain_form() -> None:
    script = Script(FedAvg(cohort=2, over_selection=1.5, deadline=9.0)).join("a", "b", "c")
    script.start()
    script.update("b")
    assert script.state == Round(1, "round 0.0", 2, 0, 2, 1, frozenset("abc"))
    assert plain.decode(Round, plain.encode(script.state)) == script.state


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("cohort", {"cohort": 0}),
        ("cohort", {"cohort": -1}),
        ("fraction", {"fraction": 0.0}),
        ("fraction", {"fraction": 1.5}),
        ("fraction", {"cohort": 3, "fraction": 0.5}),
        ("over_selection", {"cohort": 3, "over_selection": 0.9}),
        ("over_selection", {"over_selection": 1.3}),
        ("over_selection", {"cohort": 3, "over_selection": float("nan")}),
        ("quorum", {"quorum": 0}),
        ("quorum", {"cohort": 3, "quorum": 4}),
        ("deadline", {"deadline": 0.0}),
        ("deadline", {"deadline": float("inf")}),
        ("weighting", {"weighting": "examples2"}),
        ("mean_examples", {"weighting": "unbiased"}),
        ("mean_examples", {"mean_examples": 3.0}),
        ("mean_examples", {"weighting": "unbiased", "mean_examples": 0.0}),
    ],
)
def test_bad_hyperparameters(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        fedavg(trainer=TRAINER, **values)
    assert caught.value.field == field


def test_a_cohort_is_given_once() -> None:
    assert schedule(4, FedAvg(deadline=9.0)) == FedAvg(cohort=4, deadline=9.0)
    assert schedule(None, FedAvg(cohort=4)) == FedAvg(cohort=4)
    with pytest.raises(ConfigError, match="not both"):
        schedule(4, FedAvg(cohort=4))


# Closed forms
