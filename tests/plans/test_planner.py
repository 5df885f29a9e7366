"""The closed forms of cost and latency, the published cost figure (E14), and what is chosen."""

from dataclasses import replace
from math import ceil, inf, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.plans import (
    FUNCTIONS,
    ColdStart,
    Heavy,
    Infeasible,
    Prices,
    Shape,
    Workload,
    best_fan_in,
    build,
    choose,
    predict,
    simulate,
)
from shoal.plans.builders import widths
from shoal.plans.crossover import between
from shoal.plans.prices import GIB, WARM
from shoal.plans.quantities import parse_bytes, parse_count, parse_seconds
from shoal.plans.simulate import spread_evenly
from shoal.seeds import rng

MIB = 2**20
# Dollars for 1,000 rounds of 50 clients, as plotted for arXiv 2604.22072: a tree of eight leaves
# and a root (no value where a function's 10 GB are not enough), and four shards.
PUBLISHED = ((45, 0.32, 1.11), (528, 1.45, 1.33), (2048, 17.51, 4.52), (10240, None, 86.44))
TREE, SHARDS = Shape((8, 1)), Shape((1,), 4)


@pytest.mark.parametrize(("mib", "tree", "sharded"), PUBLISHED)
def test_e14_the_published_cost_curve_within_five_percent(mib, tree, sharded) -> None:
    load = Workload(mib * MIB, 50)
    rows = [predict(shape, load) for shape in (TREE, SHARDS)]
    if tree is None:
        assert "needs" in rows[0].problem
    else:
        assert not rows[0].problem
        assert 1000 * rows[0].dollars == pytest.approx(tree, rel=0.05)
    assert not rows[1].problem
    assert 1000 * rows[1].dollars == pytest.approx(sharded, rel=0.05)


@pytest.mark.parametrize(("mib", "tree", "sharded"), PUBLISHED)
def test_e14_the_simulation_bills_the_same(mib, tree, sharded) -> None:
    load = Workload(mib * MIB, 50)
    for shape, published in ((TREE, tree), (SHARDS, sharded)):
        if published is not None:
            plan = build(predict(shape, load), load)
            done = simulate(plan, mib * MIB, np.zeros(50))
            assert 1000 * done.dollars == pytest.approx(published, rel=0.05)


def test_the_crossover_is_the_closed_form_near_half_a_gigabyte() -> None:
    n, m, a, p = 50, 4, 9, Prices()
    free = replace(p, request=0.0)
    term = (n + 2 * a - 1) / n - (n + 1) / (n * m)
    exact = sqrt(0.52 * (m - 1) * (p.put + p.get) / (2 * p.gb_second * term))
    load = Workload(1e8, n)
    rows = (predict(TREE, load), predict(SHARDS, load))
    found = between(*rows, load, replace(FUNCTIONS, memory=inf), free) / GIB
    assert found == pytest.approx(exact, rel=0.03)  # it leaves out the tree's own requests
    assert 0.45 < found < 0.55
    assert between(rows[0], rows[0], load, FUNCTIONS, p) == inf


@pytest.mark.parametrize(
    ("ratio", "k"), [(0, 2.72), (1, 3.59), (3, 4.97), (10, 8.64), (30, 16.6), (100, 37.9)]
)
def test_the_best_fan_in_is_the_table_s(ratio, k) -> None:
    assert best_fan_in(ratio, 1.0) == pytest.approx(k, rel=2e-3)


def test_the_best_fan_in_minimizes_the_latency_of_a_tree() -> None:
    merge, n = 0.1, 10**6
    for ratio in (1, 10, 100):
        times = {k: log(n) / log(k) * (k * merge + ratio * merge) for k in range(2, 200)}
        best = min(times, key=times.__getitem__)
        assert abs(best - best_fan_in(ratio * merge, merge)) <= 1


def test_requests_bytes_and_memory_are_the_table_s() -> None:
    n, m, g = 1000, 8, 4e9
    load = Workload(g, n)
    levels = widths(n, 10)
    a = sum(levels)
    assert a == sum(ceil(n / 10**j) for j in (1, 2, 3))
    flat, tree = predict(Shape(), load), predict(Shape(levels), load)
    shards, both = predict(Shape((1,), m), load), predict(Shape(levels, m), load)
    assert [c.use.functions for c in (flat, tree, shards, both)] == [1, a, m, m * a]
    assert [c.use.puts for c in (flat, tree, shards, both)] == [
        n + 1, n + a, n * m + m, n * m + m * a,
    ]  # fmt: skip
    assert [c.use.gets for c in (flat, tree, shards)] == [n, n + a - 1, n * m]
    assert [c.use.moved / g for c in (flat, tree, shards)] == [n + 1, n + 2 * a - 1, n + 1]
    assert [c.memory / g for c in (flat, tree, shards, both)] == [2, 2, 2 / m, 2 / m]
    o, b = FUNCTIONS.cold.mean, FUNCTIONS.fold
    assert flat.latency == pytest.approx(o + (n + 1) * g / b)
    assert tree.latency == pytest.approx(3 * (o + 11 * g / b))
    assert shards.latency == pytest.approx(o + (n + 1) * g / (m * b))


