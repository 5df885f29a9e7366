"""Plain data: everything a state may hold survives JSON, and what does not fit is named by path."""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Literal, Optional, Protocol, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import wire
from shoal.encoded import Array, Quantized, Sparse
from shoal.errors import ConfigError, positive
from shoal.plain import Store, decode, encode, same
from shoal.tensors import Tensors

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Coordinator:
    """Hyperparameters."""

    cohort: int = 10
    rate: float = 0.5

    def __post_init__(self) -> None:
        positive("cohort", self.cohort)


@dataclass(frozen=True)
class Algorithm:
    """Nested hyperparameters."""

    coordinator: Coordinator
    others: tuple[Coordinator, ...] = ()
    named: Mapping[str, Coordinator] = field(default_factory=dict)
    kind: Literal["sync", "async", 3] = "sync"


@dataclass(frozen=True)
class Experiment:
    """The outermost."""

    algorithm: Algorithm


@dataclass(frozen=True)
class Everything:
    """A state with a field of each sort that states have."""

    flag: bool
    count: int
    ratio: float
    text: str
    nothing: None
    maybe: int | None
    perhaps: Optional[Coordinator]  # noqa: UP045 - both spellings are met
    either: float | int | str
    pair: tuple[int, str]
    many: tuple[float, ...]
    listed: list[Coordinator]
    sequence: Sequence[int]
    names: frozenset[str]
    numbers: set[int]
    members: AbstractSet[str]
    by_name: dict[str, Coordinator]
    by_number: Mapping[int, tuple[int, ...]]
    by_pair: dict[tuple[str, int], float]
    choice: Literal["a", "b"]
    model: Tensors
    array: Array
    models: dict[str, Tensors | None]
    derived: int = field(init=False, default=3)


def everything(**changes: Any) -> Everything:
    model = Tensors.of({"w": np.arange(4, dtype=np.float32), "counter/n": np.int64(3)})
    values: dict[str, Any] = {
        "flag": True, "count": 3, "ratio": 0.5, "text": "$ é \n", "nothing": None, "maybe": None,
        "perhaps": Coordinator(3), "either": 3, "pair": (1, "x"), "many": (1.0, 2.5), "listed": [],
        "sequence": (1, 2), "names": frozenset({"b", "a"}), "numbers": {3, 1},
        "members": frozenset({"z"}), "by_name": {"a": Coordinator(2), "$b": Coordinator(4)},
        "by_number": {3: (1, 2), -1: ()}, "by_pair": {("a", 1): math.inf}, "choice": "b",
        "model": model, "array": np.array([[True, False]]), "models": {"x": model, "y": None},
    }  # fmt: skip
    return Everything(**values | changes)


def through_json(value: Any, hint: Any, like: Any = None) -> Any:
    """The value after a trip through JSON text and safetensors bytes."""
    store: Store = {}
    text = json.dumps(encode(value, store, "state"))
    loaded = {path: wire.load(wire.dump(tensors))[0] for path, tensors in store.items()}
    return decode(hint, json.loads(text), loaded, path="state", like=like)


# Round trips.


def test_a_state_with_everything_survives():
    state = everything()
    back = through_json(state, Everything)
    assert same(state, back)
    for name in Everything.__dataclass_fields__:
        old, new = getattr(state, name), getattr(back, name)
        assert type(new) is type(old), name
        if name != "array":
            assert new == old, name
    assert back.array.dtype == np.bool_ and back.array.tolist() == [[True, False]]
    assert {type(k) for k in back.by_number} == {int} and back.derived == 3


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, -(2**80)),
        (float, math.inf),
        (float, -math.inf),
        (float, 5e-324),
        (float | int, 3),
        (int | float, 3.0),
        (bool | int | float | str, True),
        (bool | int | float | str, 1),
        (bool | int | float | str, "1"),
        (int | None, None),
        (None, None),
        (tuple[()], ()),
        (tuple, (1, (2, 3))),
        (tuple[int, tuple[str, ...]], (1, ("a", "b"))),
        (dict[str, dict[int, str]], {"a": {1: "x"}, "b": {}}),
        (dict[bool, int], {True: 1, False: 0}),
        (dict[float, int], {0.5: 1, math.inf: 2}),
        (dict[str | int, int], {"1": 1, 1: 2}),
        (dict[str, int], {"$": 1, "path": 2}),
        (dict[str, str], {"$": "tensors", "path": "x"}),
        (dict[str, str], {"$": "map", "items": "x"}),
        (set[tuple[int, str]], {(1, "a"), (0, "b")}),
        (dict[frozenset[int], int], {frozenset({2, 1}): 3}),
        (Any, {"a": (1, 2.5, None, {"b": "c"})}),
        (Any, {1: (2, {3: 4})}),
        (object, "x"),
        (Literal[1, "1", True], True),
    ],
)
def test_plain_values_survive_with_their_types(hint, value):
    back = through_json(value, hint)
    assert repr(back) == repr(value)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.text() | st.integers() | st.sampled_from(["$", "$x"]), inner, max_size=3
        )
    ),
)


