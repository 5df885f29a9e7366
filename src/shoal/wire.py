"""Tensors as safetensors bytes, for disk and wire: one header, then the flat buffers as they lie.

A dense model is an ordinary safetensors file that any reader opens. An encoded buffer appears as
tensors named `@<group>flat/<part>`, described in the `__metadata__` entry "shoal". Nothing is ever
unpickled or evaluated, and every length is checked before it is used: values never take more
memory than their bytes, and no declared shape is believed.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from json.encoder import encode_basestring
from math import prod
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from shoal.codecs import CODECS
from shoal.encoded import Array, Encoded
from shoal.errors import ModelError
from shoal.tensors import EMPTY, PREFIXES, Layout, Leaf, Tensors, pack, prefix_of

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(kind): name for name, kind in _DTYPES.items()}
MAX_HEADER = 8 << 20  # bytes of JSON, which may take thirty times as much as Python objects
MAX_NESTING = 8  # codecs within codecs
_MAX_DIMS = 32
_META, _OURS = "__metadata__", "shoal"
_NOTHING = Tensors(EMPTY, np.empty(0, EMPTY.dtype))

Shape = tuple[int, ...]
# What the header says of a buffer, without its values, so that headers can be remembered: dtype and
# shape of an array; codec, fields and parts of an encoded one.
Form = tuple[np.dtype[Any], Shape] | tuple[str, tuple[Any, ...], tuple[Any, ...]]
Spec = tuple[tuple[str, Layout, Form | None], ...]


def dump(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """The tensors as one safetensors file in memory.

    Raises:
        ModelError: for a name, dtype or codec that the format has no room for.
    """
    return b"".join(parts(tensors, metadata))


def parts(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> list[bytes | memoryview]:
    """The pieces of that file, in order: the header, and the buffers where they lie.

    Raises:
        ModelError: for a name, dtype or codec that the format has no room for.
    """
    spec = _spec(tensors)
    header = _header.__wrapped__(spec, tuple(metadata.items())) if metadata else _header(spec)
    buffers = [tensors.flat, *(tensors.groups[prefix].flat for prefix, _, _ in spec[1:])]
    arrays = [np.ascontiguousarray(array) for flat in buffers for array in _arrays(flat)]
    arrays.sort(key=lambda array: -array.itemsize)  # as in the header
    return [header, *(array.data for array in arrays if array.size)]


def size(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> int:
    """The number of bytes that `dump` would give, without copying the values."""
    spec = _spec(tensors)
    if not metadata:
        return len(_header(spec)) + tensors.nbytes
    # Metadata changes with every payload, the rest of the header seldom: lengths are added.
    length, bare, described = _length(spec)
    # As JSON without spaces: quotes, a colon and a comma for each entry, and braces.
    text = 1 + sum(_quoted(name) + _quoted(value) + 2 for name, value in metadata.items())
    more = text - 1 if described else text + len(_META) + 3 + (not bare)
    return 8 + (length + more + 7) // 8 * 8 + tensors.nbytes


def load(data: bytes | bytearray | memoryview) -> tuple[Tensors, dict[str, str]]:
    """The tensors and metadata of a safetensors file.

    Arrays are views of `data` where it is aligned, so it must not be written to afterwards.

    Raises:
        ModelError: if the bytes are not a complete, consistent file.
    """
    view = memoryview(data).cast("B")
    header, body = _split(view)
    metadata = _metadata(header.pop(_META, {}))
    entries = _entries(header, len(body))
    groups: dict[str, Tensors] = {}
    described = _parse(metadata.pop(_OURS, "{}"), "description")
    for prefix in sorted(described):
        groups[prefix] = _described(prefix, described[prefix], entries, body)
    own: dict[str, dict[str, _Entry]] = {}
    for name, entry in entries.items():
        prefix = prefix_of(name)
        own.setdefault(prefix, {})[name.removeprefix(prefix)] = entry
    for prefix in sorted(own):
        if prefix in groups:
            raise ModelError(f"tensor file: {prefix}{next(iter(own[prefix]))!r} is not described")
        groups[prefix] = _plain(own[prefix], body)
    main = groups.pop("", _NOTHING)
    return Tensors(main.layout, main.flat, dict(sorted(groups.items()))), metadata


# Writing.


def _spec(tensors: Tensors) -> Spec:
    main = ("", tensors.layout, _form(tensors.flat))
    if not tensors.groups:
        return (main,)
    return (main, *((p, g.layout, _form(g.flat)) for p, g in sorted(tensors.groups.items())))


def _form(leaf: Leaf) -> Form | None:
    """The form of a buffer; None for a dense one, which its layout describes."""
    return None if isinstance(leaf, np.ndarray) else _part_form(leaf)


def _part_form(leaf: Leaf) -> Form:
    if isinstance(leaf, np.ndarray):
        return leaf.dtype, leaf.shape
    fields = ((k, v.item() if isinstance(v, np.generic) else v) for k, v in leaf.fields().items())
    # Beside its repr, as 1, 1.0 and True would be one key of the cache.
    texts = tuple((k, repr(v), v) for k, v in fields)
    parts = ((name, _part_form(part)) for name, part in leaf.parts().items())
    return _codec(leaf), texts, tuple(parts)


def _codec(leaf: Encoded) -> str:
    for name, kind in CODECS.items():
        if type(leaf) is kind:
            return name
    raise ModelError(f"{type(leaf).__name__} is not in shoal.codecs.CODECS: add it there")


def _arrays(leaf: Leaf) -> Iterator[Array]:
    """The arrays of a buffer, in the order of the file."""
    if isinstance(leaf, np.ndarray):
        yield leaf
    else:
        for part in leaf.parts().values():
            yield from _arrays(part)


@lru_cache(maxsize=64)
def _header(spec: Spec, metadata: tuple[tuple[str, str], ...] = ()) -> bytes:
    # Remembered, because there is an equal one for every update and every dispatch.
    writer = _Writer()
    described: dict[str, Any] = {}
    for prefix, layout, form in spec:
        if form is None and layout.names:
            for name, (_, shape) in layout.slices.items():
                if prefix_of(name) and not prefix:
                    raise ModelError(f"{name!r} belongs into a group: use Tensors.of")
                writer.put(prefix + name, layout.dtype, shape)
        elif form is not None or prefix or layout.dtype != EMPTY.dtype:
            described[prefix] = {
                "names": layout.names,
                "shapes": layout.shapes,
                "dtype": _dtype_name(layout.dtype, prefix + "flat"),
                "tree": None if form is None else writer.tree(form, f"@{prefix}flat"),
            }
    texts = dict(metadata)
    if not all(isinstance(x, str) for pair in metadata for x in pair) or _OURS in texts:
        raise ModelError(f"metadata must be strings under other names than {_OURS!r}")
    if described:
        texts[_OURS] = json.dumps(described, separators=(",", ":"), ensure_ascii=False)
    table = ({_META: texts} if texts else {}) | writer.placed()
    try:
        body = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"a name or metadata is not valid Unicode: {error}") from error
    if len(body) > MAX_HEADER:
        raise ModelError(f"names and shapes take {len(body)} bytes, more than {MAX_HEADER}")
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body


def _quoted(text: str) -> int:
    """Bytes of a string in JSON."""
    return len(encode_basestring(text).encode())


@lru_cache(maxsize=64)
def _length(spec: Spec) -> tuple[int, bool, bool]:
    """Bytes of a header without metadata or padding, whether it is empty, whether it describes."""
    text = _header(spec)[8:].rstrip(b" ")
    return len(text), text == b"{}", text.startswith(f'{{"{_META}"'.encode())


class _Writer:
    """Collects the header's entries, one buffer after the other."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[np.dtype[Any], Shape]] = {}

    def put(self, name: str, dtype: np.dtype[Any], shape: Shape) -> None:
        if name == _META or name in self._found:
            raise ModelError(f"{name!r} cannot be the name of (another) tensor")
        _dtype_name(dtype, name)
        self._found[name] = dtype, shape

    def placed(self) -> dict[str, Any]:
        """The entries in the order of the names; in the file the widest dtypes come first.

        So each buffer is aligned, and can be used where it lies.
        """
        offsets, at = {}, 0
        for name, (dtype, shape) in sorted(self._found.items(), key=lambda e: -e[1][0].itemsize):
            offsets[name] = [at, at := at + prod(shape) * dtype.itemsize]
        return {
            name: {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": offsets[name]}
            for name, (dtype, shape) in self._found.items()
        }

    def tree(self, form: Form, path: str, depth: int = 1) -> dict[str, Any] | None:
        """Puts the parts of an encoded buffer; describes how they belong together."""
        if len(form) == 2:
            self.put(path, *form)
            return None
        if depth > MAX_NESTING:
            raise ModelError(f"{path}: more than {MAX_NESTING} codecs within codecs")
        codec, fields, parts = form
        trees = {name: self.tree(part, f"{path}/{name}", depth + 1) for name, part in parts}
        return {"codec": codec, "fields": {k: v for k, _, v in fields}, "parts": trees}


def _dtype_name(dtype: np.dtype[Any], name: str) -> str:
    if dtype not in _NAMES:
        raise ModelError(f"{name}: dtype {dtype} cannot be written")
    return _NAMES[dtype]


# Reading. Nothing here is believed before it is checked.


class _Entry(NamedTuple):
    dtype: np.dtype[Any]
    shape: Shape
    start: int
    stop: int


def _split(view: memoryview) -> tuple[dict[str, Any], memoryview]:
    if len(view) < 8:
        raise ModelError(f"tensor file cut short: {len(view)} bytes")
    length = int.from_bytes(view[:8], "little")
    if length > len(view) - 8:
        raise ModelError(f"tensor file cut short or not safetensors: header of {length} bytes")
    # Room for the padding, which may bring a header to the next multiple of eight.
    if length > MAX_HEADER + 8:
        raise ModelError(f"tensor file with a header of {length} bytes, more than {MAX_HEADER}")
    try:
        text = str(view[8 : 8 + length], "utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"tensor file with a broken header: {error}") from error
    return _parse(text, "header"), view[8 + length :]


def _parse(text: str, what: str) -> dict[str, Any]:
    """A JSON table without duplicate keys."""
    try:
        table = json.loads(text, object_pairs_hook=_unique)
        if "\\u" in text:  # escapes may hide half a character, which nobody could print
            json.dumps(table, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelError(f"tensor file with a broken {what}: {error}") from error
    if not isinstance(table, dict):
        raise ModelError(f"tensor file with a broken {what}: not a table")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key appears twice")
    return table


def _metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ModelError(f"tensor file: {_META} is not a table of strings")
    return found


def _entries(header: dict[str, Any], length: int) -> dict[str, _Entry]:
    """The entries in the order of the header, known to cover the values without gap or overlap."""
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise ModelError(f"tensor file: {name!r} begins at {entry.start}, expected at {end}")
        end = entry.stop
    if end != length:
        raise ModelError(f"tensor file: {length} bytes of values where {end} are described")
    return entries


def _entry(name: str, entry: Any) -> _Entry:
    if not isinstance(entry, dict):
        raise ModelError(f"tensor file: the entry of {name!r} is not a table")
    dtype, shape = _dtype(entry.get("dtype"), name), _shape(entry.get("shape"), name)
    offsets = entry.get("data_offsets")
    if not (_is_counts(offsets) and len(offsets) == 2):
        raise ModelError(f"tensor file: {name!r} has the offsets {offsets!r:.80}")
    start, stop = offsets
    if prod(shape) * dtype.itemsize != stop - start:
        raise ModelError(f"tensor file: {name!r} does not fit its bytes {start}..{stop}")
    return _Entry(dtype, shape, start, stop)


def _dtype(kind: Any, name: str) -> np.dtype[Any]:
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise ModelError(
            f"tensor file: {name!r} has dtype {kind!r:.80}; known: {', '.join(_DTYPES)}"
        )
    return np.dtype(_DTYPES[kind])


def _shape(shape: Any, name: str) -> Shape:
    if not _is_counts(shape) or len(shape) > _MAX_DIMS or prod(n or 1 for n in shape) >= 2**59:
        raise ModelError(f"tensor file: {name!r} has the shape {shape!r:.80}")
    return tuple(shape)


def _is_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**62 for n in values)


def _array(entry: _Entry, body: memoryview, count: int | None = None) -> Array:
    """`count` values from where an entry begins, flat: a view if they are aligned."""
    count = prod(entry.shape) if count is None else count
    if not count:
        return np.empty(0, entry.dtype)
    flat = np.frombuffer(body, entry.dtype, count, entry.start)
    if entry.dtype.kind == "b" and bool((flat.view(np.uint8) > 1).any()):
        raise ModelError("tensor file: a boolean that is neither 0 nor 1")
    return flat if flat.flags.aligned else flat.copy()


def _plain(own: dict[str, _Entry], body: memoryview) -> Tensors:
    """A dense group: in one piece if it lies in one piece, otherwise a copy."""
    entries = list(own.values())
    first = entries[0]
    if any(a.stop != b.start or a.dtype != b.dtype for a, b in pairwise(entries)):
        return Tensors(*pack({k: _array(e, body).reshape(e.shape) for k, e in own.items()}))
    layout = Layout(tuple(own), tuple(e.shape for e in entries), first.dtype)
    return Tensors(layout, _array(first, body, layout.size))


def _described(prefix: str, found: Any, entries: dict[str, _Entry], body: memoryview) -> Tensors:
    """A group of which the metadata says what it stands for; takes its entries out."""
    if prefix not in ("", *PREFIXES) or not isinstance(found, dict):
        raise ModelError(f"tensor file: a description of {prefix!r}, which is no group")
    names, shapes = found.get("names"), found.get("shapes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"tensor file: the names of {prefix!r} are not a list of strings")
    if not isinstance(shapes, list):
        raise ModelError(f"tensor file: the shapes of {prefix!r} are not a list")
    dtype = _dtype(found.get("dtype"), prefix)
    layout = Layout(tuple(names), tuple(_shape(s, prefix) for s in shapes), dtype)
    tree = found.get("tree")
    if tree is None:
        return Tensors(layout, np.empty(0, dtype))
    return Tensors(layout, _leaf(tree, f"@{prefix}flat", entries, body, 1))


def _leaf(tree: Any, path: str, entries: dict[str, _Entry], body: memoryview, depth: int) -> Leaf:
    if tree is None:
        if path not in entries:
            raise ModelError(f"tensor file: {path!r} is described, but not there")
        entry = entries.pop(path)
        return _array(entry, body).reshape(entry.shape)
    fields, parts = (tree.get("fields"), tree.get("parts")) if isinstance(tree, dict) else (0, 0)
    if depth > MAX_NESTING or not isinstance(fields, dict) or not isinstance(parts, dict):
        raise ModelError(f"tensor file: {path!r} is not described as a codec with its parts")
    if not all(isinstance(value, int | float | str) for value in fields.values()):
        raise ModelError(f"tensor file: {path!r} has fields other than numbers and strings")
    codec = CODECS.get(str(tree.get("codec")))
    if codec is None:
        raise ModelError(
            f"tensor file: unknown codec {tree.get('codec')!r:.80}; known: {', '.join(CODECS)}"
        )
    made = {k: _leaf(sub, f"{path}/{k}", entries, body, depth + 1) for k, sub in parts.items()}
    try:
        leaf = codec.build(made, fields)
    except TypeError as error:
        raise ModelError(f"tensor file: {path!r}: {error}") from error
    problem = leaf.check()
    if problem:
        raise ModelError(f"tensor file: {path!r}: {problem}")
    return leaf