@settings(deadline=None)
@given(
    st.integers(2, 400),
    st.floats(1e6, 2e10),
    st.sampled_from([0.0, 5.0, 300.0]),
    st.sampled_from(["eager", "lazy", "at"]),
    st.sampled_from([1, 3, 16]),
    st.sampled_from([0, 2, 8]),
)
def test_predictions_are_what_the_simulation_finds(n, size, spread, trigger, m, k) -> None:
    platform = replace(FUNCTIONS, cold=ColdStart(Heavy(1.0), Heavy(0.5), Heavy(0.2)))
    load = Workload(size, n, spread)
    said = predict(Shape(widths(n, k) if k else (1,), m, trigger, k), load, platform)
    arrivals = spread_evenly(n, spread)
    if k:  # each leaf sees arrivals from the whole time
        arrivals = rng(n, "order").permutation(arrivals)
    found = simulate(build(said, load, platform), size, arrivals, platform)
    assert (found.use.puts, found.use.gets) == (said.use.puts, said.use.gets)
    assert found.use.moved == pytest.approx(said.use.moved)
    assert found.memory == pytest.approx(said.memory)
    if not k:
        assert found.seconds == pytest.approx(said.latency)
        assert found.dollars == pytest.approx(said.dollars)
    elif spread == 0 or trigger == "lazy":  # at most: the largest folds need not lie on one path
        assert 0.6 * said.latency <= found.seconds <= said.latency * (1 + 1e-9)
        assert found.dollars == pytest.approx(said.dollars, rel=0.02)
    else:  # a leaf whose first update comes late starts late
        assert found.seconds <= said.latency * 1.05 + 0.35 * spread


@pytest.mark.parametrize("trigger", ["eager", "at", "lazy"])
@pytest.mark.parametrize("spread", [0.0, 300.0])
@pytest.mark.parametrize("m", [1, 16])
def test_predictions_of_even_trees_are_within_two_percent(trigger, spread, m) -> None:
    load = Workload(5e9, 1000, spread)
    platform = replace(FUNCTIONS, cold=ColdStart(Heavy(1.0), Heavy(0.5), Heavy(0.2)))
    said = predict(Shape((10, 1), m, trigger, 100), load, platform)
    arrivals = rng(1, "order").permutation(spread_evenly(1000, spread))
    found = simulate(build(said, load, platform), 5e9, arrivals, platform)
    assert found.seconds == pytest.approx(said.latency, rel=0.02)
    assert found.dollars == pytest.approx(said.dollars, rel=0.02)
    assert found.longest == pytest.approx(said.longest, rel=0.02)


def test_small_models_are_folded_flat_large_ones_in_shards() -> None:
    small = choose(Workload(1e6, 50))
    large = choose(Workload(5e9, 1000, memory=10e9))
    assert small.winner.shape.kind == "flat"
    assert large.winner.shape.kind == "shards"
    assert [r.shape.kind for r in large.rows] == ["flat", "tree", "shards", "shards x tree"]
    assert "runs a worker 8,964 s of at most 900 s" in large.rows[0].problem
    assert large.winner.dollars == min(r.dollars for r in large.rows if not r.problem)
    text = " ".join(large.reasons)
    assert "wins" in text and "flat is out: it runs a worker" in text and "Cross-over at" in text


def test_at_the_crossover_the_kinds_change_places() -> None:
    load = Workload(5e8, 50)
    ((size, below, above),) = choose(load).crossovers
    assert 3e8 < size < 7e8 and (below, above) == ("flat", "shards")
    for factor, kind in ((0.99, below), (1.01, above)):
        assert choose(replace(load, model_bytes=size * factor)).winner.shape.kind == kind


def test_a_deadline_buys_parallel_folds_for_more_dollars() -> None:
    slow, fast = (choose(Workload(5e8, 50, deadline=d)).winner for d in (inf, 5.0))
    assert fast.latency <= 5.0 < slow.latency
    assert fast.dollars > slow.dollars


