"""Objects as plain data and back: dataclasses, tuples, mappings, arrays, tensors; never pickle.

`encode` gives JSON-ready data with the arrays set aside by path; `decode` rebuilds a value of a
declared type, and names the path of anything that does not fit.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.encoded import Array
from shoal.errors import ConfigError, nearest
from shoal.tensors import Tensors, equal

Store = dict[str, Tensors]


def encode(value: Any, store: Store | None = None, path: str = "") -> Any:
    """Plain data for a value; arrays and tensors go to `store` under their path.

    Raises:
        ConfigError: for a value that has no plain form, or an array where there is no store.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensors | np.ndarray):
        if store is None:
            raise ConfigError(path, "tensors have no place in plain configuration")
        store[path] = value if isinstance(value, Tensors) else Tensors.of({"array": value})
        return {"$": "tensors" if isinstance(value, Tensors) else "array", "path": path}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: encode(getattr(value, f.name), store, f"{path}.{f.name}")
            for f in dataclasses.fields(value)
            if f.init
        }
    if isinstance(value, Mapping):
        pairs = [(k, encode(v, store, f"{path}[{k!r}]")) for k, v in value.items()]
        if all(isinstance(k, str) and not k.startswith("$") for k, _ in pairs):
            return dict(pairs)
        return {"$": "map", "items": [[encode(k), v] for k, v in pairs]}
    if isinstance(value, Sequence | frozenset | set):
        items = sorted(value) if isinstance(value, frozenset | set) else value
        return [encode(v, store, f"{path}[{i}]") for i, v in enumerate(items)]
    raise ConfigError(path or "value", f"{type(value).__name__} has no plain form")


def decode(hint: Any, data: Any, store: Store | None = None, *, path: str = "", like: Any = None):  # type: ignore[no-untyped-def]
    """The value of type `hint` that `data` stands for; `like` is an example for untyped fields.

    Raises:
        ConfigError: naming the path of an unknown key, a missing one or a wrong type.
    """
    if isinstance(data, Mapping) and data.get("$") in ("tensors", "array"):
        if store is None or data["path"] not in store:
            raise ConfigError(path, "its tensors are missing")
        found = store[data["path"]]
        return found if data["$"] == "tensors" else found["array"]
    hint = _resolved(hint, like)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(typing.get_args(hint), data, store, path, like)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint, data, store, path, like)
    base = origin or hint
    if isinstance(base, type) and issubclass(base, Mapping) and not issubclass(base, Tensors):
        return _mapping(hint, data, store, path, like)
    if base in (tuple, list, Sequence, frozenset, set):
        return _sequence(hint, base, data, store, path, like)
    return _scalar(base, data, path, typing.get_args(hint))


def _resolved(hint: Any, like: Any) -> Any:
    if isinstance(hint, typing.TypeVar) or hint in (Any, object):
        return Any if like is None else type(like)
    return hint


def _dataclass(cls: type, data: Any, store: Store | None, path: str, like: Any) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(path or cls.__name__, f"expected a table, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in data:
        if name not in fields:
            raise ConfigError(_join(path, name), f"unknown key; {nearest(name, list(fields))}")
    hints = typing.get_type_hints(cls)
    same = isinstance(like, cls)
    values = {
        name: decode(
            hints[name],
            value,
            store,
            path=_join(path, name),
            like=getattr(like, name) if same else None,
        )
        for name, value in data.items()
    }
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if name not in values and required:
            raise ConfigError(_join(path, name), "missing")
    return cls(**values)


def _mapping(hint: Any, data: Any, store: Store | None, path: str, like: Any) -> dict[Any, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"expected a table, got {data!r}")
    kinds = typing.get_args(hint) or (Any, Any)
    pairs = data["items"] if data.get("$") == "map" else data.items()
    sample = next(iter(like.values()), None) if isinstance(like, Mapping) else None
    return {
        decode(kinds[0], k, path=path): decode(
            kinds[1], v, store, path=f"{path}[{k!r}]", like=sample
        )
        for k, v in pairs
    }


def _sequence(hint: Any, base: Any, data: Any, store: Store | None, path: str, like: Any) -> Any:
    if isinstance(data, str | Mapping) or not isinstance(data, Sequence):
        raise ConfigError(path, f"expected a list, got {data!r}")
    kinds = typing.get_args(hint)
    examples = like if isinstance(like, tuple | list) and len(like) == len(data) else None
    if base is tuple and kinds and kinds[-1] is not Ellipsis:
        if len(kinds) != len(data):
            raise ConfigError(path, f"expected {len(kinds)} values, got {len(data)}")
        each = list(kinds)
    else:
        each = [kinds[0] if kinds else Any] * len(data)
    items = [
        decode(kind, v, store, path=f"{path}[{i}]", like=examples[i] if examples else None)
        for i, (kind, v) in enumerate(zip(each, data, strict=True))
    ]
    make: Callable[[list[Any]], Any] = {list: list, set: set, frozenset: frozenset}.get(base, tuple)
    return make(items)


def _union(kinds: tuple[Any, ...], data: Any, store: Store | None, path: str, like: Any) -> Any:
    if data is None and type(None) in kinds:
        return None
    problems = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return decode(kind, data, store, path=path, like=like)
        except ConfigError as error:
            problems.append(error)
    raise problems[0] if len(problems) == 1 else ConfigError(path, _expected(kinds, data))


def _scalar(base: Any, data: Any, path: str, args: tuple[Any, ...]) -> Any:
    if base is Any:
        return _untyped(data)
    if base is typing.Literal:
        if data in args:
            return data
        names = [str(a) for a in args]
        raise ConfigError(path, f"{data!r} is not allowed; {nearest(str(data), names)}")
    if base is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if isinstance(base, type) and isinstance(data, base) and (base is bool) == (type(data) is bool):
        return data
    raise ConfigError(path, _expected((base,), data))


def _untyped(data: Any) -> Any:
    if isinstance(data, Mapping):
        pairs = data["items"] if data.get("$") == "map" else data.items()
        return {k: _untyped(v) for k, v in pairs}
    return tuple(_untyped(v) for v in data) if isinstance(data, list) else data


def _expected(kinds: tuple[Any, ...], data: Any) -> str:
    names = " or ".join(getattr(k, "__name__", str(k)) for k in kinds)
    return f"expected {names}, got {type(data).__name__} {data!r}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def same(a: Any, b: Any) -> bool:
    """Whether two states have equal plain forms and equal bits in their tensors."""
    left: Store = {}
    right: Store = {}
    if encode(a, left) != encode(b, right) or set(left) != set(right):
        return False
    return all(equal(left[path], right[path]) for path in left)


__all__ = ["Array", "Store", "decode", "encode", "same"]
