"""Plain data that does not fit: each error names the path, what was expected and what is there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pytest

from shoal.encoded import Array
from shoal.errors import ConfigError, positive
from shoal.plain import Store, decode, encode
from shoal.tensors import Tensors


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
class Slots:
    """State of one thing."""

    m: Tensors
    step: int


class Rule(Protocol):
    """Declared by what it does."""

    def act(self) -> int:
        """Act."""


class Base:
    """Declared by a base class that is no dataclass."""


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
