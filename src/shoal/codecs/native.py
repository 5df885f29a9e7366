"""The kernels of compression: compiled, or NumPy where they could not be built.

The C code takes float32; other dtypes go to `portable`, where all functions are documented.
"""

import os
from typing import Any

import numpy as np

from shoal import kernels
from shoal.codecs import portable
from shoal.codecs.portable import LONG, STREAM, Array
from shoal.kernels import threads

try:
    import shoal.codecs._codecs as _codecs
except ImportError as error:
    MISSING = f"the compiled module is not there ({error})"
else:
    old = getattr(_codecs, "VERSION", None) != 2
    MISSING = "the compiled module is of another version: install again" if old else ""

BACKEND = kernels.choose(os.environ.get("SHOAL_KERNELS", ""), MISSING)
(
    BINS, BYTES, TAKE, QUANTIZE, PACK, UNPACK, ASSIGN, SIZES, HUFFMAN, UNHUFFMAN, WORDS, NORMALS,
    ANS, UNANS,
) = range(14)  # fmt: skip
TILE = 1 << 16
SMALL = 1 << 10  # values for which NumPy is as fast


def words(key: int, stream: int, start: int, count: int) -> Array:
    """Random words; as `portable.words`."""
    if BACKEND == "numpy" or count < 64:
        return portable.words(key, stream, start, count)
    out = np.empty(count, np.uint32)
    _run(WORDS, count, TILE, (out,), (key, stream, start))
    return out


def normals(key: int, stream: int, start: int, count: int) -> Array:
    """Standard normal numbers; as `portable.normals`."""
    if BACKEND == "numpy" or count < 64:
        return portable.normals(key, stream, start, count)
    out = np.empty(count, np.float32)
    _run(NORMALS, count, TILE, (out,), (key, stream, start))
    return out


