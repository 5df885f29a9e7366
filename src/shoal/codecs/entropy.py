"""Bytes in fewer bytes: the smallest of several codings, which a first byte names.

raw        packed into the bits of the largest symbol: never more than that and two bytes
constant   one symbol
huffman    canonical codes of at most 12 bits
ans        asymmetric numeral systems, where they save a fiftieth over Huffman codes, or more
runs       for one frequent symbol: the gaps between all others, and these by themselves
zstd       Zstandard (which has matches), where it is asked for
"""

import numpy as np

from shoal.codecs import ans, huffman, native
from shoal.codecs.portable import Array
from shoal.errors import MissingExtra, ModelError

RAW, CONSTANT, HUFFMAN, RUNS, ZSTD, ANS = range(6)
OFTEN = 0.7  # share of the most frequent symbol from which on runs are tried
SAMPLE = 1 << 16  # bytes that Zstandard is tried on
LEVEL = 3


def encode(symbols: Array, *, zstd: bool = False, runs: bool = True) -> Array:
    """The shortest coding: uint8.

    Args:
        symbols: uint8, shape (n,).
        zstd: try Zstandard as well; which bytes come out then depends on its version.
        runs: try runs as well.

    Raises:
        MissingExtra: if Zstandard is asked for, but not installed.
    """
    counts = native.histogram(symbols)
    present = np.flatnonzero(counts)
    if present.size < 2:
        return np.array([CONSTANT, *present.tolist()], np.uint8)
    bits = int(present[-1]).bit_length()
    raw = -(-symbols.size * bits // 8) + 2
    lengths = huffman.lengths(counts)
    found = []
    simple = int(counts @ lengths.astype(np.int64)) // 8
    frequencies = ans.frequencies(counts)
    if ans.estimate(counts, frequencies) < min(raw, simple - simple // 50):
        found.append(_method(ANS, ans.encode(symbols, frequencies)))
    elif simple < raw:
        found.append(_method(HUFFMAN, huffman.encode(symbols, lengths)))
    if runs and counts.max() >= OFTEN * symbols.size:
        found.append(_runs(symbols, int(counts.argmax())))
    if zstd:
        found += _zstd(symbols, min([raw, *(len(one) for one in found)]))
    best = min(found, key=len, default=None)
    if best is None or best.size > raw:
        return _method(RAW, np.append(np.uint8(bits), native.pack(symbols, bits, 0, 0)))
    return best


def decode(data: Array, size: int, *, runs: bool = True) -> Array:
    """The symbols again: uint8, shape (size,).

    Raises:
        ModelError: if the bytes are not those of so many symbols.
    """
    if not data.size:
        raise ModelError("coded bytes without a method")
    method, rest = int(data[0]), data[1:]
    if method == CONSTANT and rest.size == (size > 0):
        return np.full(size, rest[0] if size else 0, np.uint8)
    if method == RAW and rest.size and 1 <= rest[0] <= 8:
        if rest.size - 1 == -(-size * int(rest[0]) // 8):
            return native.unpack(rest[1:], size, int(rest[0]), 0, 0, np.uint8)
    elif method == HUFFMAN and size:
        return huffman.decode(rest, size)
    elif method == ANS and size:
        return ans.decode(rest, size)
    elif method == RUNS and runs:
        return _from_runs(rest, size)
    elif method == ZSTD:
        return _from_zstd(rest, size)
    raise ModelError(f"coded bytes that begin with {method} and do not fit {size} symbols")


def _method(name: int, own: Array) -> Array:
    return np.concatenate([np.array([name], np.uint8), own])


def encode_gaps(indices: Array, *, zstd: bool = False) -> Array:
    """Strictly rising indices by their differences: uint8.

    Each difference is cut into low bits, packed as they are, and a high byte, coded; what does not
    fit into both is noted apart.
    """
    gaps: Array = np.diff(indices.astype(np.int64), prepend=np.int64(-1)) - 1
    mean = float(gaps.mean()) if gaps.size else 0.0
    shift = max(0, int(mean + 1).bit_length() - 4)
    high, low = gaps >> shift, gaps & ((1 << shift) - 1)
    far = np.flatnonzero(high > 255)
    parts = [
        encode((high & 255).astype(np.uint8), zstd=zstd, runs=False),
        _bits(low, shift),
        far.astype("<i8").view(np.uint8),
        (high[far] >> 8).astype("<i8").view(np.uint8),
    ]
    head = np.array([shift, parts[0].size, far.size], "<i8").view(np.uint8)
    return np.concatenate([head, *parts])


def decode_gaps(data: Array, size: int) -> Array:
    """The indices again: int64, shape (size,); they rise unless the bytes are broken.

    Raises:
        ModelError: if the bytes are not those of so many indices.
    """
    if data.size < 24:
        raise ModelError(f"coded indices cut short: {data.size} bytes")
    shift, coded, far = (int(x) for x in data[:24].copy().view("<i8"))
    lows = -(-size * max(0, shift) // 8)
    rest = data[24:]
    if not (0 <= shift < 48 and coded >= 0 and far >= 0 and coded + lows + 16 * far == rest.size):
        raise ModelError("coded indices whose parts do not fit their bytes")
    gaps = decode(rest[:coded], size, runs=False).astype(np.int64)
    tail = rest[coded + lows :].copy().view("<i8").astype(np.int64)
    where, extra = tail[:far], tail[far:]
    if far and not (where.min() >= 0 and where.max() < size and extra.min() >= 0):
        raise ModelError("coded indices with gaps out of range")
    if far and int(extra.max()) >= 1 << (55 - shift):
        raise ModelError("coded indices with gaps out of range")
    gaps[where] += extra << 8
    gaps = gaps << shift | _from_bits(rest[coded : coded + lows], size, shift)
    return np.cumsum(gaps + 1) - 1


def _bits(low: Array, shift: int) -> Array:
    """The lowest bits of numbers, packed: NumPy, as there are few of them."""
    if not shift:
        return np.empty(0, np.uint8)
    each = (low[:, None] >> np.arange(shift)).astype(np.uint8) & 1
    return np.packbits(each, bitorder="little")


def _from_bits(data: Array, size: int, shift: int) -> Array:
    if not shift:
        return np.zeros(size, np.int64)
    each = np.unpackbits(data, bitorder="little", count=size * shift).reshape(size, shift)
    result: Array = each.astype(np.int64) @ (np.int64(1) << np.arange(shift, dtype=np.int64))
    return result


def _runs(symbols: Array, frequent: int) -> Array:
    others = np.flatnonzero(symbols != frequent)
    gaps, values = encode_gaps(others), encode(symbols[others], runs=False)
    sizes = np.array([others.size, gaps.size], "<i8").view(np.uint8)
    return np.concatenate([np.array([RUNS, frequent], np.uint8), sizes, gaps, values])


def _from_runs(data: Array, size: int) -> Array:
    if data.size < 17:
        raise ModelError("coded runs cut short")
    count, length = (int(x) for x in data[1:17].copy().view("<i8"))
    if not (0 <= count <= size and 0 <= length <= data.size - 17):
        raise ModelError("coded runs whose parts do not fit their bytes")
    where = decode_gaps(data[17 : 17 + length], count)
    if count and not (where[0] >= 0 and where[-1] < size and (np.diff(where) > 0).all()):
        raise ModelError("coded runs beyond the end")
    out = np.full(size, data[0], np.uint8)
    out[where] = decode(data[17 + length :], count, runs=False)
    return out


def _zstd(symbols: Array, best: int) -> list[Array]:
    """Zstandard's coding, if a sample tells that it may be the shortest."""
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra("zstandard", "server") from error
    packer = zstandard.ZstdCompressor(level=LEVEL)
    middle = max(0, symbols.size - SAMPLE) // 2
    sample = symbols[middle : middle + SAMPLE]
    if len(packer.compress(sample.tobytes())) > 1.02 * best * sample.size / symbols.size:
        return []
    return [_method(ZSTD, np.frombuffer(packer.compress(symbols.tobytes()), np.uint8))]


def _from_zstd(data: Array, size: int) -> Array:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra("zstandard", "server") from error
    raw = data.tobytes()
    try:
        if zstandard.frame_content_size(raw) != size:  # before anything is allocated
            raise ModelError(f"Zstandard bytes that are not {size} symbols")
        return np.frombuffer(zstandard.ZstdDecompressor().decompress(raw), np.uint8)
    except zstandard.ZstdError as error:
        raise ModelError(f"broken Zstandard bytes: {error}") from error
