"""Huffman codes are optimal, prefix-free and the same from run to run."""

import heapq

import numpy as np
import pytest

from shoal.codecs import huffman
from shoal.codecs.portable import Array
from shoal.seeds import rng


def counts(case: int) -> Array:
    """Of 256 symbols, some of which do not occur, without any so rare that its code is cut."""
    draw = rng(case, "counts")
    found = np.zeros(256, np.int64)
    there = draw.permutation(256)[: draw.integers(2, 257)]
    found[there] = draw.integers(6, 40, there.size)
    return found


def merged(weights: Array) -> int:
    """Bits of the best code: every merge of the two lightest adds a bit to all below it."""
    heap, total = weights[weights > 0].tolist(), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


@pytest.mark.parametrize("case", range(40))
def test_as_few_bits_as_possible(case: int) -> None:
    weights = counts(case)
    sizes = huffman.lengths(weights).astype(np.int64)
    assert int(weights @ sizes) == merged(weights)
    assert (sizes > 0).tolist() == (weights > 0).tolist()


@pytest.mark.parametrize("case", range(40))
def test_round_trip(case: int) -> None:
    weights = counts(case)
    symbols = rng(case, "symbols").permutation(np.repeat(np.arange(256), weights)).astype(np.uint8)
    coded = huffman.encode(symbols, huffman.lengths(weights))
    assert np.array_equal(huffman.decode(coded, symbols.size), symbols)


def test_rare_symbols_get_twelve_bits_at_most() -> None:
    weights = np.zeros(256, np.int64)
    weights[:40] = 1.6 ** np.arange(40)
    sizes = huffman.lengths(weights).astype(int)
    assert sizes.max() == 12
    assert sum(2.0**-n for n in sizes[:40]) == 1  # complete, so that no bits are wasted


def test_codes_are_canonical() -> None:
    weights = np.zeros(256, np.int64)
    weights[[3, 7, 9, 200]] = 8, 4, 2, 2
    sizes = huffman.lengths(weights)
    assert sizes[[3, 7, 9, 200]].tolist() == [1, 2, 3, 3]
    coded = huffman.encode(np.array([3, 7, 9, 200], np.uint8), sizes)
    # 0, 10, 110, 111, the first bit lowest: 0 10 110 111 is 0b111_011_01_0
    assert coded[-2:].tolist() == [0b11101101 << 1 & 0xFF, 0b11101101 >> 7]
