"""Placement by residual capacity, and the roles on each node."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.plans import (
    CLUSTER,
    PLACEMENTS,
    Change,
    Machine,
    Queue,
    Roles,
    best_fit,
    change,
    first_fit,
    hierarchy,
    hierarchy_plan,
    simulate,
    spread,
)

MACHINES = st.lists(
    st.tuples(st.floats(0.5, 30), st.floats(0, 5), st.floats(0, 3)), min_size=1, max_size=6
).map(lambda rows: [Machine(f"n{i}", *row) for i, row in enumerate(rows)])


def one_by_one(machines: list[Machine], updates: int) -> tuple[str, ...]:
    """Best fit as it is defined: each update in turn."""
    left = {m.name: m.residual for m in machines}
    used = {m.name for m in machines if m.rate > 0}
    order = {m.name: i for i, m in enumerate(machines)}
    chosen = []
    for _ in range(updates):
        fits = [n for n in left if left[n] >= 1]
        pool = [n for n in fits if n in used] or fits
        if pool:
            name = min(pool, key=lambda n: (left[n], order[n]))
        else:
            name = max(left, key=lambda n: (left[n], -order[n]))
        left[name] -= 1
        used.add(name)
        chosen.append(name)
    return tuple(chosen)


@settings(deadline=None)
@given(MACHINES, st.integers(0, 60))
def test_best_fit_is_the_definition_applied_to_each_update(machines, updates) -> None:
    assert Counter(best_fit(machines, updates)) == Counter(one_by_one(machines, updates))


@settings(deadline=None)
@given(MACHINES, st.integers(0, 60))
def test_no_placement_overfills_a_node_while_another_has_room(machines, updates) -> None:
    for place in PLACEMENTS.values():
        counts = Counter(place(machines, updates))
        assert counts.total() == updates
        left = [m.residual - counts[m.name] for m in machines]
        taken = [m.residual - counts[m.name] for m in machines if counts[m.name]]
        assert not taken or max(left) < 1 or min(taken) > -1


def test_with_room_for_all_best_fit_uses_one_node_and_moves_no_partial() -> None:
    """Oracle (iv)."""
    machines = [Machine(f"n{i}", 40.0) for i in range(5)]
    nodes = best_fit(machines, 40)
    assert len(set(nodes)) == 1
    done = simulate(hierarchy_plan(nodes), 1e8, np.zeros(40), CLUSTER)
    assert done.between == 0 and done.nodes == 1
    apart = simulate(hierarchy_plan(spread(machines, 40)), 1e8, np.zeros(40), CLUSTER)
    assert apart.nodes == 5 and apart.between == 4 * 1e8  # one partial from each other node


def test_the_tightest_node_is_best_the_first_is_first_and_the_emptiest_is_spread() -> None:
    machines = [Machine("big", 9.0), Machine("tight", 4.0, 1.0, 2.0), Machine("middle", 5.0)]
    assert best_fit(machines, 1) == ("tight",)  # residual 2, and in use
    assert first_fit(machines, 1) == ("big",)
    assert spread(machines, 5) == ("big", "big", "big", "big", "big")
    assert Counter(best_fit(machines, 8)) == {"tight": 2, "middle": 5, "big": 1}


def test_absolute_residuals_decide_not_shares() -> None:
    """A large node at 90 % has more room than a small one at 50 %."""
    machines = [Machine("large", 100.0, 90.0, 1.0), Machine("small", 4.0, 2.0, 1.0)]
    assert best_fit(machines, 1) == ("small",)


def test_full_nodes_get_the_overflow_evenly() -> None:
    machines = [Machine(f"n{i}", 2.0) for i in range(3)]
    assert Counter(best_fit(machines, 12)) == {"n0": 4, "n1": 4, "n2": 4}


def test_a_thousand_nodes_take_a_hundred_thousand_updates() -> None:
    machines = [Machine(f"n{i}", 50.0 + i) for i in range(1000)]
    for place in PLACEMENTS.values():
        assert len(place(machines, 100_000)) == 100_000


def test_bad_machines_are_refused() -> None:
    with pytest.raises(ConfigError, match="capacity"):
        Machine("a", 0.0)
    with pytest.raises(ConfigError, match="there are none"):
        best_fit([], 1)
    with pytest.raises(ConfigError, match="unique"):
        spread([Machine("a", 1.0), Machine("a", 1.0)], 1)


def test_queue_estimates_follow_the_average() -> None:
    queue = Queue().seen(10.0, 2.0)
    assert queue.estimate == 20.0
    assert queue.seen(0.0, 2.0).estimate == pytest.approx(0.3 * 20.0)
    assert Queue(share=0.3).seen(10.0, 2.0).seen(0.0, 2.0).estimate == pytest.approx(0.7 * 20.0)
    steady = Queue()
    for _ in range(20):
        steady = steady.seen(4.0, 0.5)
        assert steady.estimate == 2.0  # a constant load does not oscillate


def test_roles_are_ceil_q_over_i_leaves_a_middle_and_one_top() -> None:
    roles = hierarchy({"a": 7.0, "b": 2.0, "c": 0.0, "d": 8.0}, per_leaf=2)
    assert roles == {"a": Roles(4, 1, 0), "b": Roles(1, 0, 0), "d": Roles(4, 1, 1)}
    assert [r.workers for r in roles.values()] == [4, 1, 4]  # middle and top are converted leaves
    assert change(Roles(), Roles(4, 1, 1)) == Change(start=4, keep=0, convert=2, retire=0)
    assert change(Roles(4, 1, 1), Roles(2, 1, 0)) == Change(0, 2, 1, 2)
    with pytest.raises(ConfigError, match="per_leaf"):
        hierarchy({"a": 1.0}, 0)


def test_the_hierarchy_of_a_placement_covers_each_update_once() -> None:
    plan = hierarchy_plan(["a"] * 5 + ["b"] * 2 + ["c"])
    assert len(plan.folds) == (3 + 1) + 1 + 1 + 1  # a: 3 leaves and a middle; b, c: a leaf; top
    assert plan.tops[0].place == "a"
    assert sum(len(fold.updates) for fold in plan.folds) == 8
