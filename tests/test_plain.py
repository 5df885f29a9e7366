"""Plain data: everything a state may hold survives JSON, and what does not fit is named by path."""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Optional

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import wire
from shoal.encoded import Array, Quantized, Sparse
from shoal.errors import positive
from shoal.plain import Store, decode, encode, same
from shoal.tensors import Tensors


@dataclass(frozen=True)
class Coordinator:
    """Hyperparameters."""

    cohort: int = 10
    rate: float = 0.5

    def __post_init__(self) -> None:
        positive("cohort", self.cohort)


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
        (set[tuple[int, str]], {(1, "a")}),
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
