"""Objects as plain data and back: dataclasses, tuples, mappings, arrays, tensors; never pickle.

`encode` gives JSON-ready data with the arrays set aside by path; `decode` rebuilds a value of a
declared type, and names the path of anything that does not fit. Floats may be NaN or infinite, as
in Python's JSON.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

import numpy as np

from shoal.encoded import Array
from shoal.errors import ConfigError, nearest
from shoal.tensors import Tensors, equal

Store = dict[str, Tensors]
_SEQUENCES: dict[Any, Callable[[Iterable[Any]], Any]] = {
    tuple: tuple, Sequence: tuple, list: list, set: set, frozenset: frozenset,
    AbstractSet: frozenset,
}  # fmt: skip


def encode(value: Any, store: Store | None = None, path: str = "") -> Any:
    """Plain data for a value; arrays and tensors go to `store` under their path.

    Raises:
        ConfigError: for a value that has no plain form, or an array where there is no store.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensors | np.ndarray):
        if store is None:
            raise ConfigError(path or "value", "tensors have no place in plain configuration")
        store[path] = value if isinstance(value, Tensors) else Tensors.of({"array": value})
        return {"$": "tensors" if isinstance(value, Tensors) else "array", "path": path}
    if _is_instance(value):
        return {
            f.name: encode(getattr(value, f.name), store, _join(path, f.name))
            for f in dataclasses.fields(value)
            if f.init
        }
    if isinstance(value, Mapping):
        pairs = [(k, encode(v, store, f"{path}[{k!r}]")) for k, v in value.items()]
        if all(type(k) is str and not k.startswith("$") for k, _ in pairs):
            return dict(pairs)
        return {"$": "map", "items": [[encode(k, None, f"{path}[{k!r}]"), v] for k, v in pairs]}
    if isinstance(value, Sequence | AbstractSet) and not isinstance(value, bytes | bytearray):
        items = _sorted(value, path) if isinstance(value, AbstractSet) else value
        return [encode(v, store, f"{path}[{i}]") for i, v in enumerate(items)]
    raise ConfigError(path or "value", f"{type(value).__name__} has no plain form")


def decode(hint: Any, data: Any, store: Store | None = None, *, path: str = "", like: Any = None):  # type: ignore[no-untyped-def]
    """The value of type `hint` that `data` stands for; `like` is an example for untyped fields.

    Fields of type Any, of a type variable, a protocol or a base class take the example's type;
    without one, tables become dicts and lists become tuples.

    Raises:
        ConfigError: naming the path of an unknown key, a missing one or a wrong type.
    """
    if _is_reference(data):
        return _fetch(hint, data, store, path)
    hint = type(None) if hint is None else _resolved(hint, data, like)
    base = typing.get_origin(hint) or hint
    if base is Any:  # before the tests for classes: from Python 3.11 on it is one
        return _untyped(data, store, path)
    if base in (typing.Union, types.UnionType):
        return _union(typing.get_args(hint), data, store, path, like)
    if isinstance(base, type) and dataclasses.is_dataclass(base):
        return _dataclass(hint, base, data, store, path, like)
    if isinstance(base, type) and issubclass(base, Mapping) and not issubclass(base, Tensors):
        return _mapping(hint, data, store, path, like)
    if base in _SEQUENCES:
        return _sequence(hint, base, data, store, path, like)
    return _scalar(base, data, path, typing.get_args(hint))


def same(a: Any, b: Any) -> bool:
    """Whether two states have equal plain forms (NaN equals NaN) and the same bits in tensors."""
    left: Store = {}
    right: Store = {}
    if not _alike(encode(a, left), encode(b, right)) or set(left) != set(right):
        return False
    return all(equal(left[path], right[path]) for path in left)


