"""Tensors as safetensors bytes, for disk and wire: one header, then the flat buffers as they lie.

A dense model is an ordinary safetensors file that any reader opens. Encoded buffers appear as
tensors named `@<group>/<part>`, described in the `__metadata__` entry "shoal". Nothing is ever
unpickled or evaluated, and every length is checked before it is used.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from shoal.encoded import CODECS, Array, Encoded
from shoal.errors import ModelError
from shoal.tensors import PREFIXES, Layout, Leaf, Tensors, zeros

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(kind): name for name, kind in _DTYPES.items()}
MAX_HEADER = 64 << 20


def dump(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """The tensors as one safetensors file in memory."""
    header, buffers = _plan(tensors, metadata or {})
    return b"".join([header, *(np.ascontiguousarray(b).tobytes() for b in buffers)])


def size(tensors: Tensors) -> int:
    """The number of bytes that `dump` would give, without copying the values."""
    return _header_size(tensors) + tensors.nbytes


def load(data: bytes | bytearray | memoryview) -> tuple[Tensors, dict[str, str]]:
    """The tensors and metadata of a safetensors file; arrays are views of `data` where aligned.

    Raises:
        ModelError: if the bytes are not a complete, consistent file.
    """
    view = memoryview(data)
    entries, start = _header(view)
    metadata = entries.pop("__metadata__", {})
    arrays = _arrays(view[start:], entries)
    try:
        described = json.loads(metadata.pop("shoal", "{}"))
        groups = {
            prefix: _group(prefix, arrays, described.get(prefix)) for prefix in ("", *PREFIXES)
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"tensor file with an inconsistent description: {error}") from error
    main = groups.pop("")
    found = {prefix: group for prefix, group in groups.items() if len(group)}
    return Tensors(main.layout, main.flat, dict(sorted(found.items()))), metadata


def _header_size(tensors: Tensors) -> int:
    groups = [("", tensors), *tensors.groups.items()]
    if all(isinstance(group.flat, np.ndarray) for _, group in groups):
        return _dense_header_size(tuple((prefix, group.layout) for prefix, group in groups))
    return len(_plan(tensors, {})[0])


@lru_cache(maxsize=64)
def _dense_header_size(layouts: tuple[tuple[str, Layout], ...]) -> int:
    # Dense tensors of equal layouts have equal headers, and there is one for every update.
    groups = {prefix: zeros(layout) for prefix, layout in layouts}
    main = groups.pop("")
    return len(_plan(Tensors(main.layout, main.flat, groups), {})[0])


def _plan(tensors: Tensors, metadata: Mapping[str, str]) -> tuple[bytes, list[Array]]:
    entries: dict[str, Any] = {}
    described: dict[str, Any] = {}
    buffers: list[Array] = []
    offset = 0

    def put(name: str, shape: tuple[int, ...], array: Array, at: int) -> None:
        if array.dtype not in _NAMES:
            raise ModelError(f"{name}: dtype {array.dtype} cannot be written")
        length = int(np.prod(shape, dtype=np.int64)) * array.itemsize
        entries[name] = {
            "dtype": _NAMES[array.dtype], "shape": list(shape), "data_offsets": [at, at + length],
        }  # fmt: skip

    def encode(leaf: Leaf, path: str) -> dict[str, Any] | None:
        nonlocal offset
        if not isinstance(leaf, Encoded):
            put(path, leaf.shape, leaf, offset)
            buffers.append(leaf)
            offset += leaf.nbytes
            return None
        parts = {name: encode(part, f"{path}/{name}") for name, part in leaf.parts().items()}
        return {"codec": _codec(leaf), "fields": dict(leaf.fields()), "parts": parts}

    for prefix, group in (("", tensors), *tensors.groups.items()):
        if isinstance(group.flat, np.ndarray):
            for name, (where, shape) in group.layout.slices.items():
                put(prefix + name, shape, group.flat, offset + where.start * group.flat.itemsize)
            buffers.append(group.flat)
            offset += group.flat.nbytes
        else:
            names, shapes = group.layout.names, group.layout.shapes
            tree = encode(group.flat, f"@{prefix}flat")
            described[prefix] = {
                "names": names, "shapes": shapes, "dtype": str(group.layout.dtype), "tree": tree,
            }  # fmt: skip
    texts = dict(metadata) | ({"shoal": json.dumps(described)} if described else {})
    text = json.dumps(({"__metadata__": texts} if texts else {}) | entries, separators=(",", ":"))
    body = text.encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body, buffers


def _codec(leaf: Encoded) -> str:
    for name, kind in CODECS.items():
        if type(leaf) is kind:
            return name
    raise ModelError(f"{type(leaf).__name__} is not in shoal.encoded.CODECS: add it there")


def _header(view: memoryview) -> tuple[dict[str, Any], int]:
    if len(view) < 8:
        raise ModelError(f"tensor file cut short: {len(view)} bytes")
    length = int.from_bytes(view[:8], "little")
    if length > min(MAX_HEADER, len(view) - 8):
        raise ModelError(f"tensor file cut short or not safetensors: header of {length} bytes")
    try:
        entries = json.loads(bytes(view[8 : 8 + length]))
    except ValueError as error:
        raise ModelError(f"tensor file with a broken header: {error}") from error
    if not isinstance(entries, dict):
        raise ModelError("tensor file with a broken header: not a table")
    return entries, 8 + length


def _arrays(body: memoryview, entries: dict[str, Any]) -> dict[str, Array]:
    arrays, end = {}, 0
    for name, entry in entries.items():
        try:
            kind = np.dtype(_DTYPES[entry["dtype"]])
            shape = tuple(int(n) for n in entry["shape"])
            start, stop = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"tensor file: bad entry for {name!r}: {error}") from error
        count = int(np.prod(shape, dtype=np.int64)) if min(shape, default=0) >= 0 else -1
        if not 0 <= start <= stop <= len(body) or count * kind.itemsize != stop - start:
            raise ModelError(f"tensor file: {name!r} does not fit its bytes {start}..{stop}")
        arrays[name] = np.frombuffer(body[start:stop], kind).reshape(shape)
        end = max(end, stop)
    if end != len(body):
        raise ModelError(f"tensor file: {len(body)} bytes of values where {end} are described")
    return arrays


def _group(prefix: str, arrays: dict[str, Array], described: dict[str, Any] | None) -> Tensors:
    if described is not None:
        shapes = tuple(tuple(int(n) for n in shape) for shape in described["shapes"])
        names = tuple(str(name) for name in described["names"])
        layout = Layout(names, shapes, np.dtype(described["dtype"]))
        return Tensors(layout, _leaf(described["tree"], f"@{prefix}flat", arrays))
    own = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if (name.startswith(prefix) if prefix else not name.startswith((*PREFIXES, "@")))
    }
    return _joined(own)


def _joined(own: dict[str, Array]) -> Tensors:
    """Arrays that lie one after the other in memory, as a view of all of them; otherwise a copy."""
    values = list(own.values())
    apart = [
        a.ctypes.data + a.nbytes != b.ctypes.data or a.dtype != b.dtype for a, b in pairwise(values)
    ]
    if not values or any(apart) or not values[0].flags.aligned:
        return Tensors.of(own)
    layout = Layout(tuple(own), tuple(a.shape for a in values), values[0].dtype)
    whole = np.lib.stride_tricks.as_strided(
        values[0].reshape(-1), (layout.size,), (layout.dtype.itemsize,), writeable=False
    )
    return Tensors(layout, whole)


def _leaf(tree: dict[str, Any] | None, path: str, arrays: dict[str, Array]) -> Leaf:
    if tree is None:
        return arrays[path]
    codec = CODECS.get(tree["codec"])
    if codec is None:
        raise ModelError(f"tensor file: unknown codec {tree['codec']!r}")
    parts = {name: _leaf(sub, f"{path}/{name}", arrays) for name, sub in tree["parts"].items()}
    leaf = codec(**parts, **tree["fields"])
    problem = leaf.check()
    if problem:
        raise ModelError(f"tensor file: {tree['codec']}: {problem}")
    return leaf
