"""The Ray plane on a real local Ray: Local's bits, any cut, changes of it, and deaths.

SHOAL_TRIALS=200 makes the trials with killed actors as many.
"""

import gc
import os
import sys
import time
from collections.abc import Iterator
from threading import Lock, Timer
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from laws.plane_scripts import MODEL, SCRIPT, Do, Driver
from laws.test_planes import OPTIMIZER, RULE, agree, fits
from planes.processes_support import FORMS, LARGE, WHOLE, drive, model, update
from planes.ray_support import kill, pids, ray, small_ray
from shoal.aggregators import GeometricMedian, Krum, Mean, Median, Routed, TrimmedMean
from shoal.core import NOTHING, Aggregator, chain
from shoal.errors import ConfigError, MissingExtra, ProtocolError, ShoalError
from shoal.planes import Local, ray_round
from shoal.planes.choice import Load, decide, opened
from shoal.planes.ray_actors import PATIENCE, WARM, ActorError, Partial, disjoint
from shoal.planes.ray_plane import Ray
from shoal.planes.ray_shards import shards
from shoal.tensors import Tensors, equal
from shoal.transforms import Adam, Momentum

TRIALS = int(os.environ.get("SHOAL_TRIALS", "8"))
EXACT = Mean(exact=True)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with small_ray():
        yield


@pytest.fixture
def plane() -> Iterator[Any]:
    """Makes planes, which are closed in the end."""
    made: list[Ray] = []

    def make(rule: Aggregator[Any] = EXACT, step: Any = NOTHING, **how: Any) -> Ray:
        how.setdefault("actors", 4)
        made.append(Ray(rule, step, **how))
        return made[-1]

    yield make
    for each in made:
        each.close()


# Agreement