@given(json_like)
def test_any_plain_value_survives_without_a_declared_type(value):
    back = through_json(value, Any)
    assert same(value, back)
    assert repr(back) == repr(value)


@given(st.floats(), st.floats())
def test_sameness_of_floats_takes_nan_for_equal(a, b):
    assert same({"x": (a,)}, {"x": (a,)})
    assert same(a, b) == (a == b or (a != a and b != b))


def test_not_a_number_survives_json():
    @dataclass(frozen=True)
    class State:
        best: float
        losses: dict[str, tuple[float, ...]]

    state = State(math.nan, {"a": (math.inf, -math.inf, math.nan, -0.0)})
    back = through_json(state, State)
    assert math.isnan(back.best) and repr(back) == repr(state) and same(state, back)
    assert not same(state, State(0.0, state.losses))


@pytest.mark.parametrize(
    ("value", "plain"),
    [(np.float32(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True), (np.float64(1), 1.0),
     (np.str_("a"), "a"), (MappingProxyType({"a": 1}), {"a": 1}), (OrderedDict(b=1), {"b": 1}),
     (range(3), [0, 1, 2]), ({2, 1}, [1, 2])],
)  # fmt: skip
def test_relatives_of_plain_values_become_plain(value, plain):
    found = encode(value)
    assert found == plain and type(found) is type(plain)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint64, np.bool_])
@pytest.mark.parametrize("shape", [(), (0, 2), (3,), (2, 1, 2)])
def test_arrays_of_every_kind_survive(dtype, shape):
    value = (np.ones(shape, dtype), {"a": np.zeros(shape, dtype)})
    back = through_json(value, tuple[Array, dict[str, Array]])
    for old, new in ((value[0], back[0]), (value[1]["a"], back[1]["a"])):
        assert new.dtype == dtype and new.shape == shape and np.array_equal(old, new)


def test_encoded_tensors_stay_encoded():
    inner = Quantized(np.array([3], np.int8), np.array([0.5], np.float32), 4)
    value = Tensors.of({"x": np.zeros(4, np.float32)}).with_flat(Sparse(4, np.array([2]), inner))
    back = through_json((value, 1), tuple[Tensors, int])[0]
    assert (
        back == value and isinstance(back.flat, Sparse) and isinstance(back.flat.values, Quantized)
    )


# Types that only an example tells.


@dataclass(frozen=True)
class Slots:
    """State of one thing."""

    m: Tensors
    step: int


@dataclass(frozen=True)
class Wrapped(Generic[S]):
    """State around a state."""

    inner: S
    extra: Any = None


@dataclass(frozen=True)
class Two(Generic[S, T]):
    """State of two."""

    left: S
    right: tuple[T, ...]
    maybe: T | None = None


class Rule(Protocol):
    """Declared by what it does."""

    def act(self) -> int:
        """Act."""


class Base:
    """Declared by a base class that is no dataclass."""


@dataclass(frozen=True)
class Concrete(Base):
    """What stands in a field declared as `Rule` or `Base`."""

    size: int = 1

    def act(self) -> int:
        return self.size


@dataclass(frozen=True)
class Bigger(Coordinator):
    """A subclass with a field of its own."""

    extra: int = 0


@dataclass(frozen=True)
class Holder:
    """Fields of open types."""

    rule: Rule
    base: Base
    coordinator: Coordinator


def slots(step: int = 1) -> Slots:
    return Slots(Tensors.of({"w": np.full(2, step, np.float32)}), step)


