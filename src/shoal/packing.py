"""A payload as bytes: one safetensors file, whose metadata says what its tensors alone cannot.

"num_examples", "steps": whole numbers    "kind": "delta" or "model"    "metrics": a JSON table
"""

import json
from collections.abc import Mapping

from shoal import wire
from shoal.errors import ModelError
from shoal.messages import Payload


def pieces(payload: Payload) -> list[bytes | memoryview]:
    """The pieces of the file, in order; values are not copied."""
    return wire.parts(payload.tensors, _metadata(payload))


def size(payload: Payload) -> int:
    """The number of bytes of the file, without making it."""
    return wire.size(payload.tensors, _metadata(payload))


def _metadata(payload: Payload) -> dict[str, str]:
    metadata = {
        "num_examples": str(int(payload.num_examples)),
        "steps": str(int(payload.steps)),
        "kind": payload.kind,
    }
    if payload.metrics:
        metrics = {name: float(value) for name, value in payload.metrics.items()}
        metadata["metrics"] = json.dumps(metrics)
    return metadata


def pack(payload: Payload) -> bytes:
    """The whole file in memory."""
    return b"".join(pieces(payload))


def unpack(data: bytes | bytearray | memoryview) -> Payload:
    """The payload of a file; its arrays are views of `data`, which must not change any more.

    Raises:
        ModelError: if it is no complete, consistent payload; says what is wrong with it.
    """
    tensors, found = wire.load(data)
    metrics = _metrics(found.get("metrics", "{}"))
    kind = found.get("kind", "delta")
    steps = _count(found, "steps", "1")
    return Payload(tensors, _count(found, "num_examples", ""), steps, kind, metrics)


def _count(found: Mapping[str, str], name: str, default: str) -> int:
    text = found.get(name, default)
    if not (text.isascii() and text.isdecimal() and len(text) < 17):
        raise ModelError(f"payload: its metadata says {name} = {text!r:.40}, not a whole number")
    return int(text)


def _metrics(text: str) -> dict[str, float]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"payload: its metrics are not JSON: {error}") from error
    if not isinstance(table, dict):
        raise ModelError("payload: its metrics are not a table")
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"payload: its metric {name!r:.80} is {value!r:.40}, not a number")
    return {name: _real(name, value) for name, value in table.items()}


def _real(name: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ModelError(f"payload: its metric {name!r:.80} is too large") from error
