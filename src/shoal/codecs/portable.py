"""The kernels of compression in NumPy: the results of `_codecs.c`, in one thread.

Every element sees the operations of the C code in the same order, each rounded on its own, so both
give the same bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.codecs.normal import quantiles

Array = NDArray[Any]
STREAM = 16384  # symbols of a Huffman stream
WIDEST = 12  # bits of the longest Huffman code
LONG = 32768  # symbols of a stream of ANS
LANES = 16
LARGEST, EUCLIDEAN, AVERAGE = range(3)
_MULTIPLIERS, _WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
_CHUNK = 1 << 16


def words(key: int, stream: int, start: int, count: int) -> Array:
    """Words start .. start + count of a stream: uint32, shape (count,).

    Word w is word w % 4 of Philox4x32-10 (Salmon et al. 2011) at counter (w // 4, stream).
    """
    first, last = start // 4, -(-(start + count) // 4)
    blocks = np.arange(last - first, dtype=np.uint64) + np.uint64(first % 2**64)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c = [blocks & low, blocks >> shift]
    c += [np.full_like(blocks, stream % 2**32), np.full_like(blocks, stream >> 32)]
    keys = [key % 2**32, key >> 32]
    for _ in range(10):
        p, q = (c[i] * np.uint64(m) for i, m in zip((0, 2), _MULTIPLIERS, strict=True))
        k0, k1 = (np.uint64(k) for k in keys)
        c = [(q >> shift) ^ c[1] ^ k0, q & low, (p >> shift) ^ c[3] ^ k1, p & low]
        keys = [(k + w) % 2**32 for k, w in zip(keys, _WEYL, strict=True)]
    out: Array = np.stack(c, axis=1).astype(np.uint32).reshape(-1)
    return out[start - 4 * first :][:count]


def normals(key: int, stream: int, start: int, count: int) -> Array:
    """Standard normal quantiles of those words: float32, shape (count,)."""
    return quantiles(words(key, stream, start, count)).astype(np.float32)


def bins(x: Array, *, signed: bool) -> Array:
    """How many float32 values have which upper 16 bits, of 31 without the sign, or of 32."""
    bits = x.view(np.uint32)
    upper = bits >> np.uint32(16) if signed else (bits & np.uint32(0x7FFFFFFF)) >> np.uint32(15)
    return np.bincount(upper, minlength=1 << 16)


def histogram(symbols: Array) -> Array:
    """How often each of 256 bytes occurs."""
    counts = np.zeros(256, np.int64)
    for at in range(0, symbols.size, _CHUNK):
        counts += np.bincount(symbols[at : at + _CHUNK], minlength=256)
    return counts


def take(x: Array, least: int, room: int) -> Array:
    """Rising indices of the float32 values whose magnitude's bits reach `least`."""
    return np.flatnonzero(x.view(np.int32) & np.int32(0x7FFFFFFF) >= np.int32(least))


def quantize(
    x: Array, block: int, levels: int, kind: int, key: int | None, *, onebit: bool = False
) -> tuple[Array, Array]:
    """Integer codes with |code| <= levels, and a scale for each block of them.

    Args:
        x: floats, all finite, shape (n,).
        block: values that share a scale.
        levels: 1 to 32767; int8 codes up to 127, else int16.
        kind: of scale: LARGEST / levels, EUCLIDEAN norm / levels, or AVERAGE magnitude.
        key: of the random words that rounding compares with; None to round to the nearest.
        onebit: codes are -1 and 1 (levels must be 1), never 0.
    """
    scales = _scales(x, block, levels, kind)
    codes = np.empty(x.size, np.int8 if levels < 128 else np.int16)
    step = max(1, _CHUNK // block) * block
    for at in range(0, x.size, step):
        some = x[at : at + step]
        each = np.repeat(scales[at // block : at // block + -(-some.size // block)], block)
        draws = None if key is None else _draws(key, at, some.size, x.dtype)
        codes[at : at + step] = _codes(some, each[: some.size], levels, draws, onebit)
    return codes, scales


def _draws(key: int, start: int, count: int, dtype: np.dtype[Any]) -> Array:
    """Uniform draws from (0, 1): the halves of words, the lower one first."""
    some = words(key, 0, start // 2, (count + start % 2 + 1) // 2)
    halves = np.stack([some & np.uint32(0xFFFF), some >> np.uint32(16)], axis=1).reshape(-1)
    own = halves[start % 2 :][:count].astype(dtype)
    result: Array = (own + dtype.type(0.5)) * dtype.type(2.0**-16)
    return result


def _codes(x: Array, scale: Array, levels: int, draws: Array | None, onebit: bool) -> Array:
    kind = x.dtype.type
    if onebit and draws is None:
        return np.where(x < 0, -1, 1)
    ratio = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)
    if onebit:
        return np.where(draws < (ratio + kind(1)) * kind(0.5), 1, -1)
    if draws is None:
        whole = np.rint(ratio)
    else:
        low = np.floor(ratio)
        whole = low + (draws < ratio - low)
    return np.clip(whole, -levels, levels)


def _scales(x: Array, block: int, levels: int, kind: int) -> Array:
    count = -(-x.size // block)
    if kind == LARGEST:
        starts = np.arange(0, x.size, block)
        top = np.maximum.reduceat(np.abs(x), starts) if count else x[:0]
        largest: Array = (top / x.dtype.type(levels)).astype(x.dtype)
        return largest
    # Sixteen lanes in double precision, one row after the other, then pairwise over the lanes.
    lanes = np.zeros((count, LANES))
    rows = -(-min(block, x.size) // LANES)
    lengths = np.minimum(block, x.size - np.arange(count) * block)
    whole = int((lengths == block).sum())
    for row in range(rows):
        width = min(LANES, block - row * LANES)
        full = x[: whole * block].reshape(whole, block)[:, row * LANES : row * LANES + width]
        lanes[:whole, :width] += _magnitude(full.astype(np.float64), kind)
        rest = x[whole * block :][row * LANES : row * LANES + width]
        if whole < count:
            lanes[whole, : rest.size] += _magnitude(rest.astype(np.float64), kind)
    half = LANES // 2
    while half:
        lanes[:, :half] += lanes[:, half : 2 * half]
        half //= 2
    sums = lanes[:, 0]
    with np.errstate(over="ignore"):
        found: Array = np.sqrt(sums) / levels if kind == EUCLIDEAN else sums / lengths
        return found.astype(x.dtype)


def _magnitude(x: Array, kind: int) -> Array:
    result: Array = x * x if kind == EUCLIDEAN else np.abs(x)
    return result


def assign(x: Array, thresholds: Array) -> Array:
    """How many of at most 255 rising thresholds lie below each value: uint8."""
    out = np.empty(x.size, np.uint8)
    for at in range(0, x.size, _CHUNK):
        out[at : at + _CHUNK] = np.searchsorted(thresholds, x[at : at + _CHUNK], side="left")
    return out


def pack(codes: Array, bits: int, bias: int, step: int) -> Array:
    """Codes of 8 or 16 bits as (code + bias) >> step in `bits` bits each, the lowest bit first."""
    kind = np.uint8 if codes.itemsize == 1 else np.uint16
    out = [np.empty(0, np.uint8)]
    for at in range(0, codes.size, _CHUNK):
        whole: Array = codes[at : at + _CHUNK].view(kind)
        biased: Array = whole + kind(bias)
        some = biased >> kind(step)
        each = np.unpackbits(some.view(np.uint8).reshape(some.size, -1), axis=1, bitorder="little")
        out.append(np.packbits(each[:, :bits], bitorder="little"))
    return np.concatenate(out)


def unpack(data: Array, size: int, bits: int, bias: int, step: int, dtype: Any) -> Array:
    """The codes again, as a dtype of 8 or 16 bits."""
    out = np.empty(size, dtype)
    wide = 8 * out.itemsize
    kind = np.uint8 if wide == 8 else np.uint16
    for at in range(0, size, _CHUNK):
        n = min(_CHUNK, size - at)
        some = data[at * bits // 8 : -(-(at + n) * bits // 8)]
        each = np.zeros((n, wide), np.uint8)
        flat = np.unpackbits(some, bitorder="little", count=n * bits)
        each[:, :bits] = flat.reshape(n, bits)
        whole: Array = np.packbits(each, axis=1, bitorder="little").view(kind).reshape(-1)
        out[at : at + n] = ((whole << kind(step)) - kind(bias)).view(out.dtype)
    return out


def encode_streams(symbols: Array, codes: Array) -> tuple[Array, Array]:
    """Huffman streams of STREAM symbols each.

    Args:
        symbols: uint8, shape (n,).
        codes: uint32, shape (256,): the code, its first bit lowest, and its length << 16.

    Returns:
        The bytes of each stream, uint16, and all streams one after the other, uint8.
    """
    sizes, parts = [], [np.empty(0, np.uint8)]
    for at in range(0, symbols.size, STREAM):
        found = codes[symbols[at : at + STREAM]]
        lengths = (found >> 16).astype(np.int64)
        ends = np.cumsum(lengths)
        bits = np.zeros(int(ends[-1]), np.uint8)
        for bit in range(WIDEST):
            some = lengths > bit
            bits[(ends - lengths)[some] + bit] = found[some] >> bit & 1
        parts.append(np.packbits(bits, bitorder="little"))
        sizes.append(parts[-1].size)
    return np.array(sizes, np.uint16), np.concatenate(parts)


def decode_streams(data: Array, offsets: Array, table: Array, size: int) -> tuple[Array, bool]:
    """The symbols, and whether every stream ended within its last byte.

    Args:
        data: uint8, all streams.
        offsets: int64, where each begins and the last ends.
        table: uint16, shape (2**WIDEST,): symbol and length << 8 by the next bits.
        size: number of symbols.
    """
    count = -(-size // STREAM)
    out = np.zeros((count, STREAM), np.uint8)
    left = np.minimum(STREAM, size - np.arange(count) * STREAM)
    padded = np.concatenate([data, np.zeros(4, np.uint8)]).astype(np.uint32)
    begin, end, bit = offsets[:-1], offsets[1:], np.zeros(count, np.int64)
    for step in range(min(size, STREAM)):
        at = begin + (bit >> 3)
        word = np.zeros(count, np.uint32)
        for k in range(3):  # 7 + WIDEST bits
            some = padded[np.minimum(at + k, data.size)]
            word |= np.where(at + k < end, some, 0).astype(np.uint32) << np.uint32(8 * k)
        entry = table[word >> (bit & 7).astype(np.uint32) & np.uint32(2**WIDEST - 1)]
        active = step < left
        out[:, step] = entry & 0xFF
        bit += np.where(active, entry >> 8, 0)
    return out.reshape(-1)[:size], bool((-(-bit // 8) == end - begin).all())


def encode_states(symbols: Array, table: Array) -> tuple[Array, Array]:
    """Streams of ANS of LONG symbols each: four states of 32 bits take turns, with words of 16.

    Args:
        symbols: uint8, shape (n,), none of frequency 0.
        table: uint32, shape (256,): the frequency in 4096 << 16, and the sum of those before it.

    Returns:
        The bytes of each stream, uint16, and all streams one after the other, uint8.
    """
    count = -(-symbols.size // LONG)
    left = np.minimum(LONG, symbols.size - np.arange(count) * LONG)
    padded = np.zeros(count * LONG, np.uint8)
    padded[: symbols.size] = symbols
    rows = padded.reshape(count, LONG)
    states = np.full((count, 4), 1 << 16, np.int64)
    words, used = np.zeros((count, LONG), np.uint16), np.zeros((count, LONG), bool)
    for step in range(min(symbols.size, LONG) - 1, -1, -1):
        active = step < left
        entry = table[rows[:, step]].astype(np.int64)
        f, v = np.maximum(entry >> 16, 1), states[:, step % 4]
        full = active & (v >> 20 >= f)
        words[:, step], used[:, step] = v & 0xFFFF, full
        v = np.where(full, v >> 16, v)
        after = (v // f << WIDEST) + v % f + (entry & 0xFFFF)
        states[:, step % 4] = np.where(active, after, states[:, step % 4])
    parts = [
        np.concatenate([s.astype("<u4").view(np.uint8), w[u].astype("<u2").view(np.uint8)])
        for s, w, u in zip(states, words, used, strict=True)
    ]
    sizes = np.array([part.size for part in parts], np.uint16)
    return sizes, np.concatenate([np.empty(0, np.uint8), *parts])


def decode_states(data: Array, offsets: Array, table: Array, size: int) -> tuple[Array, bool]:
    """The symbols, and whether every stream ended with its last byte, as it began.

    Args:
        data: uint8, all streams.
        offsets: int64, where each begins and the last ends.
        table: uint32, shape (4096,): frequency << 20, place in it << 8, symbol.
        size: number of symbols.
    """
    count = -(-size // LONG)
    out = np.zeros((count, LONG), np.uint8)
    if (offsets[1:] - offsets[:-1] < 16).any():
        return out.reshape(-1)[:size], False
    left = np.minimum(LONG, size - np.arange(count) * LONG)
    heads = [data[at : at + 16].copy().view("<u4") for at in offsets[:-1].tolist()]
    states = np.stack(heads).astype(np.int64)
    at, end, good = offsets[:-1] + 16, offsets[1:], np.ones(count, bool)
    padded = np.concatenate([data, np.zeros(2, np.uint8)]).astype(np.int64)
    for step in range(min(size, LONG)):
        active, v = step < left, states[:, step % 4]
        entry = table[v & 4095].astype(np.int64)
        out[:, step] = entry & 0xFF
        after = (entry >> 20) * (v >> WIDEST) + (entry >> 8 & 4095)
        more = active & (after < 65536)
        good &= ~more | (end - at >= 2)
        where = np.minimum(at, data.size)
        after = np.where(more, after << 16 | padded[where] | padded[where + 1] << 8, after)
        at = at + 2 * more
        states[:, step % 4] = np.where(active, after & 0xFFFFFFFF, v)
    whole = good & (at == end) & (states == 1 << 16).all(axis=1)
    return out.reshape(-1)[:size], bool(whole.all())