@settings(
    max_examples=15, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(
    rule=RULE, optimizer=OPTIMIZER, script=SCRIPT, cut=st.integers(1, 4),
    fan_in=st.sampled_from([None, 2, 3]), to=st.integers(1, 4), at=st.integers(0, 12),
)  # fmt: skip
def test_random_sequences_agree_with_local_whatever_the_plan_and_its_changes(
    rule: Aggregator[Any], optimizer: Any, script: list[Any], cut: int, fan_in: int | None,
    to: int, at: int,
) -> None:  # fmt: skip
    plane, local = Ray(rule, optimizer, shards=cut, fan_in=fan_in, actors=4), Local(rule, optimizer)
    assume(fits("Ray", rule))
    given_, wanted = Driver(plane), Driver(local)
    for each in (plane, local):
        each.start(MODEL, 0)
    for i, step in enumerate([*script, Do("commit")]):
        if i == at:
            plane.resize(to)
        assert given_.tell(step) == wanted.tell(step)
        assert plane.folded == local.folded
        agree("Ray", rule, plane.model, local.model)
    plane.close()


@pytest.mark.parametrize("how", [{}, {"shards": 3, "fan_in": 2}], ids=str)
@pytest.mark.parametrize(
    ("rule", "forms"),
    [
        (EXACT, FORMS), (Median(), FORMS), (TrimmedMean(f=1), FORMS), (Krum(f=1), WHOLE),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_rule_gives_locals_bits(
    plane: Any, rule: Aggregator[Any], forms: tuple[str, ...], how: dict[str, Any]
) -> None:
    optimizer = chain(Momentum(0.9), Adam(0.1))
    one, local = plane(rule, optimizer, **how), Local(rule, optimizer)
    for each in (one, local):
        each.start(model(LARGE), 0)
    for begin in (0, 20):
        for each in (one, local):
            drive(each, begin, 7, forms)
            each.put(99, update(each.model, 99))
            each.drop(99)
        assert equal(one.commit(), local.commit())
        for each in (one, local):
            drive(each, begin, 2, forms)
            each.abandon()
    assert one.version == local.version == 2


@pytest.mark.parametrize("rule", [Mean(), GeometricMedian()], ids=str)
def test_floats_agree_to_rounding_and_with_one_leaf_to_the_bit(
    plane: Any, rule: Aggregator[Any]
) -> None:
    for fan_in in (None, 3):
        one, local = plane(rule, fan_in=fan_in), Local(rule, NOTHING)
        for each in (one, local):
            each.start(model(60), 0)
            drive(each, 0, 9, WHOLE)
        a, b = one.commit(), local.commit()
        assert equal(a, b) or (fan_in is not None or rule != Mean())
        for name in b:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=127e-6)


def test_a_run_may_fold_here() -> None:
    decision = decide("ray", "shards(2) x tree(2)", Load.of(model(60), 5, EXACT), 1 << 20)
    chosen, local = opened(decision, EXACT, NOTHING, 0), Local(EXACT, NOTHING)
    for each in (chosen, local):
        each.start(model(60), 0)
        drive(each, 0, 5, FORMS)
    assert isinstance(chosen, Ray) and (chosen.shards, chosen.fan_in) == (2, 2)
    assert equal(chosen.commit(), local.commit())
    chosen.close()


def test_updates_of_one_client_twice_are_compared_whole(plane: Any) -> None:
    one, local = plane(GeometricMedian(), shards=2), Local(GeometricMedian(), NOTHING)
    for each in (one, local):
        each.start(model(60), 0)
        for i in range(5):
            each.put(i, update(each.model, i))
            each.fold(i, 1.0, f"c{i % 2}")
    assert equal(one.commit(), local.commit())


# Changes of the plan


@pytest.mark.parametrize("rule", [EXACT, Median(), Krum(f=1)], ids=str)
def test_shards_come_and_go_within_a_round(plane: Any, rule: Aggregator[Any]) -> None:
    one, local = plane(rule, shards=2, fan_in=4), Local(rule, NOTHING)
    forms = WHOLE if isinstance(rule, Krum) else FORMS
    for each in (one, local):
        each.start(model(LARGE), 0)
        each.put(90, update(each.model, 3))
    for begin, count in ((0, 4), (5, 1), (10, 3)):
        for each in (one, local):
            drive(each, begin, 3, forms)
        one.resize(count)
        assert one.shards == count and one.folded == local.folded
    for each in (one, local):
        each.fold(90, 2.0, "late")
    assert equal(one.commit(), local.commit())


def test_actors_follow_the_updates_that_are_expected(plane: Any) -> None:
    gc.collect()
    one = plane(fan_in=2, shards=1, actors=3)
    one.start(model(60), 0)
    for folded, wanted in ((12, 3), (12, 3), (1, 3), (1, 1), (1, 1)):
        drive(one, 0, folded)
        one.commit()
        assert one._plan.needs(one.expected) == wanted
        before = list(WARM._idle)
        assert len(before) >= wanted
        drive(one, 0, 1)
        assert one._round._lanes[0][0].actor in before  # warm actors are used again
        one.abandon()
    for _ in range(8 * (PATIENCE + 1)):
        drive(one, 0, 1)
        one.commit()
    assert len(WARM._idle) == 1


def test_snapshots_fit_every_plane(plane: Any) -> None:
    for rule in (EXACT, TrimmedMean(f=1)):
        local, one = (
            Local(rule, Momentum(0.9)),
            plane(rule, Momentum(0.9), shards=1, fan_in=2, actors=2),
        )
        for each in (local, one):
            each.start(model(500), 0)
            drive(each, 0, 4, FORMS)
            each.commit()
            drive(each, 10, 5, FORMS)
            each.put(90, update(each.model, 90))
        taken = [local.snapshot(), one.snapshot()]
        for each in (local, one):
            drive(each, 30, 3, FORMS)
            each.fold(90, 1.0, "late")
        wanted = local.commit()
        assert equal(one.commit(), wanted)  # a snapshot changes nothing
        others = [Local(rule, Momentum(0.9)), plane(rule, Momentum(0.9), shards=2)]
        for snapshot in taken:
            for each in others:
                each.restore(snapshot)
                assert each.folded == 5 and each.version == 1
                drive(each, 30, 3, FORMS)
                each.fold(90, 1.0, "late")
                assert equal(each.commit(), wanted)


@pytest.mark.parametrize("rule", [EXACT, Median(), GeometricMedian()], ids=str)
def test_an_aggregate_that_is_not_committed_changes_nothing(
    plane: Any, rule: Aggregator[Any]
) -> None:
    one, local = plane(rule), Local(rule, NOTHING)
    for each in (one, local):
        each.start(model(60), 0)
        drive(each, 0, 5, WHOLE)
    one._round.finished()
    for each in (one, local):
        drive(each, 5, 2, WHOLE)
    one._round.finished()
    assert equal(one.commit(), local.commit())


# The object store


def test_actors_read_updates_where_they_lie(plane: Any) -> None:
    class Seen:
        def look(self, value: Tensors) -> tuple[bool, bool]:
            flat = value.flat
            return bool(flat.flags.owndata), bool(flat.flags.writeable)

    one = plane(Median(), shards=2)
    one.start(model(LARGE), 0)
    drive(one, 0, 2)
    watcher = ray.remote(Seen).options(num_cpus=0).remote()
    for lanes in one._round._lanes:
        assert ray.get(watcher.look.remote(lanes[0].since[0].piece)) == (False, False)
    ray.kill(watcher)


def test_updates_are_let_go_of_and_wait_for_room(plane: Any) -> None:
    one, local = plane(budget=8 << 20), Local(EXACT, NOTHING)
    for each in (one, local):
        each.start(model(LARGE), 0)
    for i in range(40):  # 22 MB through 8 MB
        for each in (one, local):
            drive(each, i, 1, FORMS)
        assert one._loose + one._round.waiting <= 8 << 20
    assert all(len(leaf.since) < 20 for leaf in one._round._leaves())
    assert equal(one.commit(), local.commit())


def test_a_full_budget_is_an_error_with_numbers(plane: Any) -> None:
    one = plane(Median(), budget=3 << 20)
    one.start(model(LARGE), 0)
    with pytest.raises(ConfigError, match=r"budget: \d+ of 3145728 bytes .* 0 held and 4 folded"):
        drive(one, 0, 9)
    assert one.folded == 4
    one.commit()
    drive(one, 0, 3)
    with pytest.raises(ConfigError, match=r"budget: 1048576 bytes have no room .* Mean"):
        plane(budget=1 << 20).start(model(LARGE), 0)


# Faults


@pytest.mark.timeout(900)
def test_killed_actors_cost_nothing(plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_round, "BATCH", 4)  # so that they go on from partial results too
    one, local = plane(shards=2, fan_in=3, actors=4), Local(EXACT, NOTHING)
    for each in (one, local):
        each.start(model(LARGE), 0)
    for trial in range(TRIALS):
        rng = np.random.default_rng(trial)
        count, whom, timer = int(rng.integers(2, 24)), float(rng.random()), None
        at = int(rng.integers(1, count))
        for i in range(count):
            for each in (one, local):
                drive(each, 100 * trial + i, 1, FORMS)
            if i == at and trial % 2:
                kill(pids(one), whom)
            elif i == at:  # at any moment from here on
                timer = Timer(float(rng.random() ** 2 * 0.1), kill, (pids(one), whom))
                timer.start()
        if trial % 4 == 3:
            one.resize(1 + trial % 3)
        assert one.folded == count
        assert equal(one.commit(), local.commit()), f"trial {trial}"
        if timer is not None:
            timer.join()


def test_what_kills_every_actor_is_an_error(plane: Any) -> None:
    class Deadly(Mean):
        def fold(self, acc: Any, value: Any, weight: float, client: str) -> Any:
            if type(value.flat) is np.ndarray and value.flat.size > 10:
                os._exit(3)  # not in the server: its books have fewer values
            return super().fold(acc, value, weight, client)

    one = plane(Deadly(), shards=1)
    one.start(model(60), 0)
    drive(one, 0, 1)
    with pytest.raises(ActorError, match=r"5 times"):
        one.commit()
    assert one.folded == 1
    one.abandon()
    assert one.commit() is one.model


def test_an_update_that_vanished_is_named(plane: Any) -> None:
    class Owner:
        def make(self) -> list[Any]:
            return [ray.put(np.zeros(1_000_000, np.float32))]

    one = plane(shards=1)
    one.start(model(60), 0)
    drive(one, 0, 2)
    owner = ray.remote(Owner).options(num_cpus=0).remote()
    (lost,) = ray.get(owner.make.remote())
    ray.kill(owner)
    time.sleep(0.5)
    leaf = one._round._lanes[0][0]
    leaf.since[1] = type(leaf.since[1])(
        *(lost if name == "piece" else getattr(leaf.since[1], name)
          for name in leaf.since[1].__slots__)
    )  # fmt: skip
    ray.kill(leaf.actor)  # so that it is read again
    with pytest.raises(ActorError, match=r"update 1 of client 'c1' \(\d+ bytes"):
        one.commit()
    one.abandon()
    drive(one, 0, 2)
    one.commit()


def test_nothing_is_counted_twice(plane: Any) -> None:
    a, b = Partial(None, frozenset({1, 2})), Partial(None, frozenset({2, 3}))
    with pytest.raises(ProtocolError, match=r"updates \[2\] would be counted twice"):
        disjoint([a, b])
    one = plane(shards=1, fan_in=2)
    one.start(model(60), 0)
    drive(one, 0, 3)
    with pytest.raises(ProtocolError, match="update 0 was folded before"):
        drive(one, 0, 1)
    one.drop(0)
    round_ = one._round
    round_.add([round_._lanes[0][0].since[0]])  # the books fail: the other leaf folds it too
    with pytest.raises(ProtocolError, match=r"updates \[0\] would be counted twice"):
        one.commit()


# Bad input


def test_bad_arguments_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    for field, value in (
        ("shards", 0), ("actors", -1), ("budget", 0), ("fan_in", 1), ("smoothing", 1.5),
        ("address", "10.0.0.1:6379"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=field):
            Ray(Mean(), NOTHING, **{field: value})

    class Locked(Mean):
        def __reduce__(self) -> Any:
            return Locked, (Lock(),)

    with pytest.raises(ConfigError, match="aggregator: Locked cannot go to another process"):
        Ray(Locked(), NOTHING)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"ray is not installed.*shoal\[ray\]"):
        Ray(Mean(), NOTHING)


def test_a_rule_with_too_few_updates_goes_on(plane: Any) -> None:
    one = plane(Krum(f=0, m=1, neighbors=1), shards=2)
    one.start(model(60), 0)
    drive(one, 0, 1)
    for _ in range(2):
        with pytest.raises(ShoalError, match="need 3 updates in a commit, got 1"):
            one.commit()
    drive(one, 1, 3)
    one.commit()


def test_models_are_cut_as_far_as_they_and_the_rule_can_be() -> None:
    like = Routed(Mean())
    assert len(shards(model(60), like, 4)) == 4
    assert len(shards(Tensors.of({"x": np.zeros(2, np.float32)}), like, 4)) == 2
    assert len(shards(model(60), Routed(Krum(f=1)), 4)) == 4
