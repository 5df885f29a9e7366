"""Asymmetric numeral systems for bytes: within a percent of the entropy, also far below a bit.

Duda, Asymmetric numeral systems, 2013, arXiv 1311.2540; states that take turns: Giesen, Interleaved
entropy coders, 2014, arXiv 1402.3392.
    encode:  v <- (v // f) 4096 + F + v % f
    decode:  s is whose F <= v % 4096 < F + f;   v <- f (v // 4096) + v % 4096 - F
f of 4096 is a symbol's frequency, F the sum of those before it; v gives or takes words of 16 bits.
"""

import numpy as np

from shoal.codecs import native
from shoal.codecs.portable import LONG, WIDEST, Array
from shoal.errors import ModelError

WHOLE = 1 << WIDEST  # what frequencies add up to
# Bits of a symbol by its frequency, in 256ths: whole numbers, so that no libm decides what is sent.
COST = np.rint(256 * (WIDEST - np.log2(np.maximum(np.arange(WHOLE + 1), 1)))).astype(np.int64)


def frequencies(counts: Array) -> Array:
    """Frequencies in 4096, at least 1 for what occurs: int64, shape (256,).

    Args:
        counts: of 256 symbols, at least two of them above 0.
    """
    total = int(counts.sum())
    scaled = counts.astype(np.int64) * WHOLE
    found = np.where(counts > 0, np.maximum(scaled // total, 1), 0)
    lack = WHOLE - int(found.sum())
    if lack > 0:  # to those that lost most by rounding down
        order = np.argsort(-np.where(counts > 0, scaled - found * total, -1), kind="stable")
        found[order[:lack]] += 1
    for _ in range(-lack):
        found[np.argmax(found)] -= 1
    return found


def estimate(counts: Array, found: Array) -> int:
    """About how many bytes `encode` will give for so many symbols of these frequencies."""
    head = int(np.flatnonzero(found)[-1]) + 2 + int((found > 127).sum())
    return head + 18 * -(-int(counts.sum()) // LONG) + int(counts @ COST[found]) // 2048


def encode(symbols: Array, found: Array) -> Array:
    """The frequencies and the streams of symbols: uint8."""
    before = np.cumsum(found) - found
    sizes, data = native.encode_states(symbols, (found << 16 | before).astype(np.uint32))
    top = int(np.flatnonzero(found)[-1])
    head = bytearray([top])
    for f in found[: top + 1].tolist():  # seven bits, and whether more follow
        head += bytes([f]) if f < 128 else bytes([f & 127 | 128, f >> 7])
    return np.concatenate([np.frombuffer(head, np.uint8), sizes.astype("<u2").view(np.uint8), data])


def decode(data: Array, size: int) -> Array:
    """The symbols again: uint8, shape (size,).

    Raises:
        ModelError: if the bytes are not those of so many symbols.
    """
    found, head = _head(data)
    streams = -(-size // LONG)
    start = head + 2 * streams
    if data.size < start:
        raise ModelError(f"ANS cut short: {data.size} bytes for {size} symbols")
    offsets = np.zeros(streams + 1, np.int64)
    np.cumsum(data[head:start].copy().view("<u2"), out=offsets[1:])
    if int(offsets[-1]) != data.size - start:
        raise ModelError("ANS whose streams do not fit its bytes")
    symbols, good = native.decode_states(data[start:], offsets, _table(found), size)
    if not good:
        raise ModelError("ANS with a broken stream")
    return symbols


def _head(data: Array) -> tuple[Array, int]:
    """Frequencies, and where they end."""
    raw = data[: 1 + 2 * 256].tolist()
    found, at = np.zeros(256, np.int64), 1
    for symbol in range(raw[0] + 1 if raw else 0):
        if at >= len(raw):
            break
        f, at = raw[at], at + 1
        if f & 128 and at < len(raw):
            f, at = f & 127 | raw[at] << 7, at + 1
        found[symbol] = f
    if int(found.sum()) != WHOLE or int(found.max()) == WHOLE:
        raise ModelError("ANS with a broken table of frequencies")
    return found, at


def _table(found: Array) -> Array:
    """Frequency << 20, place within it << 8, symbol, by slot: uint32, shape (4096,)."""
    symbols = np.repeat(np.arange(256), found)
    before = np.cumsum(found) - found
    places = np.arange(WHOLE) - before[symbols]
    table: Array = (found[symbols] << 20 | places << 8 | symbols).astype(np.uint32)
    return table
