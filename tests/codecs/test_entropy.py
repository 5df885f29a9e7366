"""Entropy coding gives back what it got, never in more bytes, and close to the entropy."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.codecs import Coded, Gaps, ans, entropy, huffman
from shoal.errors import ModelError

RNG = np.random.default_rng(4)


@settings(deadline=None)
@given(symbols=st.binary(max_size=300), zstd=st.booleans())
def test_any_bytes_come_back(symbols: bytes, zstd: bool) -> None:
    given_ = np.frombuffer(symbols, np.uint8)
    coded = entropy.encode(given_, zstd=zstd)
    assert coded.size <= given_.size + 2
    assert entropy.decode(coded, given_.size).tobytes() == symbols


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0, 6.0])
@pytest.mark.parametrize("size", [20_000, 100_000])
def test_within_a_few_percent_of_the_entropy(spread: float, size: int) -> None:
    symbols = np.clip(np.rint(RNG.standard_normal(size) * spread), -7, 7).astype(np.int8)
    _, counts = np.unique(symbols, return_counts=True)
    bits = -(counts * np.log2(counts / size)).sum()
    coded = entropy.encode(symbols.view(np.uint8))
    assert np.array_equal(entropy.decode(coded, size), symbols.view(np.uint8))
    # The table of frequencies takes up to 300 bytes, four states in 32,768 symbols 16.
    assert coded.size * 8 <= 1.025 * bits + 8 * 300


@pytest.mark.parametrize("name", ["constant", "raw", "huffman", "runs", "zstd", "ans"])
def test_each_method_is_chosen_where_it_is_the_shortest(name: str) -> None:
    size = 40_000
    given_ = {
        "constant": np.full(size, 9), "raw": RNG.integers(0, 256, size),
        "huffman": 9 * np.minimum(RNG.geometric(0.5, size), 5), "ans": RNG.random(size) < 0.3,
        "runs": RNG.random(10 * size) < 1e-4,
        "zstd": np.tile(RNG.integers(0, 256, 100), size // 100),
    }[name].astype(np.uint8)  # fmt: skip
    coded = entropy.encode(given_, zstd=name == "zstd")
    method = {"constant": 1, "raw": 0, "huffman": 2, "runs": 3, "zstd": 4, "ans": 5}[name]
    assert coded[0] == method
    assert entropy.decode(coded, given_.size).tobytes() == given_.tobytes()


@pytest.mark.parametrize("share", [0.1, 0.01, 0.001])
def test_indices_take_little_more_than_their_entropy(share: float) -> None:
    size = 1_000_000
    indices = np.flatnonzero(RNG.random(size) < share)
    floor = size * -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    coded = Gaps.of(indices)
    assert np.array_equal(coded.dense(), indices)
    assert coded.nbytes < 1.05 * floor + 300


@given(st.sets(st.integers(0, 2**45), max_size=60))
def test_any_indices_come_back(indices: set[int]) -> None:
    given_ = np.array(sorted(indices), np.int64)
    assert Gaps.of(given_).dense().tolist() == given_.tolist()


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("size", [1, 7, 20_000])
def test_numbers_of_every_kind_come_back(dtype: str, size: int) -> None:
    values = (RNG.standard_normal(size) * 20).astype(np.int8).astype(dtype)
    leaf = Coded.of(values)
    assert leaf.dtype == values.dtype and leaf.dense().tobytes() == values.tobytes()


def test_codes_never_exceed_twelve_bits() -> None:
    counts = np.zeros(256, np.int64)
    counts[:40] = 2 ** np.arange(40)
    lengths = huffman.lengths(counts).astype(np.int64)
    assert lengths.max() <= 12
    assert (2.0 ** -lengths[lengths > 0]).sum() == 1


@pytest.mark.parametrize("share", [0.5, 0.2, 0.05])
def test_asymmetric_numeral_systems_come_within_a_hundredth_of_the_entropy(share: float) -> None:
    symbols = (RNG.random(200_000) < share).astype(np.uint8) * 200
    counts = np.bincount(symbols, minlength=256)
    floor = -(counts[counts > 0] * np.log2(counts[counts > 0] / symbols.size)).sum() / 8
    found = ans.frequencies(counts)
    coded = ans.encode(symbols, found)
    assert coded.size <= 1.01 * floor + 300
    assert abs(ans.estimate(counts, found) - coded.size) < 0.01 * floor + 200
    assert np.array_equal(ans.decode(coded, symbols.size), symbols)


@given(st.dictionaries(st.integers(0, 255), st.integers(1, 10**9), min_size=2))
def test_frequencies_add_up_and_leave_nobody_out(found: dict[int, int]) -> None:
    counts = np.zeros(256, np.int64)
    counts[list(found)] = list(found.values())
    made = ans.frequencies(counts)
    assert made.sum() == 4096 and ((made > 0) == (counts > 0)).all() and made.max() < 4096


def test_no_machine_rounds_the_cost_of_a_symbol_otherwise() -> None:
    exact = 256 * (12 - np.log2(np.arange(1, 4097)))
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6


@settings(deadline=None)
@given(at=st.integers(0, 400), noise=st.binary(min_size=1, max_size=8), cut=st.integers(0, 30))
def test_broken_streams_are_noticed_or_decode_to_something(at: int, noise: bytes, cut: int) -> None:
    symbols = (np.arange(900) % 7 == 0).astype(np.uint8)
    good = ans.encode(symbols, ans.frequencies(np.bincount(symbols, minlength=256)))
    bad = np.frombuffer((good.tobytes()[:at] + noise + good.tobytes()[at + len(noise) :]), np.uint8)
    for data in (bad, good[: good.size - cut - 1], np.append(good, [0, 0]).astype(np.uint8)):
        if data.tobytes() == good.tobytes():
            continue
        with suppress(ModelError):
            assert ans.decode(data, 900).size == 900
    with pytest.raises(ModelError):
        ans.decode(good[: good.size - cut - 1], 900)
