"""Plans are checked when they are made: what is counted twice, or not at all, is refused."""

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.plans import (
    At,
    Fold,
    Lazy,
    Plan,
    PlanError,
    Quorum,
    flat,
    layered,
    manifest,
    shards,
    shards_tree,
    tree,
)


def test_builders_have_the_folds_of_the_table() -> None:
    assert len(flat(50).folds) == 1
    assert len(tree(50, 7).folds) == 8 + 2 + 1  # sum of ceil(50 / 7^j)
    assert len(layered(50, (8, 1)).folds) == 9
    assert len(shards(50, 4).folds) == 4
    assert len(shards_tree(50, 4, 7).folds) == 44
    assert tree(50, 7).shards == 1 and shards_tree(50, 4, 7).shards == 4


def test_goals_add_up_to_the_updates_and_fan_in_is_never_exceeded() -> None:
    for n in (1, 2, 3, 17, 100):
        for k in (2, 3, 8):
            plan = tree(n, k)
            assert sum(len(fold.updates) for fold in plan.folds) == n
            assert max(fold.goal for fold in plan.folds) <= k
            assert [len(level) for level in plan.levels][-1] == 1


@pytest.mark.parametrize(
    ("folds", "units", "says"),
    [
        ([Fold("a", (0, 1)), Fold("b", (1, 2)), Fold("t", (), ("a", "b"))], 1, "counted 2 times"),
        ([Fold("t", (0, 1))], 1, "update 2 (1 in all) is not covered"),
        ([Fold("t", (0, 1, 2, 3))], 1, "update 3 of 3"),
        ([Fold("a", (0, 1, 2)), Fold("b", (), ("a",)), Fold("c", (), ("a",))], 1, "both count"),
        ([Fold("a", (0,), ("b",)), Fold("b", (1, 2), ("a",))], 1, "circle|no top"),
        ([Fold("a", (0, 1, 2)), Fold("a", (0, 1, 2))], 1, "not unique"),
        ([Fold("t", (0, 1, 2), ("gone",))], 1, "no input 'gone'"),
        ([Fold("a", (0, 1, 2)), Fold("b", (0, 1, 2))], 1, "two tops cover unit 0"),
        ([Fold("a", (0, 1, 2), shard=(0, 1))], 2, "no top covers unit 1"),
        ([Fold("a", (0, 1, 2), shard=(1, 2))], 2, "no top covers unit 0"),
        ([Fold("a", (0, 1, 2), shard=(0, 3))], 2, "no range"),
        ([Fold("a", (0, 1, 2)), Fold("e"), Fold("t", (), ("a", "e"))], 1, "no inputs"),
        ([Fold("a", (0, 1, 2), trigger=Quorum(4, 1.0))], 1, "quorum of 4 among 3"),
        ([Fold("a", (0, 1, 2)), Fold("t", (), ("a",), trigger=Quorum(1, 1.0))], 1, "whole part"),
        (
            [Fold("a", (0, 1, 2), shard=(0, 1)), Fold("t", (), ("a",), shard=(0, 2))],
            2,
            r"shard \(0, 2\) of an input with \(0, 1\)",
        ),
        (
            [
                Fold("a", (0, 1, 2), shard=(0, 1), trigger=Quorum(2, 1.0)),
                Fold("b", (0, 1, 2), shard=(1, 2), trigger=Quorum(1, 1.0)),
            ],
            2,
            "different clients",
        ),
    ],
)
def test_broken_plans_are_refused(folds: list[Fold], units: int, says: str) -> None:
    with pytest.raises(PlanError, match=says.replace("(1 in all)", r"\(1 in all\)")):
        Plan(3, tuple(folds), units)


def test_bad_numbers_name_their_field() -> None:
    for make in (
        lambda: Lazy(-1),
        lambda: Quorum(0, 1.0),
        lambda: Quorum(1, float("nan")),
        lambda: At(-1.0),
        lambda: tree(10, 1),
        lambda: shards(10, 0),
        lambda: layered(10, (4, 2)),
        lambda: layered(2, (4, 1)),
    ):
        with pytest.raises(ConfigError):
            make()


def test_a_quorum_closes_at_its_time_or_with_its_last_update() -> None:
    plan = flat(4, Quorum(2, 5.0))
    inf = np.inf
    for times, accepted in (
        ((1, 2, 3, 4), (1, 1, 1, 1)),  # all came before the time
        ((1, 2, 6, 7), (1, 1, 0, 0)),
        ((1, 8, 9, inf), (1, 1, 0, 0)),  # too few by then: the second closes
        ((1, 5, 5, inf), (1, 1, 1, 0)),
    ):
        assert manifest(plan, np.array(times, float)).tolist() == [bool(a) for a in accepted]
    with pytest.raises(PlanError, match="1 of 4 updates came"):
        manifest(plan, np.array([1, inf, inf, inf]))
    with pytest.raises(PlanError, match="update 2 never came"):
        manifest(flat(3), np.array([1.0, 2.0, inf]))


def test_a_large_plan_is_made_in_seconds() -> None:
    plan = shards_tree(100_000, 4, 16)
    assert len(plan.levels) == 5 and plan.shards == 4
