"""Laws that every plane obeys: join by a row in PLANES, and one here if it needs arguments.

Local without a budget is the plane that all others must agree with; what Local itself must give is
in tests/planes/test_local.py.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laws.plane_scripts import MODEL, SCRIPT, D, Do, Driver, Fold, Put
from laws.test_aggregators import EXAMPLES as RULES
from laws.test_aggregators import inside
from laws.test_transforms import EXAMPLES as STEPS
from shoal import plain, wire
from shoal.aggregators import Latest, Mean, Median, Routed, Sum
from shoal.core import NOTHING, Aggregator, Transform
from shoal.errors import ConfigError, ModelError, ProtocolError, UpdateError
from shoal.messages import Payload
from shoal.planes import PLANES, Local
from shoal.planes.state import remembers
from shoal.tensors import Tensors, equal

SMALL = 280  # bytes: an accumulator that counts coverage, an aggregate, and nothing else

Make = Callable[[Aggregator[Any], Transform[Any]], Any]
MAKERS: dict[str, Make] = {
    **PLANES,
    "Local under a budget": lambda rule, optimizer: Local(rule, optimizer, budget=SMALL),
}
FORGETFUL = ("Processes", "Ray")  # refuse what may remember updates over commits
# Of Hypothesis; planes that are not named are dearer.
EXAMPLES = {"Local": 150, "Local under a budget": 150, "Ray": 12}
every = pytest.mark.parametrize("name", MAKERS)
# `Latest` remembers every client, which no budget of the accumulator's size has room for.
RULE = st.sampled_from([rule for rules in RULES.values() for rule in rules])
OPTIMIZER = st.sampled_from([NOTHING, *(step for steps in STEPS.values() for step in steps)])


@contextmanager
def opened(name: str, rule: Aggregator[Any], step: Transform[Any] = NOTHING) -> Iterator[Any]:
    """A plane that is started, and closed where it can be."""
    plane = MAKERS[name](rule, step)
    try:
        plane.start(MODEL, 0)
        yield plane
    finally:
        if hasattr(plane, "close"):
            plane.close()


def some(name: str) -> Any:
    """How many examples a plane is worth."""
    return settings(
        max_examples=EXAMPLES.get(name, 20),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def agree(name: str, rule: Aggregator[Any], a: Tensors, b: Tensors) -> None:
    """The same bits where nothing is ever rounded by an order, else to 1e-6."""
    if name.startswith("Local") and isinstance(inside(rule), Mean | Sum | Median):
        assert equal(a, b)
    assert list(a) == list(b)
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-6, atol=1e-6)


def stored(snapshot: Any, like: Any) -> Any:
    """A snapshot to bytes and back, as a checkpoint does it."""
    store: plain.Store = {}
    text = json.dumps(plain.encode(snapshot, store, "plane"))
    loaded = {path: wire.load(wire.dump(tensors))[0] for path, tensors in store.items()}
    return plain.decode(Any, json.loads(text), loaded, path="plane", like=like)


def fits(name: str, rule: Aggregator[Any]) -> bool:
    if name == "Local under a budget":
        return not isinstance(inside(rule), Latest)
    return name not in FORGETFUL or not remembers(Routed(inside(rule)).init(MODEL))


@every
def test_random_sequences_agree_with_local(name: str) -> None:
    @some(name)
    @given(rule=RULE, optimizer=OPTIMIZER, script=SCRIPT)
    def check(rule: Aggregator[Any], optimizer: Transform[Any], script: list[Any]) -> None:
        if not fits(name, rule):
            return
        with opened(name, rule, optimizer) as plane:
            reference = Local(rule, optimizer)
            reference.start(MODEL, 0)
            given_, wanted = Driver(plane), Driver(reference)
            for step in [*script, Do("commit")]:
                assert given_.tell(step) == wanted.tell(step)
                assert plane.folded == reference.folded
                agree(name, rule, plane.model, reference.model)

    check()


@every
def test_snapshots_restore_anywhere_at_any_point(name: str) -> None:
    @some(name)
    @given(
        rule=RULE,
        optimizer=OPTIMIZER,
        script=SCRIPT,
        at=st.integers(0, 30),
        on_disk=st.booleans(),
        other=st.sampled_from(sorted(MAKERS)),
        back=st.booleans(),
    )
    def check(
        rule: Aggregator[Any], optimizer: Transform[Any], script: list[Any], at: int,
        on_disk: bool, other: str, back: bool,
    ) -> None:  # fmt: skip
        if not (fits(name, rule) and fits(other, rule)):
            return
        source, target = (other, name) if back else (name, other)
        with opened(source, rule, optimizer) as first, opened(target, rule, optimizer) as second:
            before = Driver(first)
            for step in script[:at]:
                before.tell(step)
            snapshot = first.snapshot()
            after = Driver(second, dict(before.held), before.count)
            if on_disk:
                snapshot = stored(snapshot, second.snapshot())
            rest = [*script[at:], Do("commit")]
            told = [before.tell(step) for step in rest]  # must not change the snapshot
            second.restore(snapshot)
            assert [after.tell(step) for step in rest] == told
            assert second.folded == first.folded
            agree(name if back else other, rule, first.model, second.model)

    check()


@pytest.mark.parametrize("name", FORGETFUL)
def test_workers_refuse_rules_that_remember(name: str) -> None:
    plane = MAKERS[name](Latest(10), NOTHING)
    with pytest.raises(ConfigError, match=r"aggregator: Latest may remember .* the local plane"):
        plane.start(MODEL, 0)


@every
@pytest.mark.parametrize("rule", [Mean(), Latest(clients=10)], ids=repr)
def test_a_snapshot_leaves_a_round_after_an_abandoned_one_as_it_is(
    name: str, rule: Aggregator[Any]
) -> None:
    if not fits(name, rule):
        pytest.skip("no room for what the rule remembers")
    row = [1] * D
    with opened(name, rule) as plane:
        driver = Driver(plane)
        for step in (Put(row, 0), Fold(0), Do("abandon"), Put(row, 1), Fold(0)):
            driver.tell(step)
        plane.snapshot()
        for step in (Put([0] * D, 2), Fold(0), Do("commit")):
            driver.tell(step)
        np.testing.assert_array_equal(plane.model["buffer/mean"], [0.5, 0.5])


@every
def test_exact_means_have_the_same_bits_in_any_order(name: str) -> None:
    real = st.lists(st.floats(-1e3, 1e3, width=32), min_size=D, max_size=D)
    pairs = st.lists(st.tuples(real, st.floats(1e-3, 100)), min_size=1, max_size=8)

    @some(name)
    @given(pairs=pairs, data=st.data())
    def check(pairs: list[tuple[list[float], float]], data: st.DataObject) -> None:
        rule = Mean(exact=True)
        reference = Local(rule, NOTHING)
        reference.start(MODEL, 0)
        with opened(name, rule) as plane:
            for target, order in (
                (reference, range(len(pairs))),
                (plane, data.draw(st.permutations(range(len(pairs))))),
            ):
                for i in order:
                    row, weight = pairs[i]
                    value = MODEL.with_flat(np.array(row, np.float32))
                    target.put(i, Payload(value, 1, 1, "delta"))
                    target.fold(i, weight, f"c{i}")
            assert equal(plane.commit(), reference.commit())

    check()


def pushed(plane: Any, *rows: float, weights: tuple[float, ...] | None = None) -> None:
    """Put and fold one update of equal values for each row."""
    for i, row in enumerate(rows):
        value = Tensors(MODEL.layout, np.full(D, row, np.float32))
        plane.put(i, Payload(value, 1, 1, "delta"))
        plane.fold(i, 1.0 if weights is None else weights[i], f"c{i}")


@every
@pytest.mark.parametrize("weight", [-1.0, -0.25, float("nan"), float("inf")])
def test_weights_that_cannot_be_are_refused(name: str, weight: float) -> None:
    with opened(name, Mean()) as plane:
        pushed(plane, 1.0)
        plane.put(7, Payload(MODEL, 1, 1, "delta"))
        with pytest.raises(ProtocolError, match=rf"update 7 of client 'x' .* {weight!r}"):
            plane.fold(7, weight, "x")
        assert plane.folded == 1
        plane.drop(7)  # it is still held
        np.testing.assert_array_equal(plane.commit()["b"], MODEL["b"] + 1.0)


@every
@pytest.mark.parametrize("rule", [Mean(), Mean(exact=True)], ids=repr)
def test_weights_that_sum_to_zero_are_refused(name: str, rule: Mean) -> None:
    with opened(name, rule) as plane:
        pushed(plane, 1.0, 3.0, weights=(0.0, 0.0))
        with pytest.raises(ProtocolError, match=r"2 updates .* sum to 0"):
            plane.commit()
        assert plane.folded == 2
        plane.abandon()
        pushed(plane, 5.0)
        np.testing.assert_array_equal(plane.commit()["b"], MODEL["b"] + 5.0)


@every
@pytest.mark.parametrize(
    "strange",
    [
        Tensors.of({"z": np.zeros(3, np.float32)}),
        Tensors.of({"a": np.zeros((3, 2), np.float32), "b": np.zeros(4, np.float32)}),
        Tensors.of({"a": np.zeros((2, 3)), "b": np.zeros(4)}),
        MODEL.with_group("control/", None).with_group(
            "mask/", Tensors.of({"a": np.zeros(2, np.float32)})
        ),
        MODEL.with_group("buffer/", Tensors.of({"mean": np.zeros(3, np.float32)})),
    ],
    ids=["names", "shapes", "dtype", "group", "group's shapes"],
)
def test_updates_of_another_layout_are_refused(name: str, strange: Tensors) -> None:
    with opened(name, Mean()) as plane:
        pushed(plane, 1.0)
        with pytest.raises((UpdateError, ModelError), match="update 7"):
            plane.put(7, Payload(strange, 1, 1, "delta"))
        with pytest.raises(ProtocolError, match="update 7 is not held"):
            plane.drop(7)
        np.testing.assert_array_equal(plane.commit()["b"], MODEL["b"] + 1.0)


@every
def test_a_fixed_point_sum_that_could_overflow_is_refused_before_it_is_added(name: str) -> None:
    with opened(name, Mean(exact=True, bits=50)) as plane:
        pushed(plane, 1.0)
        value = Tensors(MODEL.layout, np.full(D, 9000.0, np.float32))
        plane.put(7, Payload(value, 1, 1, "delta"))
        with pytest.raises(ConfigError, match=r"bits: .* 9001.* 50 fractional bits"):
            plane.fold(7, 1.0, "x")
        plane.drop(7)
        np.testing.assert_array_equal(plane.commit()["b"], MODEL["b"] + 1.0)


@every
def test_an_update_is_held_once_and_counted_once(name: str) -> None:
    with opened(name, Sum()) as plane:
        payload = Payload(Tensors(MODEL.layout, np.ones(D, np.float32)), 1, 1, "delta")
        plane.put(0, payload)
        with pytest.raises(ProtocolError, match="update 0 is held already"):
            plane.put(0, payload)
        plane.fold(0, 1.0, "a")
        for again in (lambda: plane.fold(0, 1.0, "a"), lambda: plane.drop(0)):
            with pytest.raises(ProtocolError, match="update 0 is not held"):
                again()
        assert plane.folded == 1
        np.testing.assert_array_equal(plane.commit()["b"], MODEL["b"] + 1.0)


@every
def test_a_commit_of_nothing_leaves_the_model(name: str) -> None:
    with opened(name, Mean()) as plane:
        pushed(plane, 1.0)
        plane.abandon()
        assert equal(plane.commit(), MODEL)


@every
def test_parts_count_where_they_cover(name: str) -> None:
    with opened(name, Mean()) as plane:
        pushed(plane, 1.0)
        part = Tensors.of({"b": np.full(4, 4.0, np.float32)})
        plane.put(7, Payload(part, 1, 1, "delta"))
        plane.fold(7, 2.0, "x")
        model = plane.commit()
    np.testing.assert_array_equal(model["a"], MODEL["a"] + 1.0)
    np.testing.assert_allclose(model["b"], MODEL["b"] + 3.0, rtol=1e-6)
