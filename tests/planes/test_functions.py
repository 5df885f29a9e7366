"""The functions plane: in any shards and any tree, the bits of the local plane."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planes.functions_support import EXACT, MODEL, RULES, fill, local, payload
from shoal import plain
from shoal.aggregators import GeometricMedian, Krum, Latest, Mean, Median, Routed, Sum, TrimmedMean
from shoal.core import NOTHING, Aggregator
from shoal.errors import ConfigError
from shoal.messages import Payload
from shoal.planes import Local
from shoal.planes.functions import Functions
from shoal.planes.functions_runner import (
    Ceilings,
    Inline,
    LocalRunner,
)
from shoal.planes.handler import Call, build_rule, describe_rule
from shoal.planes.objects import ObjectError, load
from shoal.tensors import Tensors, equal
from shoal.transforms import Adam, Momentum

pytest_plugins = ("planes.functions_fixtures",)


@pytest.mark.parametrize("rule", [*RULES, Routed(EXACT, {"control/": Sum()})], ids=repr)
@pytest.mark.parametrize(("shards", "fan_in"), [(1, 2), (3, 2), (4, 8), (20, 3)])
def test_every_layout_agrees_with_local(
    plane: Callable[..., Functions], rule: Aggregator[Any], shards: int, fan_in: int
) -> None:
    made = plane(rule, Momentum(0.9), shards=shards, fan_in=fan_in)
    got, wanted = fill(made, 9).commit(), local(rule, 9, step=Momentum(0.9))
    if getattr(rule, "exact", False):
        assert equal(got, wanted)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-6, atol=1e-6)
    assert (made.version, made.folded) == (1, 0)


@settings(max_examples=10, deadline=None)
@given(
    order=st.permutations(range(8)), shards=st.integers(1, 9), fan_in=st.integers(2, 9),
    other=st.integers(1, 9),
)  # fmt: skip
def test_exact_means_have_the_same_bits_in_any_order_and_layout(
    order: list[int], shards: int, fan_in: int, other: int
) -> None:
    """Also when the round goes on, in the middle, on a plane with other shards."""
    first = Functions(EXACT, NOTHING, shards=shards, fan_in=fan_in)
    second = Functions(EXACT, NOTHING, shards=other, fan_in=2)
    try:
        first.start(MODEL, 0)
        second.start(MODEL, 0)
        fill(first, 0, order=order[:5])
        first.put(order[5], payload(order[5]))
        second.restore(first.snapshot())
        for plane in (first, second):
            if plane is first or order[5] in second.snapshot().held:
                plane.fold(order[5], 0.5 + order[5], f"c{order[5] % 4}")
            fill(plane, 0, order=order[6:])
        assert equal(first.commit(), local(EXACT, 8))
        assert equal(second.commit(), first.model)
    finally:
        first.close()
        second.close()


def test_snapshots_cross_between_local_and_any_shards(plane: Callable[..., Functions]) -> None:
    sources = [plane(EXACT, Adam(0.1), shards=n, fan_in=2) for n in (1, 4)]
    wanted = Local(EXACT, Adam(0.1))
    wanted.start(MODEL, 0)
    for each in (*sources, wanted):
        fill(each, 6).commit()
        fill(each, 5)
    for source in sources:
        snapshot = source.snapshot()
        assert plain.same(snapshot.accumulator, wanted.snapshot().accumulator)
        targets = [Local(EXACT, Adam(0.1)), plane(EXACT, Adam(0.1), shards=3)]
        targets[0].start(MODEL, 0)
        for target in targets:
            target.restore(snapshot)
            assert target.folded == 5
            target.put(9, payload(9))
            target.fold(9, 2.0, "z")
    wanted.put(9, payload(9))
    wanted.fold(9, 2.0, "z")
    model = wanted.commit()
    assert all(equal(target.commit(), model) for target in targets)


def test_abandoned_updates_leave_nothing(plane: Callable[..., Functions], tmp_path: Path) -> None:
    made = fill(plane(shards=2, fan_in=2), 5)
    made.abandon()
    made.put(70, payload(1))
    made.drop(70)
    assert equal(fill(made, 7).commit(), local(EXACT, 7))


def test_what_was_committed_is_deleted(plane: Callable[..., Functions]) -> None:
    made = plane(shards=2, fan_in=2)
    made.put(77, payload(77))  # held over the commits
    for _ in range(3):
        fill(made, 7).commit()
    deadline = time.monotonic() + 5
    kinds: set[str] = set()
    while time.monotonic() < deadline:
        made._clean()
        kinds = {key.split("/")[-3 if "updates" in key else 1] for key in made.store.keys("")}
        if kinds == {"updates", "like"}:
            break
    keys = list(made.store.keys(""))
    assert kinds == {"updates", "like"} and len(keys) == 4
    made.close()
    assert list(made.store.keys("")) == []


def test_whole_update_rules_are_refused_in_shards(plane: Callable[..., Functions]) -> None:
    for rule in (Krum(f=1), GeometricMedian(), Routed(Krum(f=1))):
        with pytest.raises(ConfigError, match=r"shards: .* compares whole updates"):
            plane(rule, shards=2)
    with pytest.raises(ConfigError, match="shards: Latest remembers updates"):
        plane(Latest(3), shards=2)
    assert equal(fill(plane(Latest(4)), 6).commit(), local(Latest(4), 6))


def test_rules_that_functions_do_not_know_are_refused(plane: Callable[..., Functions]) -> None:
    class Mine(Mean):
        pass

    with pytest.raises(ConfigError, match=r"aggregator: functions know Mean, .* not Mine"):
        plane(Mine())
    for bad in (None, {"rule": "os.system"}, {"rule": "Mean", "bits": "x"}, {"rule": "Routed"}):
        with pytest.raises(ConfigError, match="aggregator"):
            build_rule(bad)
    for rule in (*RULES, Routed(EXACT, {"control/": Sum()}), Krum(f=1, m=2), Latest(3)):
        assert build_rule(json.loads(json.dumps(describe_rule(rule)))) == rule


def test_a_ceiling_that_cannot_be_met_is_known_before_work_starts(
    plane: Callable[..., Functions],
) -> None:
    large = Tensors.of({"x": np.zeros(4_000_000, np.float32)})
    runner = LocalRunner(Ceilings(memory=160 << 20))
    with pytest.raises(ConfigError, match=r"its ceiling is 167772160: .* use 2 shards"):
        plane(model=large, runner=runner)
    plane(model=large, runner=runner, shards=2)
    sets = plane(Median(), model=large, runner=runner, shards=2)
    for i in range(8):
        sets.put(i, Payload(large, 1))
        sets.fold(i, 1.0, f"c{i}")
    with pytest.raises(ConfigError, match=r"all of its updates \(8 so far\)"):
        sets.commit()
    assert runner.starts == 0
    assert sets.folded == 8


def test_an_update_that_is_gone_or_cut_is_named_and_nothing_changes(
    plane: Callable[..., Functions],
) -> None:
    made = plane(shards=2, fan_in=8)
    fill(made, 4)
    store = made.store
    key = next(key for key in store.keys("") if "/updates/00000002/" in key)
    data = store.get(key, 0, 1 << 20)
    store.put(key, data[:-9])
    with pytest.raises(ObjectError, match=rf"is cut short \({len(data) - 9} of {len(data)} bytes"):
        made.commit()
    store.delete([key])
    with pytest.raises(ObjectError, match=f"{key}.* is not in the store"):
        made.commit()
    assert (made.version, made.folded) == (0, 4)
    store.put(key, data)
    assert equal(made.commit(), local(EXACT, 4))


def test_errors_of_a_rule_arrive_as_they_are(plane: Callable[..., Functions]) -> None:
    made = fill(plane(TrimmedMean(f=2), shards=2), 4)
    with pytest.raises(ConfigError, match="f: 2 needs more than 4 updates"):
        made.commit()
    fill(made, 0, order=range(4, 9))
    assert made.commit()["a"].shape == MODEL["a"].shape


def test_leaves_start_while_updates_come_and_the_manifest_names_everybody(
    plane: Callable[..., Functions],
) -> None:
    seen: list[Call] = []

    class Watched(Inline):
        def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
            seen.append(plain.decode(Call, event["call"]))
            if seen[-1].finish:
                prefix = seen[-1].output.rsplit("/", 2)[0]
                manifests.append(load(made.store, f"{prefix}/manifest")[0])
            return super().invoke(event)

    manifests: list[Any] = []
    made = plane(runner=Watched(), shards=2, fan_in=3)
    fill(made, 8)
    deadline = time.monotonic() + 5
    while len(seen) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(seen) == 4  # two leaves of three updates, for each shard; two updates wait
    assert equal(made.commit(), local(EXACT, 8))
    assert sorted(len(call.inputs) for call in seen) == [2, 2, 3, 3, 3, 3, 3, 3]
    assert [call.finish for call in seen[-2:]] == [True, True]
    assert manifests[0] == manifests[1]
    assert manifests[0]["contributors"] == list(range(8))
    assert [update["weight"] for update in manifests[0]["updates"]] == [0.5 + i for i in range(8)]