def bins(x: Array, *, signed: bool) -> Array:
    """Counts of the upper 16 bits; as `portable.bins`."""
    if BACKEND == "numpy" or x.size < TILE:
        return portable.bins(x, signed=signed)
    tile = -(-x.size // threads.COUNT)
    rows = np.zeros((-(-x.size // tile), 1 << 16), np.uint32)
    mask, shift = (0xFFFFFFFF, 16) if signed else (0x7FFFFFFF, 15)
    _run(BINS, x.size, tile, (_plain(x, np.float32), rows), (mask, shift))
    total: Array = rows.sum(axis=0, dtype=np.int64)
    return total


def histogram(symbols: Array) -> Array:
    """Counts of bytes; as `portable.histogram`."""
    if BACKEND == "numpy" or symbols.size < SMALL:
        return portable.histogram(symbols)
    rows = np.zeros((-(-symbols.size // TILE), 256), np.uint32)
    _run(BYTES, symbols.size, TILE, (_plain(symbols, np.uint8), rows), ())
    total: Array = rows.sum(axis=0, dtype=np.int64)
    return total


def take(x: Array, least: int, room: int) -> Array:
    """Indices of large magnitudes; as `portable.take`.

    Args:
        x: float32, finite.
        least: the bits of the least magnitude.
        room: about how many are expected; with many more the pass is done again.
    """
    if BACKEND == "numpy" or x.size < TILE or x.size >= 2**31 - 1:
        return portable.take(x, least, room)
    tile = -(-x.size // (4 * threads.COUNT))
    tiles, values = -(-x.size // tile), _plain(x, np.float32)
    each = min(tile, 2 * room // tiles + 64)
    while True:
        out, counts = np.empty((tiles, each), np.int32), np.zeros(tiles, np.int64)
        _run(TAKE, x.size, tile, (values, out, counts), (least, each))
        if counts.max() <= each:
            return np.concatenate([row[:n] for row, n in zip(out, counts.tolist(), strict=True)])
        each = int(counts.max())


def quantize(
    x: Array, block: int, levels: int, kind: int, key: int | None, *, onebit: bool = False
) -> tuple[Array, Array]:
    """Codes and scales of blocks; as `portable.quantize`."""
    if BACKEND == "numpy" or x.dtype != np.float32 or x.size < SMALL:
        return portable.quantize(x, block, levels, kind, key, onebit=onebit)
    codes = np.empty(x.size, np.int8 if levels < 128 else np.int16)
    scales = np.empty(-(-x.size // block), np.float32)
    tile = block * 8 * max(1, TILE // (block * 8))
    numbers = (block, levels, kind, int(key is not None), key or 0, int(onebit))
    _run(QUANTIZE, x.size, tile, (_plain(x, np.float32), codes, scales), numbers)
    return codes, scales


def assign(x: Array, thresholds: Array) -> Array:
    """Thresholds below each value; as `portable.assign`."""
    if BACKEND == "numpy" or x.dtype != np.float32 or x.size < SMALL:
        return portable.assign(x, thresholds)
    out = np.empty(x.size, np.uint8)
    limits = _plain(thresholds, np.float32)
    _run(ASSIGN, x.size, TILE, (_plain(x, np.float32), limits, out), (limits.size,))
    return out


def pack(codes: Array, bits: int, bias: int, step: int) -> Array:
    """Codes in fewer bits; as `portable.pack`."""
    if BACKEND == "numpy" or codes.size < SMALL or (codes.itemsize == 2 and bits < 9):
        return portable.pack(codes, bits, bias, step)
    out = np.empty(-(-codes.size * bits // 8), np.uint8)
    numbers = (bits, bias, step, codes.itemsize)
    _run(PACK, codes.size, TILE, (_plain(codes, codes.dtype), out), numbers)
    return out


def unpack(data: Array, size: int, bits: int, bias: int, step: int, dtype: Any) -> Array:
    """The codes again; as `portable.unpack`."""
    out = np.empty(size, dtype)
    if BACKEND == "numpy" or size < SMALL or (out.itemsize == 2 and bits < 9):
        return portable.unpack(data, size, bits, bias, step, dtype)
    _run(UNPACK, size, TILE, (_plain(data, np.uint8), out), (bits, bias, step, out.itemsize))
    return out


def encode_streams(symbols: Array, codes: Array) -> tuple[Array, Array]:
    """Huffman streams; as `portable.encode_streams`."""
    if BACKEND == "numpy":
        return portable.encode_streams(symbols, codes)
    given, table = _plain(symbols, np.uint8), _plain(codes, np.uint32)
    sizes = np.empty(-(-symbols.size // STREAM), np.uint16)
    _run(SIZES, symbols.size, 4 * STREAM, (given, table, sizes), ())
    offsets = _offsets(sizes)
    out = np.empty(int(offsets[-1]), np.uint8)
    _run(HUFFMAN, symbols.size, 4 * STREAM, (given, table, offsets, out), ())
    return sizes, out


def decode_streams(data: Array, offsets: Array, table: Array, size: int) -> tuple[Array, bool]:
    """Symbols of Huffman streams; as `portable.decode_streams`."""
    if BACKEND == "numpy":
        return portable.decode_streams(data, offsets, table, size)
    out, bad = np.empty(size, np.uint8), np.empty(-(-size // STREAM), np.uint8)
    given = (_plain(data, np.uint8), _plain(table, np.uint16), _plain(offsets, np.int64))
    _run(UNHUFFMAN, size, 4 * STREAM, (*given, out, bad), ())
    return out, not bad.any()


def encode_states(symbols: Array, table: Array) -> tuple[Array, Array]:
    """Streams of ANS; as `portable.encode_states`."""
    if BACKEND == "numpy":
        return portable.encode_states(symbols, table)
    given, entries = _plain(symbols, np.uint8), _plain(table, np.uint32)
    sizes = np.empty(-(-symbols.size // LONG), np.uint32)
    rows = np.empty((sizes.size, 16 + 2 * LONG), np.uint8)
    _run(ANS, symbols.size, LONG, (given, entries, rows, sizes), ())
    parts = [row[row.size - n :] for row, n in zip(rows, sizes.tolist(), strict=True)]
    return sizes.astype(np.uint16), np.concatenate(parts)


def decode_states(data: Array, offsets: Array, table: Array, size: int) -> tuple[Array, bool]:
    """Symbols of streams of ANS; as `portable.decode_states`."""
    if BACKEND == "numpy":
        return portable.decode_states(data, offsets, table, size)
    out, bad = np.empty(size, np.uint8), np.empty(-(-size // LONG), np.uint8)
    given = (_plain(data, np.uint8), _plain(table, np.uint32), _plain(offsets, np.int64))
    bad[:] = 1
    _run(UNANS, size, 2 * LONG, (*given, out, bad), ())
    return out, not bad.any()


def _offsets(sizes: Array) -> Array:
    offsets = np.zeros(sizes.size + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def _plain(array: Array, dtype: Any) -> Array:
    """Aligned and contiguous, as the C code reads it; received bytes may lie anywhere."""
    return np.require(array, dtype, ["C", "A"])


def _run(op: int, n: int, tile: int, buffers: tuple[Array, ...], numbers: tuple[int, ...]) -> None:
    job = _codecs.prepare(op, n, tile, buffers, numbers)
    threads.share(_codecs.run, job, n)
