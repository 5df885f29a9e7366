"""Plain data of open types: type variables, protocols and base classes, told by an example."""

import json
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pytest

from shoal import wire
from shoal.errors import positive
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


def through_json(value: Any, hint: Any, like: Any = None) -> Any:
    """The value after a trip through JSON text and safetensors bytes."""
    store: Store = {}
    text = json.dumps(encode(value, store, "state"))
    loaded = {path: wire.load(wire.dump(tensors))[0] for path, tensors in store.items()}
    return decode(hint, json.loads(text), loaded, path="state", like=like)


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
