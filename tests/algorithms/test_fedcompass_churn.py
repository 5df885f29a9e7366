import pytest
from compass_support import dispatched, folded, join, late_then_on_time

from shoal.algorithms.compass_groups import Bounds, CompassState, Group
from shoal.algorithms.fedcompass import FedCompass
from shoal.messages import (
    Aggregate,
    Commit,
    Dispatch,
    Timer,
)
from shoal.testing import Script

# Late arrivals, leaves, failures


def test_a_late_and_an_on_time_update_of_one_client_both_count() -> None:
    script, late = late_then_on_time()
    script.wait(88)
    on_time = script.task("a").id
    script.update("a", steps=70)
    assert script.node.held.keys() == {late, on_time}
    script.wait(2)
    b = script.task("b").id
    actions = script.update("b", steps=100)
    assert folded(actions) == [late, on_time, b]
    assert actions.count(Commit()) == 1
    assert not script.node.held
    weights = {act.update: act.weight for act in actions if isinstance(act, Aggregate)}
    # The late one has seen three commits fewer: b's first, G0 ... its staleness is asked now.
    assert weights[late] == pytest.approx(0.9 * (1 + 2) ** -0.5 / 2)
    assert weights[on_time] == weights[b] == pytest.approx(0.9 / 2)


def test_late_updates_are_committed_when_no_group_is_left_to_do_it() -> None:
    script, late = late_then_on_time()
    assert folded(script.leave("b")) == []  # a is still at work and will bring it in
    actions = script.leave("a")
    assert folded(actions) == [late]
    assert Commit() in actions
    assert not script.node.held and not script.state.groups


def test_a_group_goes_at_once_when_its_last_pending_client_leaves() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0, c=1.0)
    script.wait(100)
    a, b = script.task("a").id, script.task("b").id
    script.update("a", steps=100)
    script.update("b", steps=100)
    actions = script.leave("c")
    assert folded(actions) == [a, b]
    assert [client for client, _ in dispatched(actions)] == ["a", "b"]
    assert script.state.groups.keys() == {1}


def test_a_failing_client_gets_a_task_after_its_group_has_gone() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    script.update("a", steps=100)
    version = script.node.version
    actions = script.fail("b")
    assert [client for client, _ in dispatched(actions)] == ["a", "b"]
    assert script.task("b").version == version + 1
    assert script.state.groups[1].pending == ("a", "b")


def test_a_client_that_leaves_while_it_waits_gives_its_update_and_gets_no_task() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    a = script.task("a").id
    script.update("a", steps=100)
    assert script.leave("a") == []
    b = script.task("b").id
    actions = script.update("b", steps=100)
    assert folded(actions) == [a, b]
    assert [client for client, _ in dispatched(actions)] == ["b"]


def test_a_client_that_comes_back_while_its_group_is_out_works_at_once() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    script.update("a", steps=100)
    script.leave("a")
    actions = script.arrive("a")
    assert dispatched(actions) == [("a", 100)]  # its speed is known: a new group, not a first
    assert script.state.group_of("a") == 1
    actions = script.update("b", steps=100)
    assert [client for client, _ in dispatched(actions)] == ["b"]


def test_everyone_leaves_and_comes_back() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=2.0)
    script.leave("a")
    script.leave("b")
    assert not script.state.groups and not script.node.held and not script.node.timers
    assert [client for client, _ in dispatched(script.arrive("b"))] == ["b"]


def test_starting_with_nobody_waits_for_joins() -> None:
    script = Script(FedCompass(max_steps=50))
    assert script.start() == []
    assert dispatched(script.arrive("a")) == [("a", 50)]


def test_a_group_without_arrivals_stays_until_the_grace_is_over() -> None:
    script = Script(FedCompass(grace=2.0))
    join(script, a=1.0)
    assert script.wait(119) == []
    assert script.wait(2) == [Timer("group 0", pytest.approx(220 + 2 * 100))]
    assert script.state.groups[0].pending == ("a",) and not script.state.groups[0].open
    script.wait(201)
    assert not script.state.groups  # lost
    late = script.task("a").id
    assert script.node.tasks  # but still out: it may yet come
    actions = script.update("a", steps=100)
    assert folded(actions) == []
    assert [update.id for update in script.state.late] == [late]
    assert [client for client, _ in dispatched(actions)] == ["a"]
    following = script.task("a")
    script.wait(following.config["steps"] * script.state.speeds["a"])
    assert folded(script.update("a", steps=following.config["steps"])) == [late, following.id]