def _resolved(hint: Any, data: Any, like: Any) -> Any:
    """The type to decode as: the example's where the declaration leaves it open."""
    base = typing.get_origin(hint) or hint
    if isinstance(base, typing.TypeVar) or base in (Any, object):
        structured = isinstance(like, Mapping | tuple | list | AbstractSet)
        return type(like) if data is not None and (structured or _is_instance(like)) else Any
    if _is_instance(like) and isinstance(base, type) and type(like) is not base:
        # A subclass of what is declared, or an implementation of the protocol.
        return type(like) if _is_protocol(base) or isinstance(like, base) else hint
    return hint


def _dataclass(hint: Any, cls: type, data: Any, store: Store | None, path: str, like: Any) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(path or cls.__name__, f"expected a table, got {_short(data)}")
    fields, hints = _fields(cls), _hints(cls)
    for name in data:
        if name not in fields:
            raise ConfigError(_join(path, name), f"unknown key; {nearest(str(name), fields)}")
    for name, required in fields.items():
        if required and name not in data:
            raise ConfigError(_join(path, name), "missing")
    bound = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(hint), strict=False))
    example = like if isinstance(like, cls) else None
    values = {
        name: decode(
            _bound(hints[name], bound),
            value,
            store,
            path=_join(path, name),
            like=getattr(example, name, None),
        )
        for name, value in data.items()
    }
    try:
        return cls(**values)
    except ConfigError as error:
        if not path or error.field.startswith(path):
            raise
        raise ConfigError(_join(path, error.field), error.problem) from error


@lru_cache(maxsize=512)
def _fields(cls: type) -> dict[str, bool]:
    """The names that a dataclass is made from, and whether each is required."""
    missing = dataclasses.MISSING
    return {
        f.name: f.default is missing and f.default_factory is missing
        for f in dataclasses.fields(cls)
        if f.init
    }


@lru_cache(maxsize=512)
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _bound(hint: Any, bound: Mapping[Any, Any]) -> Any:
    """A hint with its type variables replaced where they are known."""
    if not bound:
        return hint
    if isinstance(hint, typing.TypeVar):
        return bound.get(hint, hint)
    free = getattr(hint, "__parameters__", ())
    if not free or isinstance(hint, type):
        return hint
    return hint[tuple(bound.get(variable, variable) for variable in free)]


def _mapping(hint: Any, data: Any, store: Store | None, path: str, like: Any) -> dict[Any, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"expected a table, got {_short(data)}")
    kinds = typing.get_args(hint) or (Any, Any)
    examples = like if isinstance(like, Mapping) else {}
    sample = next(iter(examples.values()), None)
    found = {}
    for k, v in _pairs(data, path):
        where = f"{path}[{k!r}]"
        key = decode(kinds[0], k, path=where)
        found[key] = decode(kinds[1], v, store, path=where, like=examples.get(key, sample))
    return found


def _pairs(data: Mapping[Any, Any], path: str) -> Iterable[tuple[Any, Any]]:
    if data.get("$") != "map":
        return data.items()
    items = data.get("items")
    if not isinstance(items, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in items
    ):
        raise ConfigError(path, "its items are not a list of pairs")
    return [(k, v) for k, v in items]


def _sequence(hint: Any, base: Any, data: Any, store: Store | None, path: str, like: Any) -> Any:
    if isinstance(data, str | Mapping) or not isinstance(data, Sequence):
        raise ConfigError(path, f"expected a list, got {_short(data)}")
    kinds = typing.get_args(hint)
    if base is tuple and kinds and kinds[-1] is not Ellipsis:
        if len(kinds) != len(data):
            raise ConfigError(path, f"expected {len(kinds)} values, got {len(data)}")
        each = list(kinds)
    else:
        each = [kinds[0] if kinds else Any] * len(data)
    examples: Sequence[Any] = like if isinstance(like, tuple | list) else ()
    if len(examples) != len(data):  # of any length, then: all like the first
        examples = [examples[0] if examples else None] * len(data)
    items = [
        decode(kind, v, store, path=f"{path}[{i}]", like=example)
        for i, (kind, v, example) in enumerate(zip(each, data, examples, strict=True))
    ]
    return _SEQUENCES[base](items)