@pytest.mark.parametrize(
    ("hint", "value", "like"),
    [
        (Any, slots(3), slots()),
        (S, slots(3), slots()),
        (Wrapped, Wrapped(slots(3)), Wrapped(slots())),
        (Wrapped[Any], Wrapped(Wrapped(slots(3))), Wrapped(Wrapped(slots()))),
        (Wrapped[Slots], Wrapped(slots(3)), None),
        (Wrapped[Wrapped[Slots]], Wrapped(Wrapped(slots(3))), None),
        (Two[int, Slots], Two(1, (slots(2), slots(3)), slots(4)), None),
        (Any, (slots(3), None, (slots(4),), 5), (slots(), None, (slots(),), 0)),
        (Any, {"a": slots(3), "b": slots(4)}, {"": slots()}),
        (Any, {"a": slots(3), "b": (slots(4), 1)}, {"a": slots(), "b": (slots(), 0)}),
        (dict[int, Any], {1: slots(3)}, {0: slots()}),
        (tuple[Any, ...], (slots(1), slots(2), slots(3)), (slots(),)),
        (Any, [slots(1)], [slots(), slots()]),
        (Any, {1, 2}, set()),
        (Any, frozenset(), frozenset({1})),
        (Any, None, slots()),
        (Any, 0.5, 0),
        (Any, slots().m, Tensors.of({})),
        (Any | None, slots(3), slots()),
        (Slots | Coordinator, Coordinator(3), Coordinator()),
        (Coordinator | Bigger, Bigger(3, 0.5, 0), Bigger()),
        (Coordinator, Bigger(3, 0.5, 7), Bigger()),
        (
            Holder,
            Holder(Concrete(2), Concrete(3), Bigger(4)),
            Holder(Concrete(), Concrete(), Bigger()),
        ),
    ],
)
def test_examples_tell_open_types(hint, value, like):
    back = through_json(value, hint, like)
    assert type(back) is type(value) and same(value, back)
    if not isinstance(value, set | frozenset):
        assert repr(back) == repr(value)


def test_without_an_example_tensors_are_found_in_untyped_data():
    t = Tensors.of({"w": np.ones(2)})
    back = through_json({"a": [t, np.arange(3)], 1: {"b": t}}, Any)
    assert back["a"][0] == t and back["a"][1].tolist() == [0, 1, 2] and back[1]["b"] == t


def test_keys_get_their_own_store_paths():
    t = [Tensors.of({"w": float(i)}) for i in range(4)]
    value = {"a": {"b": t[0]}, "a.b": t[1], 1: t[2], "1": t[3]}
    back = through_json(value, Any)
    assert [back["a"]["b"], back["a.b"], back[1], back["1"]] == t


# What does not fit is named.

GOOD = {"algorithm": {"coordinator": {"cohort": 3}}}


