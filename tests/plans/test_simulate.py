"""Rounds in virtual time: laws that hold for any plan, and the shape of the published ablation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans.strategies import plans
from shoal.errors import ConfigError
from shoal.plans import (
    CLUSTER,
    FUNCTIONS,
    At,
    Eager,
    Faults,
    Lazy,
    Machine,
    Plan,
    PlanError,
    Quorum,
    Trigger,
    best_fit,
    flat,
    hierarchy_plan,
    shards,
    shards_tree,
    simulate,
    spread,
    tree,
)
from shoal.plans.prices import WARM
from shoal.plans.simulate import Simulated, spread_randomly

N = 6
TIMES = st.lists(st.floats(0, 100), min_size=N, max_size=N).map(np.array)
PLATFORMS = st.builds(
    replace,
    st.sampled_from([FUNCTIONS, CLUSTER]),
    ahead=st.booleans(),
    reuse=st.booleans(),
)


def all_with(plan: Plan, trigger: Trigger) -> Plan:
    return Plan(plan.updates, tuple(replace(f, trigger=trigger) for f in plan.folds), plan.units)


@settings(deadline=None)
@given(plans(N), TIMES, PLATFORMS, st.integers(0, 9), st.floats(1e6, 1e10), st.integers(2, 5))
def test_eager_is_never_later_than_lazy(plan, times, platform, seed, size, goal) -> None:
    """Oracle (v), for any plan and arrivals, with cold starts and stragglers."""
    slow = Faults(stragglers=0.3)
    eager, batches, lazy = (
        simulate(all_with(plan, t), size, times, platform, faults=slow, seed=seed).seconds
        for t in (Eager(), Lazy(goal), Lazy())
    )
    assert eager <= batches + 1e-9 <= lazy + 2e-9


@settings(deadline=None)
@given(plans(N), TIMES, PLATFORMS)
def test_nothing_is_done_before_its_inputs_and_work_take(plan, times, platform) -> None:
    done = simulate(plan, 1e9, times, platform)
    assert done.seconds >= times.max() + 1e9 / plan.units / platform.fold
    assert done.use.gets == sum(fold.goal for fold in plan.folds)
    assert done.critical >= 0 and done.after_last > 0
    assert done == simulate(plan, 1e9, times, platform)


@settings(deadline=None)
@given(TIMES, st.floats(1e8, 1e10))
def test_one_worker_serves_in_order_of_arrival(times, size) -> None:
    """Step by step, against the closed form."""
    one = size / FUNCTIONS.fold
    clock = times.min()
    for at in np.sort(times):
        clock = max(clock, at) + one
    warm = replace(FUNCTIONS, cold=WARM)
    assert simulate(flat(N), size, times, warm).seconds == pytest.approx(clock + one)


def test_triggers_start_when_they_say() -> None:
    times, warm, size = np.array([0.0, 1.0, 2.0, 10.0]), replace(FUNCTIONS, cold=WARM), 0.52 * 2**30
    for trigger, seconds in (  # a fold takes 1 s, writing too
        (Eager(), 12.0),
        (Lazy(), 15.0),
        (Lazy(2), 13.0),
        (At(6.0), 12.0),
        (At(8.0), 13.0),
        (Quorum(2, 1.5), 3.0),
        (Quorum(2, 5.0), 6.0),  # three are folded by 3 s, but more may come until 5 s
        (Quorum(4, 50.0), 12.0),  # all came
    ):
        assert simulate(flat(4, trigger), size, times, warm).seconds == seconds, trigger


def test_a_quorum_leaves_out_the_late_also_those_that_never_come() -> None:
    times = np.array([1.0, 2.0, 3.0, np.inf])
    done = simulate(flat(4, Quorum(2, 2.5)), 1e6, times)
    assert done.accepted == 2 and done.use.gets == 2
    with pytest.raises(PlanError, match="never came"):
        simulate(flat(4), 1e6, times)


def test_starting_in_time_bills_less_and_ends_as_early() -> None:
    times = spread_randomly(100, 600.0, 3)
    eager = simulate(flat(100), 1e8, times)
    timed = simulate(flat(100, At(560.0)), 1e8, times)
    assert timed.seconds == pytest.approx(eager.seconds, rel=0.01)
    assert timed.busy < eager.busy / 5 and timed.dollars < eager.dollars


MACHINES = [Machine(f"n{i}", 20.0) for i in range(5)]
STEPS = (
    ("spread", Lazy(), {}),
    ("best fit", Lazy(), {}),
    ("ahead", Lazy(), {"ahead": True}),
    ("reuse", Lazy(), {"ahead": True, "reuse": True}),
    ("eager", Eager(), {"ahead": True, "reuse": True}),
)


def ablation(updates: int) -> dict[str, list[Simulated]]:
    """Twenty rounds of each step, five nodes of capacity 20, two updates a leaf."""
    found: dict[str, list[Simulated]] = {}
    for name, trigger, options in STEPS:
        place = spread if name == "spread" else best_fit
        plan = hierarchy_plan(place(MACHINES, updates), 2, trigger)
        room = {m.name: m.capacity for m in MACHINES}
        found[name] = [
            simulate(
                plan, 232e6, spread_randomly(updates, 5.0, seed), replace(CLUSTER, **options),
                capacity=room, seed=seed,
            )
            for seed in range(20)
        ]  # fmt: skip
    return found


@pytest.mark.parametrize(("updates", "nodes"), [(20, 1), (60, 3), (100, 5)])
def test_the_published_ablation_has_this_shape(updates, nodes) -> None:
    runs = ablation(updates)
    mean = {name: np.mean([r.seconds for r in of]) for name, of in runs.items()}
    first = {name: of[0] for name, of in runs.items()}
    # Placement: as many nodes as the updates need, instead of all; no partials from node to node
    # when one is enough, and nothing gained when all are needed anyway.
    assert first["spread"].nodes == 5 and first["best fit"].nodes == nodes
    assert first["spread"].between == 4 * 232e6
    assert first["best fit"].between == (nodes - 1) * 232e6
    assert mean["best fit"] <= mean["spread"] * 1.05
    if nodes == 5:
        assert mean["best fit"] == pytest.approx(mean["spread"], rel=0.05)
    # Scaling on what is expected takes the cascade of cold starts out of the way.
    assert all(r.critical > 0 for r in runs["best fit"])
    assert all(r.critical == 0 for r in runs["ahead"])
    assert mean["ahead"] < 0.75 * mean["best fit"]
    # Workers that change their role need not be started: all but the leaves.
    assert first["ahead"].converted == 0
    assert first["reuse"].cold_starts == updates // 2 < first["ahead"].cold_starts
    assert mean["reuse"] <= mean["ahead"]
    assert all(r.utility > s.utility for r, s in zip(runs["reuse"], runs["ahead"], strict=True))
    # Eager folding overlaps arrivals: each round ends earlier.
    pairs = zip(runs["eager"], runs["reuse"], strict=True)
    assert all(e.seconds < lazy.seconds for e, lazy in pairs)
    assert mean["eager"] < 0.9 * mean["reuse"]


def test_reuse_shortens_a_reactive_cascade() -> None:
    plan = tree(64, 4)
    times = np.zeros(64)
    cold, warm = (simulate(plan, 1e8, times, replace(FUNCTIONS, reuse=r)) for r in (False, True))
    assert warm.seconds < cold.seconds and warm.cold_starts == 16 and warm.converted == 4 + 1


@settings(deadline=None)
@given(st.integers(0, 20))
def test_failures_and_stragglers_only_delay(seed) -> None:
    plan = hierarchy_plan(["a"] * 6 + ["b"] * 4)
    times = spread_randomly(10, 20.0, seed)
    calm = simulate(plan, 5e9, times, CLUSTER, seed=seed)
    for faults in (Faults(mtbf=40.0), Faults(stragglers=0.5)):
        hit = simulate(plan, 5e9, times, CLUSTER, faults=faults, seed=seed)
        assert hit.seconds >= calm.seconds and hit.accepted == calm.accepted
        assert hit == simulate(plan, 5e9, times, CLUSTER, faults=faults, seed=seed)
        assert (hit.failures > 0) == (hit.use.functions > calm.use.functions)


def test_failures_come_at_their_rate_and_shards_lose_less() -> None:
    warm = replace(FUNCTIONS, cold=WARM)
    whole = simulate(tree(4096, 8), 5e9, np.zeros(4096), warm, faults=Faults(mtbf=800.0))
    calm = simulate(tree(4096, 8), 5e9, np.zeros(4096), warm)
    expected = calm.busy / 800.0  # short against the mean: about one failure a worker at most
    assert whole.failures == pytest.approx(expected, rel=0.2)
    assert whole.busy - calm.busy == pytest.approx(0.5 * calm.busy * expected / 585, rel=0.3)
    assert whole.use.gets > calm.use.gets and whole.dollars > calm.dollars
    cut = simulate(shards_tree(4096, 8, 8), 5e9, np.zeros(4096), warm, faults=Faults(mtbf=800.0))
    assert cut.busy - calm.busy < (whole.busy - calm.busy) / 4


def test_a_fold_that_always_fails_is_an_error_with_numbers() -> None:
    with pytest.raises(PlanError, match="failed 3 times: it runs 896 s and a node fails every 1"):
        simulate(flat(100), 5e9, np.zeros(100), faults=Faults(mtbf=1.0, attempts=3))


def test_more_updates_than_a_node_serves_slow_it_down() -> None:
    plan = hierarchy_plan(["a"] * 40)
    free, full = (simulate(plan, 1e9, np.zeros(40), CLUSTER, capacity={"a": c}) for c in (40, 20))
    assert full.busy > 1.5 * free.busy


def test_lazy_folds_hold_their_inputs_where_no_store_does() -> None:
    times = np.zeros(8)
    assert simulate(flat(8), 1e9, times, CLUSTER).memory == 2e9
    assert simulate(flat(8, Lazy(3)), 1e9, times, CLUSTER).memory == 4e9
    assert simulate(flat(8, Lazy()), 1e9, times, CLUSTER).memory == 9e9
    assert simulate(flat(8, Lazy()), 1e9, times, FUNCTIONS).memory == 2e9
    assert simulate(shards(8, 4), 1e9, times, FUNCTIONS).memory == 5e8


def test_a_thousand_nodes_a_hundred_thousand_clients_a_hundred_gigabytes() -> None:
    n = 100_000
    machines = [Machine(f"n{i}", 120.0) for i in range(1000)]
    plan = hierarchy_plan(best_fit(machines, n), 8)
    platform = replace(CLUSTER, ahead=True, reuse=True, memory=500e9)
    faults = Faults(mtbf=30 * 86400.0, stragglers=0.01)
    done = simulate(plan, 100e9, spread_randomly(n, 3600.0, 1), platform, faults=faults)
    assert done.accepted == n and done.nodes == -(-n // 120)
    assert done.between == (done.nodes - 1) * 100e9
    assert done.seconds > 3600 and done.failures > 0


def test_bad_numbers_are_refused() -> None:
    for make in (
        lambda: simulate(flat(2), 0.0, np.zeros(2)),
        lambda: simulate(flat(2), 1.0, np.zeros(3)),
        lambda: Faults(mtbf=0.0),
        lambda: Faults(stragglers=1.5),
        lambda: Faults(attempts=0),
        lambda: replace(FUNCTIONS, fold=0.0),
    ):
        with pytest.raises(ConfigError):
            make()
