"""Records as JSON lines and back."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from shoal.errors import DataError
from shoal.messages import (
    ClientRecord,
    CommitRecord,
    EvaluationRecord,
    Record,
    StopRecord,
    TaskRecord,
)

TYPES: dict[str, type[Any]] = {
    "task": TaskRecord,
    "commit": CommitRecord,
    "evaluation": EvaluationRecord,
    "client": ClientRecord,
    "stop": StopRecord,
}
_KINDS = {cls: name for name, cls in TYPES.items()}
_NAMES = {cls: tuple(f.name for f in fields(cls)) for cls in _KINDS}
_NEEDED = {
    name: {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    for name, cls in TYPES.items()
}
# bool is an int to Python but no count or time to us; it never occurs in a record.
_ACCEPTED: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,)}
_FIELDS = {
    name: {f.name: _ACCEPTED.get(f.type, (dict,)) for f in fields(cls)}
    for name, cls in TYPES.items()
}


def to_line(record: Record) -> str:
    """One line of strict JSON without its newline; metrics that are not finite become null."""
    cls = type(record)
    plain: dict[str, Any] = {"type": _KINDS[cls]}
    for name in _NAMES[cls]:
        plain[name] = getattr(record, name)
    if "metrics" in plain:
        plain["metrics"] = dict(plain["metrics"])
    try:
        return json.dumps(plain, allow_nan=False, default=_number)
    except ValueError:
        return json.dumps(_finite(plain), allow_nan=False, default=_number)


def from_line(line: str | bytes) -> Record:
    """The record that a line holds.

    Raises:
        DataError: when the line is no JSON object or not one of the five kinds of record.
    """
    try:
        data = json.loads(line)
    except ValueError as error:
        raise DataError(f"not a line of JSON ({error})") from None
    kind = data.pop("type", None) if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in TYPES:
        raise DataError(f'no record: "type" is {kind!r}, expected one of {", ".join(TYPES)}')
    _check(kind, data)
    if "metrics" in data:
        data["metrics"] = {k: math.nan if v is None else v for k, v in data["metrics"].items()}
    record: Record = TYPES[kind](**data)
    return record


def _check(kind: str, data: dict[str, Any]) -> None:
    accepted = _FIELDS[kind]
    for name, value in data.items():
        if name not in accepted:
            raise DataError(f"unknown field {name!r} in a {kind} record")
        if not isinstance(value, accepted[name]):
            raise DataError(f"field {name!r} of a {kind} record is {value!r}")
    missing = _NEEDED[kind] - data.keys()
    if missing:
        raise DataError(f"a {kind} record without {', '.join(sorted(missing))}")


def _number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a record cannot hold {value!r}")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number