def experiment(**changes: Any) -> dict[str, Any]:
    return {"algorithm": {"coordinator": {"cohort": 3}} | changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (experiment(coordinator={"cohort": "x"}),
         "algorithm.coordinator.cohort: expected int, got str 'x'"),
        (experiment(coordinator={"cohort": True}),
         "algorithm.coordinator.cohort: expected int, got bool True"),
        (experiment(coordinator={"cohort": 3.0}),
         "algorithm.coordinator.cohort: expected int, got float 3.0"),
        (experiment(coordinator={"rate": "x"}),
         "algorithm.coordinator.rate: expected float, got str 'x'"),
        (experiment(coordinator={"rate": True}),
         "algorithm.coordinator.rate: expected float, got bool True"),
        (experiment(coordinator={"rate": 10**400}),
         "algorithm.coordinator.rate: expected float, got int 1000"),
        (experiment(coordinator={"cohrt": 3}),
         "algorithm.coordinator.cohrt: unknown key; did you mean cohort, rate?"),
        (experiment(coordinator={"zzzzzz": 3}),
         "algorithm.coordinator.zzzzzz: unknown key; known: cohort, rate"),
        (experiment(coordinator={1: 3}), "algorithm.coordinator.1: unknown key"),
        (experiment(coordinator={"cohort": 0}),
         "algorithm.coordinator.cohort: must be finite and above 0, got 0"),
        (experiment(coordinator=[1]), "algorithm.coordinator: expected a table, got list [1]"),
        (experiment(coordinator=None),
         "algorithm.coordinator: expected a table, got NoneType None"),
        (experiment(others=[{}, {"cohort": 1.5}]),
         "algorithm.others[1].cohort: expected int, got float 1.5"),
        (experiment(others={"a": {}}), "algorithm.others: expected a list, got dict"),
        (experiment(others="abc"), "algorithm.others: expected a list, got str 'abc'"),
        (experiment(named={"a b": {"rate": None}}),
         "algorithm.named['a b'].rate: expected float, got NoneType None"),
        (experiment(named=[1]), "algorithm.named: expected a table, got list [1]"),
        (experiment(named={"$": "map", "items": [1]}), "algorithm.named: its items are not"),
        (experiment(named={"$": "map"}), "algorithm.named: its items are not"),
        (experiment(kind="asnyc"),
         "algorithm.kind: str 'asnyc' is not allowed; did you mean async, sync?"),
        (experiment(kind=3.0), "algorithm.kind: float 3.0 is not allowed; did you mean 3?"),
        (experiment(coordinator={"$": "tensors", "path": "x"}),
         "algorithm.coordinator: its tensors are missing"),
        (experiment(coordinator={"$": "tensors"}),
         "algorithm.coordinator: its tensors are missing"),
        (experiment(coordinator={"$": "array", "path": []}),
         "algorithm.coordinator: its tensors are missing"),
        ({"algorithm": {}}, "algorithm.coordinator: missing"),
        ({}, "algorithm: missing"),
        (3, "Experiment: expected a table, got int 3"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_by_its_path(data, message):
    with pytest.raises(ConfigError) as caught:
        decode(Experiment, data)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 250


def test_the_example_of_the_good_one():
    assert decode(Experiment, GOOD) == Experiment(Algorithm(Coordinator(3)))


@pytest.mark.parametrize(
    ("hint", "data", "message"),
    [
        (tuple[int, int], [1], "p: expected 2 values, got 1"),
        (dict[int, int], {"1": 1}, "p['1']: expected int, got str '1'"),
        (dict[str, tuple[int, ...]], {"a": [1, "b"]}, "p['a'][1]: expected int, got str 'b'"),
        (int | str, 1.5, "p: expected int or str, got float 1.5"),
        (int | str, None, "p: expected int or str, got NoneType None"),
        (int | None, "x", "p: expected int, got str 'x'"),
        (Coordinator | None, {"cohort": "x"}, "p.cohort: expected int, got str 'x'"),
        (int | Coordinator, {"cohort": "x"}, "p.cohort: expected int, got str 'x'"),
        (Coordinator | Slots, {"x": 1}, "p: expected Coordinator or Slots, got dict {'x': 1}"),
        (None, 1, "p: expected NoneType, got int 1"),
        (Rule, {"size": 1}, "p: <class"),
        (Base, {"size": 1}, "p: expected Base, got dict"),
        (Tensors, 3, "p: expected Tensors, got int 3"),
        (set[int], "abc", "p: expected a list, got str 'abc'"),
    ],
)
def test_every_sort_of_hint_names_what_it_expected(hint, data, message):
    with pytest.raises(ConfigError) as caught:
        decode(hint, data, path="p")
    assert str(caught.value).startswith(message)


def test_tensors_where_others_were_declared_are_named():
    store: Store = {}
    data = encode({"x": Tensors.of({"a": 1.0}), "y": np.zeros(2)}, store, "s")
    for hint in (dict[str, Tensors], dict[str, Array], dict[str, int], dict[str, int | None]):
        with pytest.raises(ConfigError, match=r"p\['[xy]'\]: expected"):
            decode(hint, data, store, path="p")
    assert decode(dict[str, Tensors | Array], data, store)["y"].tolist() == [0, 0]
    with pytest.raises(ConfigError, match=r"p\['y'\]: its array is missing"):
        decode(Any, data, {path: Tensors.of({}) for path in store}, path="p")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, object()]}, r"x\['a'\]\[1\]: object has no plain form"),
        ({"a": b"bytes"}, r"x\['a'\]: bytes has no plain form"),
        ({"a": 1j}, r"x\['a'\]: complex has no plain form"),
        ({"a": np.complex64(1)}, r"x\['a'\]: complex has no plain form"),
        ({"a": {1, "b"}}, r"x\['a'\]: a set without an order"),
        ({(1, object): 1}, r"x\[\(1, <class 'object'>\)\]\[1\]: type has no plain form"),
        ({"a": print}, r"x\['a'\]: builtin_function_or_method has no plain form"),
        (Coordinator, "x: type has no plain form"),
        ({"a": np.zeros(2)}, r"x\['a'\]: tensors have no place in plain configuration"),
        (Slots(Tensors.of({}), 1), "x.m: tensors have no place in plain configuration"),
    ],
)
def test_what_has_no_plain_form_is_named_by_its_path(value, message):
    with pytest.raises(ConfigError, match=message):
        encode(value, path="x")


def test_the_outermost_value_has_a_name_too():
    with pytest.raises(ConfigError, match=r"^value: object has no plain form"):
        encode(object())
    with pytest.raises(ConfigError, match=r"^m: tensors have no place"):
        encode(Slots(Tensors.of({}), 1))


# Sameness.


def test_sameness_sees_every_difference():
    state = everything()
    assert same(state, everything())
    model = state.model
    for change in (
        {"count": 4}, {"text": "other"}, {"many": (1.0,)}, {"listed": [Coordinator()]},
        {"numbers": {1}}, {"by_number": {3: (1, 2)}}, {"maybe": 0}, {"perhaps": None},
        {"model": model.with_flat(np.zeros(4, np.float32))},
        {"model": model.with_group("counter/", None)},
        {"array": np.array([[False, False]])}, {"array": np.array([[1, 0]])},
        {"models": {"x": model}}, {"models": {"x": model, "y": model}},
    ):  # fmt: skip
        assert not same(state, everything(**change)), change
