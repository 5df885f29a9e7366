"""The one stateless function of the functions plane: fold what an event names, write one object.

It runs on AWS Lambda as `shoal.planes.handler.handler`, and in a local runner. Its result depends
on the event and the objects alone, so that doing it twice, or at the same time, changes nothing.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from shoal import plain
from shoal.aggregators import AGGREGATORS, Routed
from shoal.core import Aggregator
from shoal.errors import ConfigError, ModelError, ProtocolError, ShoalError, UpdateError, nearest
from shoal.plain import Store
from shoal.planes.functions_shards import ghost
from shoal.planes.objects import ObjectError, ObjectStore, S3Store, load, open_store, save
from shoal.tensors import Tensors, difference

# What a function may answer, and its caller raises.
ERRORS: dict[str, type[ShoalError]] = {
    "ConfigError": ConfigError,
    "ModelError": ModelError,
    "ObjectError": ObjectError,
    "ProtocolError": ProtocolError,
    "UpdateError": UpdateError,
}


@dataclass(frozen=True)
class Source:
    """An object to fold or merge.

    Attributes:
        key: of the object.
        contributors: ids of the updates in it, as a digest of the sorted list.
        kind: "delta" or "model" for an update, "partial" for an accumulator.
        weight, client: of an update.
    """

    key: str
    contributors: str
    kind: str = "partial"
    weight: float = 0.0
    client: str = ""


@dataclass(frozen=True)
class Call:
    """What an event asks for.

    Attributes:
        aggregator: as `describe_rule` gives it.
        like: key of the shard's names and shapes, with values where an update is a model.
        inputs: in the order in which they are folded.
        output: key of the result.
        contributors: digest of the ids that the result must hold.
        finish: make the aggregate, not a partial result.
        keep: write the finished accumulator too, for rules that remember.
    """

    aggregator: dict[str, Any]
    like: str
    inputs: tuple[Source, ...]
    output: str
    contributors: str
    finish: bool = False
    keep: bool = False


def handler(event: Any, context: Any = None) -> dict[str, Any]:
    """Perform a call, or those whose objects a notification of S3 names.

    Returns:
        {"key", "bytes"} of the object written, or {"error", "arguments"}.
    """
    if isinstance(event, dict) and "Records" in event:
        return {"results": [_notified(record) for record in event["Records"]]}
    try:
        if not isinstance(event, dict):
            raise ConfigError("event", f"expected a table, got {type(event).__name__}")
        call = plain.decode(Call, event.get("call"), path="call")
        return perform(call, open_store(event.get("store")))
    except ShoalError as error:
        return failure(error)


def perform(call: Call, store: ObjectStore) -> dict[str, Any]:
    """Fold the inputs and write the result.

    Raises:
        ConfigError, UpdateError, ModelError: as the rule does.
        ObjectError: if an input is missing, damaged, or holds other updates than it should.
        ProtocolError: if an update would be counted twice, or one is missing.
    """
    rule = build_rule(call.aggregator)
    like = _value(load(store, call.like)[1], call.like)
    acc: Any = None
    found: list[int] = []
    for source in call.inputs:
        header, tensors = load(store, source.key)
        ids = header.get("contributors") if isinstance(header, dict) else None
        if not isinstance(ids, list) or contributors(ids) != source.contributors:
            raise ObjectError(source.key, f"holds updates that were not expected: {ids!r:.200}")
        found += ids
        acc = _joined(rule, acc, source, header, tensors, like)
        del tensors  # before the next is read
    if len(set(found)) < len(found):
        raise ProtocolError(f"{call.output}: an update would be counted twice in {sorted(found)}")
    if contributors(found) != call.contributors:
        raise ProtocolError(f"{call.output}: {sorted(found)} are not the updates of the manifest")
    written: Store = {}
    header = {"contributors": sorted(found)}
    if call.finish:
        written["value"], acc = rule.finish(acc)
    if call.keep or not call.finish:
        header["accumulator"] = plain.encode(acc, written, "accumulator")
    del acc
    return {"key": call.output, "bytes": save(store, call.output, header, written)}


def accumulator(rule: Aggregator[Any], like: Tensors, header: Any, tensors: Store) -> Any:
    """The accumulator that an object holds.

    Raises:
        ConfigError: if it is not one of this rule.
    """
    example = rule.init(ghost(like, peaks=False))  # of the right types, whatever its size
    return plain.decode(Any, header.get("accumulator"), tensors, path="accumulator", like=example)


def contributors(ids: Iterable[int]) -> str:
    """A digest of the ids of updates, in any order."""
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()


def describe_rule(rule: Aggregator[Any]) -> dict[str, Any]:
    """An aggregator as plain data: its name in `AGGREGATORS` and its fields.

    Raises:
        ConfigError: for one that has no name there.
    """
    name = type(rule).__name__
    if AGGREGATORS.get(name) is not type(rule):
        raise ConfigError("aggregator", f"functions know {', '.join(AGGREGATORS)}, not {name}")
    if isinstance(rule, Routed):
        routes = {prefix: describe_rule(inner) for prefix, inner in rule.routes.items()}
        return {"rule": name, "default": describe_rule(rule.default), "routes": routes}
    return {"rule": name, **plain.encode(rule)}


def build_rule(data: Any) -> Aggregator[Any]:
    """The aggregator that plain data describes.

    Raises:
        ConfigError: naming what is wrong.
    """
    if not isinstance(data, dict):
        raise ConfigError("aggregator", f"expected a table, got {type(data).__name__}")
    name, fields = str(data.get("rule")), {k: v for k, v in data.items() if k != "rule"}
    if name not in AGGREGATORS:
        raise ConfigError("aggregator.rule", f"no rule {name!r}; {nearest(name, AGGREGATORS)}")
    if name != "Routed":
        rule: Aggregator[Any] = plain.decode(AGGREGATORS[name], fields, path="aggregator")
        return rule
    routes = fields.get("routes")
    if set(fields) != {"default", "routes"} or not isinstance(routes, dict):
        raise ConfigError("aggregator", "Routed takes a table of default and routes")
    return Routed(build_rule(fields["default"]), {p: build_rule(r) for p, r in routes.items()})


def failure(error: ShoalError) -> dict[str, Any]:
    """An answer that says what went wrong."""
    name = type(error).__name__
    if name not in ERRORS:
        name, error = "ProtocolError", ProtocolError(f"{name}: {error}")
    return {"error": name, "arguments": list(error.args)}


def answer(reply: Any) -> dict[str, Any]:
    """What a function answered.

    Raises:
        ShoalError: the one that it met.
    """
    if not isinstance(reply, dict):
        raise ProtocolError(f"a function answered {reply!r:.200}")
    if "error" in reply:
        kind = ERRORS.get(str(reply["error"]), ProtocolError)
        raise kind(*reply.get("arguments", ()))
    return reply


def _joined(
    rule: Aggregator[Any], acc: Any, source: Source, header: Any, tensors: Store, like: Tensors
) -> Any:
    if source.kind == "partial":
        part = accumulator(rule, like, header, tensors)
        return part if acc is None else rule.merge(acc, part)
    value = _value(tensors, source.key)
    if source.kind == "model":
        value = difference(value, like.select(value.layout.names))
    acc = rule.init(like) if acc is None else acc
    return rule.fold(acc, value, source.weight, source.client)


def _value(tensors: Store, key: str) -> Tensors:
    if "value" not in tensors:
        raise ObjectError(key, "is neither an update nor a model")
    return tensors["value"]


def _notified(record: Any) -> dict[str, Any]:
    """Perform the call that lies in an object; its store is where it lies."""
    try:
        place = record["s3"]
        bucket, key = place["bucket"]["name"], unquote_plus(place["object"]["key"])
    except (KeyError, TypeError) as error:
        return failure(ConfigError("event", f"a record that is not of S3: {error}"))
    try:
        return handler(load(S3Store(bucket), key)[0])
    except ShoalError as error:
        return failure(error)