def test_losing_the_last_client_commits_what_was_late() -> None:
    script, late = late_then_on_time()
    script.leave("b")
    committed = [folded(script.wait(1)) for _ in range(1200)]
    assert [ids for ids in committed if ids] == [[late]]


def test_an_arrival_before_an_overdue_timer_is_late() -> None:
    """On a real clock a timer may come after the update that it should have come before."""
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    b = script.task("b").id
    script.update("b", steps=100)
    script.node.now += 50
    a = script.task("a").id
    actions = script.update("a", steps=100)
    assert folded(actions) == [a, b]  # its group is over: both go now
    assert {client for client, _ in dispatched(actions)} == {"a", "b"}


def test_an_arrival_right_after_the_timer_is_late() -> None:
    script = Script(FedCompass())
    join(script, a=1.0, b=1.0)
    script.wait(100)
    script.update("b", steps=100)
    script.wait(script.state.groups[0].latest - script.node.now)
    assert not script.state.groups[0].open
    a = script.task("a").id
    assert folded(script.update("a", steps=100)) == []
    assert [update.id for update in script.state.late] == [a]


# Groups


BOUNDS = Bounds(20, 100, 1.2, 5.0)


def known(groups: dict[int, Group], **speeds: float) -> CompassState:
    return CompassState(speeds, groups=groups, created=len(groups))


def test_the_group_with_most_steps_is_joined_and_the_last_of_equal_ones() -> None:
    groups = {n: Group(("b",), 0.0, at, 90.0) for n, at in enumerate([50.0, 60.9, 60.2, 140.0])}
    state, actions = BOUNDS.assign(known(groups, a=1.0, b=1.0), ["a"], now=10.0)
    assert actions == [Dispatch("a", {"steps": 50})]
    assert state.groups[2].pending == ("b", "a")


def test_a_new_group_aims_at_the_next_arrival_of_one_whose_time_is_not_over() -> None:
    groups = {0: Group(("b",), 0.0, 1.0, 10.0), 1: Group(("b",), 0.0, 1.0, 12.0, ("c",))}
    state = known(groups, a=2.0, b=1.0, c=0.5)
    assert BOUNDS.aimed(state, 2.0, now=9.0) == 50  # (10 + 1 * 100 - 9) / 2, not (53 / 2)
    assert BOUNDS.aimed(state, 2.0, now=10.0) == 26  # group 0 is over: (12 + .5 * 100 - 10) / 2
    assert BOUNDS.aimed(state, 2.0, now=12.0) == 100
    assert BOUNDS.aimed(state, 10.0, now=9.0) == 20  # 10 steps are too few
    assert BOUNDS.aimed(state, 0.6, now=9.0) == 88  # 168 are too many


# Speeds


@pytest.mark.parametrize(
    ("waited", "done", "speed"),
    [
        (100.0, 100, 1.0),
        (50.0, 50, 1.0),  # stopped early: the steps that it did tell its speed
        (200.0, 100, 0.1 + 0.9 * 2),
        (60.0, 60, 1.0),
        (100.0, 1, 0.1 + 0.9 * 4),  # 100 s per step is a glitch
        (0.0, 100, 0.1 + 0.9 * 0.25),
        (100.0, 0, 1.0),  # no step, nothing learned
    ],
)
def test_the_estimate_of_a_speed(waited: float, done: int, speed: float) -> None:
    script = Script(FedCompass(latest_time_factor=5.0))
    join(script, a=1.0)
    script.wait(waited)
    script.update("a", steps=done)
    assert script.state.speeds["a"] == pytest.approx(speed, rel=1e-12)


def test_a_client_that_takes_no_time_has_a_speed_above_zero() -> None:
    script = Script(FedCompass())
    script.join("a", "b")
    script.start()
    for _ in range(3):
        script.update("a", steps=100)
        assert script.state.speeds["a"] > 0
        assert 20 <= script.task("a").config["steps"] <= 100


def test_a_first_update_without_a_step_leaves_the_speed_unknown() -> None:
    script = Script(FedCompass(weighting="examples"))
    script.join("a")
    script.start()
    assert dispatched(script.update("a", steps=0)) == [("a", 100)]
    assert "a" not in script.state.speeds and not script.state.groups
    script.wait(100)
    script.update("a", steps=100)
    assert script.state.speeds == {"a": 1.0}