def _union(kinds: tuple[Any, ...], data: Any, store: Store | None, path: str, like: Any) -> Any:
    if type(data) in kinds and not isinstance(data, Mapping | list):
        return data  # before an int becomes a float in `float | int`
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    example: Any = type(like)
    kinds = tuple(sorted(kinds, key=lambda kind: (typing.get_origin(kind) or kind) != example))
    if data is None:
        raise ConfigError(path, _expected(kinds, data))
    problems = []
    for kind in kinds:
        try:
            return decode(kind, data, store, path=path, like=like)
        except ConfigError as error:
            problems.append(error)
    inside = [error for error in problems if error.field != path]
    if len(problems) == 1 or len(inside) == 1:
        raise (inside or problems)[0]
    raise ConfigError(path, _expected(kinds, data))


def _scalar(base: Any, data: Any, path: str, args: tuple[Any, ...]) -> Any:
    if base is typing.Literal:
        if any(data == a and type(data) is type(a) for a in args):
            return data
        names = [str(a) for a in args]
        raise ConfigError(path, f"{_short(data)} is not allowed; {nearest(str(data), names)}")
    if base is float and type(data) is int and abs(data) < 2**1023:
        return float(data)
    if _is_protocol(base) or not isinstance(base, type):
        raise ConfigError(path, f"{base} cannot be rebuilt without an example of it")
    if isinstance(data, base) and (base is bool) == (type(data) is bool):
        return data
    raise ConfigError(path, _expected((base,), data))


def _untyped(data: Any, store: Store | None, path: str) -> Any:
    if _is_reference(data):
        return _fetch(Any, data, store, path)
    if isinstance(data, Mapping):
        pairs = _pairs(data, path)
        return {_untyped(k, None, path): _untyped(v, store, f"{path}[{k!r}]") for k, v in pairs}
    if isinstance(data, list | tuple):
        return tuple(_untyped(v, store, f"{path}[{i}]") for i, v in enumerate(data))
    return data


def _is_reference(data: Any) -> bool:
    return isinstance(data, Mapping) and data.get("$") in ("tensors", "array")


def _fetch(hint: Any, data: Mapping[str, Any], store: Store | None, path: str) -> Any:
    """The tensors or array that were set aside."""
    key = data.get("path")
    if store is None or not isinstance(key, str) or key not in store:
        raise ConfigError(path, "its tensors are missing")
    found: Any = store[key]
    if data["$"] == "array":
        if "array" not in found:
            raise ConfigError(path, "its array is missing")
        found = found["array"]
    if not _accepts(hint, found):
        raise ConfigError(path, _expected((hint,), found))
    return found


def _accepts(hint: Any, found: Any) -> bool:
    base = typing.get_origin(hint) or hint
    if base in (typing.Union, types.UnionType):
        return any(_accepts(kind, found) for kind in typing.get_args(hint))
    open_ended = base is Any or not isinstance(base, type) or _is_protocol(base)
    return open_ended or isinstance(found, base)


def _is_protocol(base: Any) -> bool:
    return bool(getattr(base, "_is_protocol", False))


def _is_instance(like: Any) -> bool:
    return dataclasses.is_dataclass(like) and not isinstance(like, type)


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_alike(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b or (a != a and b != b))


def _sorted(values: AbstractSet[Any], path: str) -> list[Any]:
    try:
        return sorted(values)
    except TypeError as error:
        raise ConfigError(path or "value", f"a set without an order: {error}") from error


def _expected(kinds: tuple[Any, ...], data: Any) -> str:
    names = " or ".join(getattr(k, "__name__", str(k)) for k in kinds)
    return f"expected {names}, got {_short(data)}"


def _short(data: Any) -> str:
    text = repr(data)
    return f"{type(data).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


__all__ = ["Array", "Store", "decode", "encode", "same"]
