"""An experiment as TOML and back: the exact image of the Python value.

A table whose type the field does not fix names it with `kind`, by a name of the packages'
dictionaries or by `package.module:Name`. What equals its default is left out.
"""

import dataclasses
import inspect
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal.errors import ConfigError, MissingExtra, nearest
from shoal.names import name_of, resolve, scope
from shoal.plain import decode as plain_decode

NONE = {"none": True}


def encode(value: Any, hint: Any = Any, *, full: bool = False, path: str = "") -> Any:
    """Plain tables for a value; `full` keeps what equals its default."""
    if value is None:
        return dict(NONE)
    if isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = _plain_hint(hint)
        return _encode_dataclass(value, hint if plain is Any else plain, full, path)
    if isinstance(value, Mapping):
        inner = (typing.get_args(hint) or (str, Any))[1]
        return {str(k): encode(v, inner, full=full, path=f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, Sequence):
        inner = _item(hint)
        return [encode(v, inner, full=full, path=f"{path}[{i}]") for i, v in enumerate(value)]
    if callable(value):
        return name_of(value)
    raise ConfigError(path, f"{type(value).__name__} has no form in TOML")


def _encode_dataclass(value: Any, hint: Any, full: bool, path: str) -> dict[str, Any]:
    cls = type(value)
    table: dict[str, Any] = {} if hint is cls and not scope(hint) else {"kind": name_of(cls, hint)}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        own = getattr(value, field.name)
        if not field.init or (not full and _is_default(field, own)):
            continue
        where = f"{path}.{field.name}" if path else field.name
        table[field.name] = encode(own, hints[field.name], full=full, path=where)
    return table


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return type(field.default) is type(value) and bool(field.default == value)
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
        return type(default) is type(value) and bool(default == value)
    return False


def _plain_hint(hint: Any) -> Any:
    """The one class that a field is declared to hold, or Any if the value decides."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [k for k in typing.get_args(hint) if k is not type(None)]
        return _plain_hint(kinds[0]) if len(kinds) == 1 else Any
    # An algorithm's table may name a factory instead, so it always says what it is.
    concrete = isinstance(hint, type) and dataclasses.is_dataclass(hint) and not scope(hint)
    return hint if concrete else Any


def decode(hint: Any, data: Any, path: str = "") -> Any:
    """The value that plain tables stand for.

    Raises:
        ConfigError: naming the path of an unknown key, a wrong type or an unknown name.
    """
    if data == NONE:
        return plain_decode(hint, None, path=path)
    if isinstance(data, Mapping):
        if "kind" in data:
            return _call(resolve(str(data["kind"]), _join(path, "kind"), hint), data, path)
        plain = _plain_hint(hint)
        if plain is not Any:
            return _call(plain, data, path)
        if _is_mapping(hint):
            inner = (typing.get_args(hint) or (str, Any))[1]
            return {k: decode(inner, v, _join(path, str(k))) for k, v in data.items()}
        raise ConfigError(path, "needs a `kind` that says what it is")
    if isinstance(data, list):
        return tuple(decode(_item(hint), v, f"{path}[{i}]") for i, v in enumerate(data))
    if isinstance(data, str) and _takes_callable(hint):
        return resolve(data, path) if ":" in data or not _takes_text(hint) else data
    if isinstance(data, str) and data in _literals(hint):
        return data
    if scope(hint):
        known = ", ".join(scope(hint))
        raise ConfigError(path, f"expected a table whose kind is one of {known}, got {data!r}")
    if hint is Any or not _is_plain(hint):
        return data
    return plain_decode(hint, data, path=path)


def _call(target: Callable[..., Any], data: Mapping[str, Any], path: str) -> Any:
    if not callable(target):
        raise ConfigError(path, f"{target!r} is not something that can be made")
    parameters = inspect.signature(target).parameters
    hints = typing.get_type_hints(target)
    arguments = {k: v for k, v in data.items() if k != "kind"}
    for name in arguments:
        if name not in parameters:
            problem = f"unknown key; {nearest(name, list(parameters))}"
            raise ConfigError(_join(path, name), problem)
    values = {k: decode(hints.get(k, Any), v, _join(path, k)) for k, v in arguments.items()}
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ConfigError(_join(path, name), "missing")
    try:
        return target(**values)
    except ConfigError as error:
        if path and not str(error).startswith(path):
            raise ConfigError(path, str(error)) from error
        raise


def _is_mapping(hint: Any) -> bool:
    base = typing.get_origin(hint) or hint
    return hint is Any or (isinstance(base, type) and issubclass(base, Mapping))


def _item(hint: Any) -> Any:
    args = typing.get_args(hint)
    return args[0] if args else Any


def _takes_callable(hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_takes_callable(k) for k in typing.get_args(hint))
    base = typing.get_origin(hint) or hint
    return base is Callable or base is typing.get_origin(Callable[..., Any])


def _takes_text(hint: Any) -> bool:
    return hint is str or str in typing.get_args(hint)


def _literals(hint: Any) -> tuple[Any, ...]:
    """The values that a union of literals and something else names."""
    kinds = [k for k in typing.get_args(hint) if typing.get_origin(k) is typing.Literal]
    return tuple(value for kind in kinds for value in typing.get_args(kind))


def _is_plain(hint: Any) -> bool:
    """Whether a scalar can be checked against the hint without a `kind`."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (
        typing.Union, types.UnionType
    ) else (hint,)  # fmt: skip
    known = (bool, int, float, str, type(None))
    return all(
        k in known or typing.get_origin(k) is typing.Literal or dataclasses.is_dataclass(k)
        for k in kinds
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def dumps(table: Mapping[str, Any]) -> str:
    """A table as TOML text."""
    try:
        import tomli_w
    except ImportError as error:
        raise MissingExtra("tomli-w", "cli") from error
    return tomli_w.dumps(table)


def loads(text: str, source: str = "TOML") -> dict[str, Any]:
    """TOML text as a table.

    Raises:
        ConfigError: naming the line of a syntax error.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, f"not TOML: {error}") from error


def assign(table: dict[str, Any], setting: str) -> None:
    """Apply a `path=value` setting to a full table, in place; the value is TOML, else text.

    Raises:
        ConfigError: if the path does not exist.
    """
    path, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(setting, "a setting is written path=value, e.g. seed=1")
    *parents, last = path.strip().split(".")
    at = table
    for i, name in enumerate(parents):
        if not isinstance(at.get(name), dict):
            where = ".".join(parents[: i + 1])
            raise ConfigError(where, f"no such table; {nearest(name, list(at))}")
        at = at[name]
    if last not in at and not set(at) <= {"none"}:
        raise ConfigError(path.strip(), f"no such field; {nearest(last, list(at))}")
    try:
        at[last] = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        at[last] = text.strip()
