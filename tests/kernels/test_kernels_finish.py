from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kernels.backends import SIZES, both, loose, same

rng = np.random.default_rng(0)
both_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@both
@both_types
@pytest.mark.parametrize("size", SIZES)
def test_divide(kernels: ModuleType, dtype: Any, size: int) -> None:
    total = rng.standard_normal(size).astype(dtype)
    fixed = rng.integers(-(2**62), 2**62, size)
    assert same(kernels.divide(total, 3.7, dtype), total / dtype(3.7))
    assert same(kernels.divide(loose(total), 3.7, dtype), total / dtype(3.7))
    assert same(kernels.divide(fixed, 7 * 2**40, dtype), (fixed / (7 * 2.0**40)).astype(dtype))
    kernels.divide(total, 2.0, dtype, out=total[:])
    assert same(kernels.divide(total, 1.0, np.float16), total.astype(np.float16))


@both
@both_types
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lr", [1.0, 0.3])
def test_commit(kernels: ModuleType, dtype: Any, size: int, lr: float) -> None:
    model, total = (rng.standard_normal(size).astype(dtype) for _ in range(2))
    fixed = rng.integers(-(2**50), 2**50, size)
    assert same(kernels.commit(model, total, 3.7, lr), model + dtype(lr) * (total / dtype(3.7)))
    step = (fixed / 2.0**44).astype(dtype)
    expected = model + dtype(lr) * step
    assert same(kernels.commit(model, fixed, 2**44, lr), expected)
    assert kernels.commit(model, fixed, 2**44, lr, out=model) is model
    assert same(model, expected)


@both
def test_weight_zero(kernels: ModuleType) -> None:
    one = np.ones(3, np.float32)
    with pytest.raises(ZeroDivisionError):
        kernels.divide(one, 0.0, np.float32)
    with pytest.raises(ZeroDivisionError):
        kernels.commit(one, one, 0)


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.float16])
def test_merge(kernels: ModuleType, dtype: type) -> None:
    a, b = (rng.integers(-100, 100, 9001).astype(dtype) for _ in range(2))
    expected = a + b
    kernels.merge(a, b)
    np.testing.assert_array_equal(a, expected)
    with pytest.raises(ValueError):
        kernels.merge(a, b[:5000])


@both
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [s for s in SIZES if s])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_peak_sees_every_place(kernels: ModuleType, dtype: type, size: int, bad: float) -> None:
    values = rng.standard_normal(size).astype(dtype)
    assert kernels.peak(values) == float(np.abs(values).max())
    assert kernels.all_finite(values)
    for place in {0, size // 2, size - 1}:
        other = values.copy()
        other[place] = bad
        assert not kernels.all_finite(other)
        assert not kernels.all_finite(loose(other))
        peak = kernels.peak(other)
        assert np.isnan(peak) if np.isnan(bad) else peak == np.inf


@both
def test_nan_wins_over_infinity_whatever_its_sign(kernels: ModuleType) -> None:
    for nan in (np.nan, -np.nan):
        assert np.isnan(kernels.peak(np.float32([np.inf, nan, 1])))
        assert np.isnan(kernels.peak(np.float64([nan, -np.inf])))
    assert kernels.peak(np.float32([-0.0])) == kernels.peak(np.zeros(0)) == 0
    assert kernels.all_finite(np.full(5000, 3e38, np.float32))
    assert kernels.peak(np.arange(10.0)[::-3]) == 9
