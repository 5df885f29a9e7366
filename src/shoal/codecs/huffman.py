"""Canonical Huffman codes of bytes: lengths, tables, and the symbols as independent streams.

A code has at most 12 bits, so that one look into a table of 4096 entries decodes a symbol.
"""

import heapq

import numpy as np

from shoal.codecs import native
from shoal.codecs.portable import STREAM, WIDEST, Array
from shoal.errors import ModelError


def lengths(counts: Array) -> Array:
    """Bits of each symbol's code, 0 where it does not occur: uint8, shape (256,).

    Args:
        counts: of 256 symbols, at least two of them above 0.
    """
    weights = counts.astype(np.int64)
    while True:
        found = _lengths(weights)
        if found.max() <= WIDEST:
            return found
        weights = np.where(weights > 0, weights // 2 + 1, 0)  # flatter, until no code is too long


def _lengths(weights: Array) -> Array:
    heap = [(int(weights[s]), int(s), int(s)) for s in np.flatnonzero(weights)]
    heapq.heapify(heap)
    parent, node = [0] * 512, 256
    while len(heap) > 1:
        a, _, left = heapq.heappop(heap)
        b, tie, right = heap[0]
        parent[left] = parent[right] = node
        heapq.heapreplace(heap, (a + b, tie, node))
        node += 1
    depth = [0] * node
    for at in range(node - 2, 255, -1):  # every node after its parent
        depth[at] = depth[parent[at]] + 1
    out = np.zeros(256, np.uint8)
    for symbol in np.flatnonzero(weights).tolist():
        out[symbol] = depth[parent[symbol]] + 1
    return out


def encode(symbols: Array, sizes: Array) -> Array:
    """The code's lengths and the streams of symbols: uint8."""
    top = int(np.flatnonzero(sizes)[-1])
    nibbles = np.zeros(top + 2 - top % 2, np.uint8)
    nibbles[: top + 1] = sizes[: top + 1]
    counts, data = native.encode_streams(symbols, _codes(sizes))
    head = np.concatenate([np.array([top], np.uint8), nibbles[0::2] | nibbles[1::2] << 4])
    return np.concatenate([head, counts.astype("<u2").view(np.uint8), data])


def decode(data: Array, size: int) -> Array:
    """The symbols again: uint8, shape (size,).

    Raises:
        ModelError: if the bytes are not those of so many symbols.
    """
    streams = -(-size // STREAM)
    head = 1 + (int(data[0]) + 2) // 2 if data.size else 1
    start = head + 2 * streams
    if data.size < start:
        raise ModelError(f"Huffman code cut short: {data.size} bytes for {size} symbols")
    sizes = np.zeros(256, np.uint8)
    nibbles = data[1:head]
    both = np.stack([nibbles & 15, nibbles >> 4], axis=1).reshape(-1)[: int(data[0]) + 1]
    sizes[: both.size] = both
    used = sizes[sizes > 0].astype(np.int64)
    if sizes.max() > WIDEST or int((1 << (WIDEST - used)).sum()) != 1 << WIDEST:
        raise ModelError("Huffman code with a broken table of lengths")
    offsets = np.zeros(streams + 1, np.int64)
    np.cumsum(data[head:start].view("<u2"), out=offsets[1:])
    if int(offsets[-1]) != data.size - start:
        raise ModelError("Huffman code whose streams do not fit its bytes")
    found, good = native.decode_streams(data[start:], offsets, _table(sizes), size)
    if not good:
        raise ModelError("Huffman code with a broken stream")
    return found


def _codes(sizes: Array) -> Array:
    """Codes with their first bit lowest, and lengths << 16: uint32, shape (256,)."""
    used = np.flatnonzero(sizes)
    order = used[np.argsort(sizes[used], kind="stable")]
    bits = sizes[order].astype(np.int64)
    steps = np.int64(1) << (WIDEST - bits)
    plain = (np.cumsum(steps) - steps).astype(np.uint32)  # first bit highest, of 12
    turned, out = np.zeros_like(plain), np.zeros(256, np.uint32)
    for at in range(WIDEST):
        turned |= (plain >> at & 1) << (WIDEST - 1 - at)
    out[order] = turned | bits.astype(np.uint32) << 16
    return out


def _table(sizes: Array) -> Array:
    """Symbol and length << 8 by the next 12 bits: uint16, shape (4096,)."""
    out = np.zeros(1 << WIDEST, np.uint16)
    for symbol, code in enumerate(_codes(sizes).tolist()):
        if code:
            out[code & 0xFFFF :: 1 << (code >> 16)] = symbol | code >> 16 << 8
    return out
