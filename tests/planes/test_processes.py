"""The process plane: Local's bits for every rule, optimizer, snapshot and whole run."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from planes.processes_support import FORMS, LARGE, WHOLE, drive, model, on, update
from shoal import algorithms as al
from shoal.aggregators import GeometricMedian, Krum, Mean, Median, Routed, Sum, TrimmedMean
from shoal.combinators import until
from shoal.core import NOTHING, Aggregator, Algorithm, chain
from shoal.errors import ConfigError, ProtocolError, ShoalError, UpdateError
from shoal.node import Node
from shoal.planes import Local
from shoal.planes.processes import Processes
from shoal.planes.processes_pool import Pool
from shoal.planes.processes_shards import shards
from shoal.simulation import Devices
from shoal.tensors import Tensors, equal
from shoal.trainers.quadratic import Quadratic
from shoal.transforms import Adam, Momentum
from shoal.transports import Simulator, steps
from support import q3


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    shared = Pool(2, 2)
    yield shared
    shared.close()


@pytest.mark.parametrize("size", [60, LARGE])
@pytest.mark.parametrize(
    ("rule", "forms"),
    [
        (Mean(exact=True), FORMS),
        (Routed(Mean(exact=True), {"control/": Sum(exact=True)}), FORMS),
        (Median(), FORMS),
        (TrimmedMean(f=1), FORMS),
        (Krum(f=1), WHOLE),
    ],
    ids=str,
)
def test_every_kind_of_rule_gives_locals_bits(
    pool: Pool, rule: Aggregator[Any], forms: tuple[str, ...], size: int
) -> None:
    optimizer = chain(Momentum(0.9), Adam(0.1))
    plane, local = on(pool, rule, optimizer, lanes=2), Local(rule, optimizer)
    for each in (plane, local):
        each.start(model(size), 0)
    for begin in (0, 20, 40):
        for each in (plane, local):
            drive(each, begin, 7, forms)
            each.put(99, update(each.model, 99))
            each.drop(99)
        assert plane.folded == local.folded == 7
        assert equal(plane.commit(), local.commit())
        assert plane.store.objects == 0
        for each in (plane, local):
            drive(each, begin, 2, forms)
            each.abandon()
    assert plane.version == local.version == 3
    plane.close()


@pytest.mark.parametrize("size", [60, LARGE])
@pytest.mark.parametrize(("lanes", "fan_in"), [(5, 2), (7, 3), (3, 4)])
def test_middles_merge_leaves_level_by_level(
    pool: Pool, size: int, lanes: int, fan_in: int
) -> None:
    rule = Mean(exact=True)
    plane, local = on(pool, rule, lanes=lanes, fan_in=fan_in), Local(rule, NOTHING)
    for each in (plane, local):
        each.start(model(size), 0)
    for begin in (0, 20):
        for each in (plane, local):
            drive(each, begin, 12, FORMS)
        assert equal(plane.commit(), local.commit())
        assert plane.store.objects == 0
    plane.close()


@pytest.mark.parametrize("rule", [Mean(), Sum(), GeometricMedian()], ids=str)
@pytest.mark.parametrize("size", [60, LARGE])
@pytest.mark.parametrize("lanes", [1, 3])
def test_floats_agree_to_rounding_and_in_one_lane_to_the_bit(
    pool: Pool, rule: Aggregator[Any], size: int, lanes: int
) -> None:
    plane, local = on(pool, rule, lanes=lanes), Local(rule, NOTHING)
    for each in (plane, local):
        each.start(model(size), 0)
        drive(each, 0, 9, WHOLE)
    a, b = plane.commit(), local.commit()
    assert equal(a, b) or lanes > 1
    for name in b:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=127e-6)  # of values up to 127
    plane.close()


def test_float_bits_depend_on_the_order_of_updates_alone(pool: Pool) -> None:
    found = []
    for pause in (0.0, 0.02):
        plane = on(pool, Mean(), lanes=2)
        plane.start(model(500), 0)
        for i in range(9):
            drive(plane, i, 1)
            time.sleep(pause)
        found.append(plane.commit())
        plane.close()
    assert equal(*found)


@pytest.mark.parametrize("size", [60, LARGE])
@pytest.mark.parametrize("rule", [Mean(exact=True), TrimmedMean(f=1)], ids=str)
def test_snapshots_fit_every_plane(pool: Pool, rule: Aggregator[Any], size: int) -> None:
    local = Local(rule, Momentum(0.9))
    local.start(model(size), 0)
    plane = on(pool, rule, Momentum(0.9))
    plane.start(model(size), 0)
    for each in (local, plane):
        drive(each, 0, 4, FORMS)
        each.commit()
        drive(each, 10, 5, FORMS)
        each.put(90, update(each.model, 90))
    taken = plane.snapshot()
    for each in (local, plane):
        drive(each, 30, 3, FORMS)
        each.fold(90, 1.0, "late")
    wanted = local.commit()
    assert equal(plane.commit(), wanted)  # a snapshot changes nothing
    wide = on(pool, rule, Momentum(0.9), lanes=3)
    narrow = Processes(rule, Momentum(0.9), workers=(1, 1))
    for each in (Local(rule, Momentum(0.9)), wide, narrow):
        for _ in range(2):
            each.restore(taken)
            assert each.folded == 5 and each.version == 1
            drive(each, 30, 3, FORMS)
            each.fold(90, 1.0, "late")
            assert equal(each.commit(), wanted)
    for each in (plane, wide, narrow):
        each.close()


@pytest.mark.parametrize("rule", [Mean(exact=True), Median()], ids=str)
def test_an_aggregate_that_is_not_committed_changes_nothing(
    pool: Pool, rule: Aggregator[Any]
) -> None:
    plane, local, other = on(pool, rule), Local(rule, NOTHING), Local(rule, NOTHING)
    for each in (plane, local):
        each.start(model(LARGE), 0)
        drive(each, 0, 7, FORMS)
    plane._now().finished()
    other.restore(plane.snapshot())
    drive(plane, 7, 2)
    drive(local, 7, 2)
    drive(other, 7, 2)
    wanted = local.commit()
    assert equal(plane.commit(), wanted) and equal(other.commit(), wanted)
    assert plane.store.objects == 0
    plane.close()


# Whole runs


def play(algorithm: Algorithm, plane: Any, commits: int) -> list[Tensors]:
    first = algorithm.trainer.initial(0)
    node = Node(until(algorithm.coordinator, commits=commits), plane, first, 0)
    models = [node.model]
    for _ in steps(node, Simulator(algorithm, q3(), Devices(), seed=0)):
        if node.version >= len(models):
            models.append(node.model)
    return models


@pytest.mark.parametrize("make", [al.fedavg, al.scaffold], ids=["fedavg", "scaffold"])
def test_a_whole_run_has_locals_bits(pool: Pool, make: Any) -> None:
    more = {"population": 3, "wire": "two"} if make is al.scaffold else {}
    algorithm = make(2, trainer=Quadratic(lr=0.1, local_steps=5), **more)
    if make is al.fedavg:
        algorithm = replace(algorithm, aggregator=Mean(exact=True))
    plane = on(pool, algorithm.aggregator, algorithm.optimizer)
    found = play(algorithm, plane, 12)
    wanted = play(algorithm, Local(algorithm.aggregator, algorithm.optimizer), 12)
    assert len(found) == len(wanted) == 13
    for a, b in zip(found, wanted, strict=True):
        for name in b:
            if make is al.fedavg:
                assert a[name].tobytes() == b[name].tobytes()
            np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-6)
    assert plane.store.objects == 0
    plane.close()


# Bad input


def test_bad_arguments_are_typed() -> None:
    for workers in ((0, 1), (3, 2)):
        with pytest.raises(ConfigError, match="workers: needs 1 <= least <= most"):
            Processes(Mean(), NOTHING, workers=workers)
    with pytest.raises(ConfigError, match="fan_in: a merge has at least 2 inputs, got 1"):
        Processes(Mean(), NOTHING, fan_in=1)
    for budget in (0, -5, float("nan")):
        with pytest.raises(ConfigError, match="budget"):
            Processes(Mean(), NOTHING, budget=budget)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lanes"):
        Processes(Mean(), NOTHING, lanes=0)
    with pytest.raises(ConfigError, match="smoothing"):
        Processes(Mean(), NOTHING, smoothing=1.5)

    class Hidden(Mean):
        pass

    with pytest.raises(ConfigError, match="aggregator: Hidden cannot go to another process"):
        Processes(Hidden(), NOTHING)


def test_bad_updates_are_typed_and_cost_nothing(pool: Pool) -> None:
    plane = on(pool, Krum(f=0, m=1, neighbors=1))
    plane.start(model(60), 0)
    plane.put(0, update(plane.model, 0, "part"))
    with pytest.raises(UpdateError, match="covers a part of the model"):
        plane.fold(0, 1.0, "a")
    plane.drop(0)
    drive(plane, 0, 1)
    for _ in range(2):
        with pytest.raises(ShoalError, match="need 3 updates in a commit, got 1"):
            plane.commit()
    drive(plane, 1, 3)
    plane.commit()
    for bad in (lambda: plane.fold(5, 1.0, "a"), lambda: plane.drop(5)):
        with pytest.raises(ProtocolError, match="update 5 is not held"):
            bad()
    assert plane.store.objects == 0
    plane.close()


def test_shards_cover_every_coordinate_once() -> None:
    like = model(1_000_001)
    for most in (1, 2, 3, 7):
        cut = shards(like, Routed(Mean()), most)
        assert len(cut) == most
        for prefix, whole in cut[0].layouts.items():
            edges = [shard.ranges[prefix] for shard in cut]
            assert edges[0][0] == 0 and edges[-1][1] == whole.size
            assert all(a[1] == b[0] for a, b in pairwise(edges))
        pieces = [shard.cut(like) for shard in cut]
        np.testing.assert_array_equal(np.concatenate([p.dense for p in pieces]), like.dense)
    assert len(shards(like, Routed(Krum(f=1)), 4)) == 4
    assert len(shards(like, Routed(Mean()), 4, 2)) == 2
    with pytest.raises(ConfigError, match="1000002 shards, but the model has"):
        shards(like, Routed(Mean()), 4, 1_000_002)
    assert len(shards(model(60), Routed(Mean()), 4)) == 1


@pytest.mark.parametrize("rule", [Krum(f=1), Krum(f=1, m=3), GeometricMedian()], ids=repr)
@pytest.mark.parametrize("clients", [3, 100])
def test_rules_that_compare_whole_updates_do_so_across_shards(
    pool: Pool, rule: Aggregator[Any], clients: int
) -> None:
    plane, local = on(pool, rule, shards=3), Local(rule, NOTHING)
    for each in (plane, local):
        each.start(model(60), 0)
        for begin in (0, 10):
            for i in range(begin, begin + 7):
                each.put(i, update(each.model, i, WHOLE[i % len(WHOLE)]))
                each.fold(i, 1.0 + i, f"c{i % clients}")
            each.commit()
    if isinstance(rule, Krum):
        assert equal(plane.model, local.model)
    for name in local.model:
        np.testing.assert_allclose(plane.model[name], local.model[name], rtol=1e-6, atol=1e-6)
    assert plane.store.taken == 0
    plane.close()


def test_too_few_updates_to_compare_leave_the_plane_as_it_was(pool: Pool) -> None:
    plane, local = on(pool, Krum(f=1), shards=2), Local(Krum(f=1), NOTHING)
    for each in (plane, local):
        each.start(model(60), 0)
        drive(each, 0, 4)
        with pytest.raises(ConfigError, match="need 5 updates in a commit, got 4"):
            each.commit()
        assert each.folded == 4
        drive(each, 4, 1)
        each.commit()
    assert equal(plane.model, local.model)
    assert plane.store.taken == 0
    plane.close()
