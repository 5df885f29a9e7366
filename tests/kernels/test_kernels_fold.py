from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.backends import SIZES, Array, both, each, loose, same
from shoal import kernels as public
from shoal.kernels import Codes, Half, Pairs, Source
from shoal.kernels.sources import decoded

FLOATS = (np.float32, np.float64)


def made(kind: str, size: int, rng: np.random.Generator) -> Source:
    values = rng.standard_normal(size)
    if kind in ("f16", "bf16"):
        bits = values.astype(np.float16).view(np.uint16)
        wide = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return Half(bits, "f16") if kind == "f16" else Half(wide, "bf16")
    if kind[0] == "q":
        block = int(rng.integers(1, 200))
        scales = rng.uniform(0, 1, -(-size // block)).astype(f"f{kind[1]}")
        return Codes(rng.integers(-128, 128, size).astype(np.int8), scales, block)
    if kind[0] == "s":
        index = np.flatnonzero(rng.random(size) < 0.3).astype(f"i{kind[1]}")
        return Pairs(index, values[index].astype(f"f{kind[2]}"))
    return values.astype(kind)


KINDS = ("f2", "f4", "f8", "f16", "bf16", "q4", "q8", "s44", "s48", "s88", ">f4", "i4")


def reference(size: int, sources: list[Source], factors: list[float]) -> Array:
    values = [decoded(source, size).astype(np.float64) for source in sources]
    return np.sum([v * w for v, w in zip(values, factors, strict=True)] or [np.zeros(size)], axis=0)


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from(SIZES),
    kinds=st.lists(st.sampled_from(KINDS), max_size=12),
    repeat=st.sampled_from([1, 9]),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 2**32),
)
def test_any_mix_agrees_with_float64_and_between_backends(
    size: int, kinds: list[str], repeat: int, dtype: type, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sources = [made(kind, size, rng) for kind in kinds for _ in range(repeat)]
    factors = rng.uniform(-5, 5, len(sources)).tolist()
    outs = []
    for kernels in each():
        outs.append(np.zeros(size, dtype))
        kernels.fold(outs[-1], sources, factors)
    largest = reference(size, [np.abs(decoded(s, size)) for s in sources], np.abs(factors).tolist())
    allowed = largest * np.finfo(dtype).eps * (len(sources) + 3) + 1e-300
    assert (np.abs(outs[0] - reference(size, sources, factors)) <= allowed).all()
    assert same(outs[0], outs[-1])


@both
@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_has_the_bits_of_one_after_another(kernels: ModuleType, kind: str) -> None:
    rng = np.random.default_rng(1)
    sources = [made(kind, 10_007, rng) for _ in range(19)]
    factors = rng.uniform(0, 3, 19).tolist()
    at_once, in_turn = np.ones(10_007, np.float32), np.ones(10_007, np.float32)
    kernels.fold(at_once, sources, factors)
    for source, factor in zip(sources, factors, strict=True):
        kernels.fold(in_turn, [source], [factor])
    assert same(at_once, in_turn)


@both
@pytest.mark.parametrize("dtype", FLOATS)
def test_rounds_each_product_and_each_sum(kernels: ModuleType, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    rows = [rng.standard_normal(1003).astype(dtype) for _ in range(9)]
    out, expected = np.zeros(1003, dtype), np.zeros(1003, dtype)
    kernels.fold(out, rows, [0.1] * 9)
    for row in rows:
        expected += row * dtype(0.1)
    assert same(out, expected)


@both
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_address(kernels: ModuleType, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    rows = [rng.standard_normal(5001).astype(dtype) for _ in range(9)]
    out, expected = loose(np.ones(5001, dtype)), np.ones(5001, dtype)
    kernels.fold(out, [loose(row) for row in rows], range(9))
    kernels.fold(expected, rows, range(9))
    assert same(out.copy(), expected)
    wide = np.ones(5003, dtype)
    kernels.fold(wide[1:-1], [np.append(row, row)[5000:10_001] for row in rows], range(9))
    assert wide[0] == wide[-1] == 1


@both
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 8])
def test_every_half_and_bfloat(kernels: ModuleType, dtype: type, count: int) -> None:
    bits = np.arange(1 << 16).astype(np.uint16)
    f16 = bits.view(np.float16).astype(dtype)
    with np.errstate(invalid="ignore"):
        bf16 = (bits.astype(np.uint32) << 16).view(np.float32).astype(dtype)
    for kind, expected in (("f16", f16), ("bf16", bf16)):
        out = np.zeros(1 << 16, dtype)
        kernels.fold(out, [Half(bits, kind)] * count, [1.0] + [0.0] * (count - 1))
        finite = np.isfinite(expected)
        assert same(out[finite] + 0.0, expected[finite] + 0.0)
        assert np.isnan(out[np.isnan(expected)]).all()
        if count == 1:
            assert same(out[~finite], expected[~finite])


@both
@pytest.mark.parametrize("count", [1, 8])
def test_what_is_not_finite_and_subnormal_passes(kernels: ModuleType, count: int) -> None:
    tiny, most = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    row = np.tile(np.float32([np.nan, np.inf, -np.inf, tiny, -tiny, most, 0.0, 1e-40]), 40)
    out = np.zeros(320, np.float32)
    kernels.fold(out, [row] * count, [1.0] * count)
    expected = np.zeros(320, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(count):
            expected += row
    assert same(out, expected)
    assert 0 < out[3] < 1e-44 * count


@both
def test_opposite_infinities_give_nan(kernels: ModuleType) -> None:
    out = np.zeros(3, np.float32)
    kernels.fold(out, [np.float32([np.inf, 1, 2]), np.float32([-np.inf, 1, 2])], [1, 1])
    assert np.isnan(out[0]) and out[1:].tolist() == [2, 4]


@both
@pytest.mark.parametrize("block", [1, 3, 64, 1000, 4096, 100_000])
@pytest.mark.parametrize("count", [1, 8, 11])
def test_blocks_across_tiles(kernels: ModuleType, block: int, count: int) -> None:
    size = 30_011
    codes = (np.arange(size) % 255 - 127).astype(np.int8)
    scales = np.arange(1, -(-size // block) + 1, dtype=np.float32)
    out = np.zeros(size)
    kernels.fold(out, [Codes(codes, scales, block)] * count, [0.5] * count)
    expected = codes.astype(float) * np.repeat(scales, block)[:size] * 0.5 * count
    np.testing.assert_array_equal(out, expected)


@both
@pytest.mark.parametrize("index", [[3, 3], [4, 2], [-1, 2], [0, 10], [2**31, 2**31 + 1]])
def test_bad_indices_are_refused_and_leave_no_trace(kernels: ModuleType, index: list[int]) -> None:
    out = np.zeros(10, np.float32)
    bad = Pairs(np.array(index), np.ones(2, np.float32))
    with pytest.raises(IndexError, match=r"rise strictly within 0\.\.9"):
        kernels.fold(out, [np.ones(10, np.float32), bad], [1.0, 1.0])
    assert not out.any()


@both
def test_sizes_must_match(kernels: ModuleType) -> None:
    out, row = np.zeros(10, np.float32), np.ones(10, np.float32)
    codes = np.ones(10, np.int8)
    bad: list[Source] = [
        np.ones(11, np.float32), row[:9], Half(np.ones(4, np.uint16), "f16"),
        Codes(codes, np.ones(1, np.float32), 5), Pairs(np.arange(3), row[:2]),
    ]  # fmt: skip
    for source in bad:
        with pytest.raises(ValueError):
            kernels.fold(out, [row, source], [1.0, 1.0])
    with pytest.raises(ValueError):
        kernels.fold(out, [row], [1.0, 1.0])
    assert not out.any()


@both
def test_strides(kernels: ModuleType) -> None:
    out, row = np.zeros(20, np.float32), np.arange(20, dtype=np.float32)
    kernels.fold(out[::2], [row[::2], row[1::2]], [1.0, 1.0])
    np.testing.assert_array_equal(out[::2], row[::2] + row[1::2])
    assert not out[1::2].any()


@both
def test_out_must_be_writable(kernels: ModuleType) -> None:
    out = np.zeros(5, np.float32)
    out.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        kernels.fold(out, [np.ones(5, np.float32)], [1.0])


def test_single_sources() -> None:
    out = np.zeros(4, np.float32)
    public.fold_half(out, np.float16([1, 2, 3, 4]).view(np.uint16), "f16", 2.0)
    public.fold_quantized(out, np.int8([1, 1, 1, 1]), np.float32([10, 20]), 2, 1.0)
    public.fold_sparse(out, np.array([0, 3]), np.float32([100, 200]), 1.0)
    assert out.tolist() == [112, 14, 26, 228]
    with pytest.raises(ValueError, match="f16 or bf16"):
        public.fold_half(out, np.zeros(4, np.uint16), "f8", 1.0)
