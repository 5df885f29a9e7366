"""The compiled kernels give the bits of those in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.codecs import native, portable

pytestmark = pytest.mark.skipif(
    bool(native.MISSING) or native.BACKEND == "numpy", reason=f"no native kernels: {native.MISSING}"
)
SIZES = (1024, 1025, 5000, 16384, 16385, 70_001)
seeds = st.integers(0, 2**32)


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from(SIZES), block=st.sampled_from([1, 3, 16, 100, 512, 5000, 2**31 - 1]),
    levels=st.sampled_from([1, 7, 127, 128, 32767]), kind=st.integers(0, 2),
    key=st.none() | st.integers(0, 2**64 - 1), onebit=st.booleans(), seed=seeds,
)  # fmt: skip
def test_quantize(
    size: int, block: int, levels: int, kind: int, key: int | None, onebit: bool, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    x[: size // 3] = 0  # whole blocks of zeros
    one = onebit and levels == 1
    block = min(block, size)
    expected = portable.quantize(x, block, levels, kind, key, onebit=one)
    got = native.quantize(x, block, levels, kind, key, onebit=one)
    assert [a.tobytes() for a in got] == [a.tobytes() for a in expected]
    assert got[0].dtype == expected[0].dtype


@settings(deadline=None, max_examples=40)
@given(size=st.sampled_from(SIZES), bits=st.integers(1, 16), signed=st.booleans(), seed=seeds)
def test_pack_and_unpack(size: int, bits: int, signed: bool, seed: int) -> None:
    bias = 1 << (bits - 1) if signed else 0
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    codes = np.random.default_rng(seed).integers(-bias, (1 << bits) - bias, size).astype(kind)
    packed = native.pack(codes, bits, bias, 0)
    assert packed.size == -(-size * bits // 8)
    assert packed.tobytes() == portable.pack(codes, bits, bias, 0).tobytes()
    for kernels in (native, portable):
        assert np.array_equal(kernels.unpack(packed, size, bits, bias, 0, codes.dtype), codes)


@settings(deadline=None, max_examples=20)
@given(size=st.sampled_from(SIZES), count=st.sampled_from([0, 1, 14, 16, 17, 255]), seed=seeds)
def test_assign(size: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size).astype(np.float32)
    limits = np.sort(rng.choice(x, count))
    assert np.array_equal(native.assign(x, limits), portable.assign(x, limits))


@pytest.mark.parametrize("size", [70_001, 300_000])
def test_bins_and_take(size: int) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    for signed in (False, True):
        assert np.array_equal(native.bins(x, signed=signed), portable.bins(x, signed=signed))
    for threshold in (0.0, 1.5, 3.0, 100.0):
        least = int(np.array([threshold], np.float32).view(np.int32)[0])
        assert np.array_equal(native.take(x, least, 10), portable.take(x, least, 10))


@settings(deadline=None, max_examples=6)
@given(size=st.sampled_from((1024, 5000, 20_001)), power=st.floats(0.2, 30), seed=seeds)
def test_huffman_streams(size: int, power: float, seed: int) -> None:
    from shoal.codecs import huffman

    symbols = (np.random.default_rng(seed).random(size) ** power * 255).astype(np.uint8)
    counts = native.histogram(symbols)
    assert np.array_equal(counts, portable.histogram(symbols))
    if np.count_nonzero(counts) < 2:
        return
    lengths = huffman.lengths(counts)
    codes, table = huffman._codes(lengths), huffman._table(lengths)
    sizes, data = native.encode_streams(symbols, codes)
    slow = portable.encode_streams(symbols, codes)
    assert sizes.tobytes() == slow[0].tobytes() and data.tobytes() == slow[1].tobytes()
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    for kernels in (native, portable):
        found, good = kernels.decode_streams(data, offsets, table, size)
        assert good and np.array_equal(found, symbols)


@pytest.mark.parametrize(("size", "power"), [(2, 1.0), (5001, 0.3), (33_001, 20.0)])
def test_streams_of_states(size: int, power: float) -> None:
    from shoal.codecs import ans

    symbols = (np.random.default_rng(size).random(size) ** power * 255).astype(np.uint8)
    symbols[:2] = 3, 4
    found = ans.frequencies(native.histogram(symbols))
    table = (found << 16 | np.cumsum(found) - found).astype(np.uint32)
    sizes, data = native.encode_states(symbols, table)
    slow = portable.encode_states(symbols, table)
    assert sizes.tobytes() == slow[0].tobytes() and data.tobytes() == slow[1].tobytes()
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    for kernels in (native, portable):
        again, good = kernels.decode_states(data, offsets, ans._table(found), size)
        assert good and np.array_equal(again, symbols)
    broken = data.copy()
    broken[-1] ^= 1
    assert not native.decode_states(broken, offsets, ans._table(found), size)[1]


@settings(deadline=None, max_examples=30)
@given(
    key=st.integers(0, 2**64 - 1), stream=st.integers(0, 2**64 - 1), start=st.integers(0, 2**62),
    count=st.integers(64, 3000),
)  # fmt: skip
def test_words_and_normals(key: int, stream: int, start: int, count: int) -> None:
    for name in ("words", "normals"):
        expected = getattr(portable, name)(key, stream, start, count)
        assert getattr(native, name)(key, stream, start, count).tobytes() == expected.tobytes()


def test_the_module_refuses_buffers_that_do_not_fit() -> None:
    from shoal.codecs import _codecs

    x, out = np.zeros(100, np.float32), np.zeros(100, np.int8)
    few = np.zeros(1, np.float32)
    with pytest.raises(ValueError):
        _codecs.prepare(native.QUANTIZE, 100, 64, (x, out, few), (8, 127, 0, 0, 0, 0))
    with pytest.raises(ValueError):
        _codecs.prepare(native.UNPACK, 100, 64, (np.zeros(3, np.uint8), out), (4, 8, 0, 1))
    with pytest.raises(ValueError):
        _codecs.prepare(99, 1, 1, (), ())
    offsets = np.array([0, 1 << 40], np.int64)
    with pytest.raises(ValueError):
        _codecs.prepare(
            native.UNHUFFMAN, 100, 65536,
            (np.zeros(9, np.uint8), np.zeros(4096, np.uint16), offsets, out, np.zeros(1, np.uint8)),
            (),
        )  # fmt: skip
