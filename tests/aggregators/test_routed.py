import json
from typing import Any

import numpy as np
import pytest

from shoal import plain, wire
from shoal.aggregators import Krum, Mean, Median, Routed, Sum
from shoal.errors import ConfigError, UpdateError
from shoal.tensors import Tensors, equal

MODEL = Tensors.of(
    {
        "w": np.zeros(2, np.float32),
        "control/w": np.zeros(2, np.float32),
        "buffer/mean": np.array([7.0], np.float32),
        "counter/batches": np.array(3),
        "private/head": np.zeros(2),
    }
)


def sent(w: float, control: float, mean: float, batches: int) -> Tensors:
    return Tensors.of(
        {
            "w": np.full(2, w, np.float32),
            "control/w": np.full(2, control, np.float32),
            "buffer/mean": np.array([mean], np.float32),
            "counter/batches": np.array(batches),
        }
    )


GIVEN = [(sent(1, 10, 2, 5), 1.0), (sent(4, 20, 4, 9), 0.5), (sent(7, 30, 9, 8), 0.25)]


def fold(rule: Routed, given: Any, model: Tensors = MODEL) -> Any:
    acc = rule.init(model)
    for i, (value, weight) in enumerate(given):
        acc = rule.fold(acc, value, weight, f"c{i}")
    return acc


@pytest.mark.parametrize("exact", [False, True])
def test_each_group_goes_where_it_belongs(exact: bool) -> None:
    rule = Routed(Mean(exact=exact), {"control/": Sum()})
    out, _ = rule.finish(fold(rule, GIVEN))
    assert set(out.groups) == {"control/", "buffer/", "counter/"}
    np.testing.assert_allclose(out["w"], (1 + 2 + 1.75) / 1.75, rtol=1e-6)
    np.testing.assert_allclose(out["control/w"], 10 + 10 + 7.5)
    np.testing.assert_allclose(out["buffer/mean"], 5)  # each once, whatever its staleness weight
    assert out["counter/batches"] == 9
    assert out["counter/batches"].dtype == MODEL["counter/batches"].dtype


def test_the_default_takes_groups_without_a_route_and_buffers_may_be_routed() -> None:
    rule = Routed(Median(), {"buffer/": Sum()})
    out, _ = rule.finish(fold(rule, GIVEN))
    np.testing.assert_array_equal(out["control/w"], 20)
    np.testing.assert_allclose(out["buffer/mean"], 2 + 2 + 2.25)


def test_groups_that_nobody_sent_are_left_out() -> None:
    rule = Routed(Mean())
    out, acc = rule.finish(fold(rule, [(Tensors.of({"w": np.ones(2, np.float32)}), 1.0)]))
    assert not out.groups
    acc = rule.fold(acc, GIVEN[0][0], 1.0, "c")
    assert set(rule.finish(acc)[0].groups) == {"control/", "buffer/", "counter/"}
    assert not rule.finish(rule.init(MODEL))[0].groups


def test_exact_covers_the_buffers_too() -> None:
    rng, rule = np.random.default_rng(0), Routed(Mean(exact=True))
    given = [(sent(*rng.standard_normal(3) * 1e3, i), rng.uniform()) for i in range(9)]
    first = rule.finish(fold(rule, given))[0]
    for _ in range(5):
        order = [given[i] for i in rng.permutation(9)]
        cut = int(rng.integers(9))
        tree = rule.merge(fold(rule, order[cut:]), fold(rule, order[:cut]))
        assert equal(rule.finish(tree)[0], first)


@pytest.mark.parametrize("default", [Mean(), Mean(exact=True), Krum(f=0)], ids=repr)
def test_different_accumulators_survive_a_checkpoint(default: Any) -> None:
    rule = Routed(default, {"control/": Median()})
    acc = fold(rule, GIVEN)
    store: plain.Store = {}
    text = json.dumps(plain.encode(acc, store, "acc"))
    loaded = {path: wire.load(wire.dump(one))[0] for path, one in store.items()}
    restored = plain.decode(Any, json.loads(text), loaded, path="acc", like=rule.init(MODEL))
    restored = rule.fold(restored, GIVEN[0][0], 2.0, "last")
    acc = rule.fold(acc, GIVEN[0][0], 2.0, "last")
    assert equal(rule.finish(restored)[0], rule.finish(acc)[0])


def test_counters_are_not_zero_bounded() -> None:
    model = Tensors.of({"w": np.zeros(1), "counter/n": np.array([0, 0])})
    value = Tensors.of({"w": np.zeros(1), "counter/n": np.array([-5, 2])})
    rule = Routed(Mean())
    out, _ = rule.finish(fold(rule, [(value, 1.0)], model))
    np.testing.assert_array_equal(out["counter/n"], [-5, 2])


def test_scope_is_the_widest() -> None:
    assert Routed(Mean()).scope == "coordinate"
    assert Routed(Krum(f=1)).scope == "update"
    assert Routed(Mean(), {"control/": Krum(f=1)}).scope == "update"


def test_strangers_are_refused() -> None:
    rule, model = Routed(Mean()), Tensors.of({"w": np.zeros(2, np.float32)})
    with pytest.raises(UpdateError, match="client 'c0' sent 'buffer/'"):
        fold(rule, GIVEN, model)
    for prefix in ("contrl/", "private/"):
        with pytest.raises(ConfigError, match="routes"):
            Routed(Mean(), {prefix: Sum()})