def test_without_prices_the_fastest_wins() -> None:
    free = Prices(0.0, 0.0, 0.0, 0.0)
    load = Workload(1e9, 64)
    found = choose(load, prices=free)
    assert found.winner.latency == min(r.latency for r in found.rows if not r.problem)


def test_a_spread_makes_waiting_cost_and_starting_in_time_save() -> None:
    found = choose(Workload(1e8, 100, spread=600.0))
    rows = {(r.shape.kind, r.shape.trigger): r for r in found.rows}
    eager, at, lazy = (rows["flat", t] for t in ("eager", "at", "lazy"))
    assert at.latency == pytest.approx(eager.latency) and lazy.latency > eager.latency
    assert eager.dollars > at.dollars == pytest.approx(lazy.dollars)
    assert found.winner.shape.trigger == "at"
    assert any("billed for less waiting" in reason for reason in found.reasons)


def test_a_ceiling_that_no_plan_meets_is_an_error_with_numbers() -> None:
    with pytest.raises(Infeasible) as caught:
        choose(Workload(5e9, 1000, memory=1e6))
    assert "1 MB a worker" in str(caught.value) and "least memory is 9.77 MB" in str(caught.value)
    with pytest.raises(Infeasible, match=r"deadline of 0\.1 s.*fastest within memory takes"):
        choose(Workload(5e9, 1000, deadline=0.1))


def test_a_budget_below_the_platform_s_counts() -> None:
    tight = choose(Workload(1e9, 50, memory=5e8)).winner
    assert tight.memory <= 5e8 and tight.shape.shards >= 4


def test_egress_and_storage_are_priced_when_asked() -> None:
    load = Workload(1e9, 10)
    base = predict(Shape(), load).dollars
    assert predict(Shape(), load, prices=Prices(egress=0.02)).dollars - base == pytest.approx(
        0.02 * 11e9 / GIB
    )
    assert predict(Shape(), load, prices=Prices(gb_month=0.023)).dollars > base


def test_a_hundred_gigabytes_and_a_hundred_thousand_clients_are_planned_in_time() -> None:
    found = choose(Workload(100e9, 100_000, spread=600.0, memory=10e9, deadline=7200.0))
    assert found.winner.latency <= 7200 and found.winner.memory <= 10e9


def test_cold_starts_have_the_observed_tails() -> None:
    from shoal.plans.prices import ALLOCATING, DEPLOYING

    for mix, low, high in ((DEPLOYING, 5.5, 8.0), (ALLOCATING, 2.4, 3.6)):
        draws = mix.draw(100_000, 0, "tail")
        assert low < np.quantile(draws, 0.999) < high
        assert draws.mean() == pytest.approx(mix.mean, rel=0.02)
        assert (draws == mix.draw(100_000, 0, "tail")).all()
    assert DEPLOYING.deployment.mean + DEPLOYING.scheduling.mean > 2 * DEPLOYING.allocation.mean
    assert ALLOCATING.allocation.mean > ALLOCATING.deployment.mean + ALLOCATING.scheduling.mean
    assert not WARM.draw(3, 0).any()


def test_amounts_are_read_as_people_write_them() -> None:
    assert [parse_bytes(t) for t in ("5GB", "10 GB", "400MB", "2GiB", "1e9", ".5 tb")] == [
        5e9, 1e10, 4e8, 2.0**31, 1e9, 5e11,
    ]  # fmt: skip
    assert [parse_seconds(t) for t in ("90", "90s", "15 min", "2h", "100ms")] == [
        90, 90, 900, 7200, 0.1,
    ]  # fmt: skip
    assert [parse_count(t) for t in ("1000", "1,000", "1e5")] == [1000, 1000, 100_000]
    for parse, text in (
        (parse_bytes, "5 apples"),
        (parse_bytes, "-1GB"),
        (parse_bytes, "0"),
        (parse_bytes, "nan"),
        (parse_bytes, "1e999"),
        (parse_seconds, "5GB"),
        (parse_count, "1.5"),
        (parse_count, ""),
    ):
        with pytest.raises(ConfigError, match="--x"):
            parse(text, "--x")
    for bad in (
        lambda: Workload(0.0, 1),
        lambda: Workload(1.0, 0),
        lambda: Workload(1.0, 1, deadline=-1.0),
        lambda: Prices(put=-1.0),
    ):
        with pytest.raises(ConfigError):
            bad()
