from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.backends import SIZES, both, each, loose
from shoal.kernels import Half, Overflow

values = st.floats(-(2.0**20), 2.0**20, width=32)


def rounded(x: float, scale: float) -> int:
    return round(float(x) * scale)  # half to even, in integers of any size


@given(
    row=st.lists(values, min_size=1, max_size=40),
    scale=st.sampled_from([1.0, -0.5, 3.7, 2.0**31, -(2.0**40), 2.0**42]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@example(row=[0.5, 1.5, 2.5, -0.5, -1.5], scale=1.0, dtype=np.float32)
@example(row=[2.0**51 - 0.5, 2.0**51 + 0.5, 2.0**52 - 0.5, -(2.0**52), 2.0**62], scale=1.0,
         dtype=np.float64)  # fmt: skip
def test_equals_integers(row: list[float], scale: float, dtype: type) -> None:
    array = np.array(row, dtype)
    expected = [rounded(x, scale) for x in array]
    for kernels in each():
        out = np.full(len(row), 5, np.int64)
        peaks = kernels.fold_exact(out, [array], [scale])
        assert out.tolist() == [5 + e for e in expected]
        assert peaks == [float(np.abs(array).max())]


@both
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [100.0, 2.0**50])
@pytest.mark.parametrize("count", [1, 8, 13])
def test_many_sources_of_any_size(kernels: ModuleType, size: int, scale: float, count: int) -> None:
    rng = np.random.default_rng(size)
    rows = [loose(rng.standard_normal(size).astype(np.float32)) for _ in range(count)]
    scales = [scale, 1.0, -scale, 7.5, *[1e6] * 9][:count]
    out, expected = np.zeros(size, np.int64), np.zeros(size, np.int64)
    peaks = kernels.fold_exact(out, rows, scales)
    for row, factor in zip(rows, scales, strict=True):
        expected += np.rint(row.astype(np.float64) * factor).astype(np.int64)
    np.testing.assert_array_equal(out, expected)
    assert peaks == [float(np.abs(row).max()) if size else 0.0 for row in rows]


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("place", [0, 5000, 69_999])
@pytest.mark.parametrize("more", [1, 9])
def test_what_does_not_fit_leaves_no_trace(
    kernels: ModuleType, bad: float, place: int, more: int
) -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(-(2**40), 2**40, 70_000)
    good, wrong = (rng.standard_normal(70_000).astype(np.float32) for _ in range(2))
    wrong[place] = bad
    out = before.copy()
    with pytest.raises(Overflow, match="does not fit") as info:
        kernels.fold_exact(out, [good, wrong, *[good] * more], [2.0**40] * (2 + more))
    np.testing.assert_array_equal(out, before)
    peaks = info.value.peaks
    assert peaks[0] == peaks[-1] == np.abs(good).max()
    assert peaks[1] == abs(np.float32(bad)) or (np.isnan(bad) and np.isnan(peaks[1]))


@both
def test_a_sum_that_would_wrap_is_refused_also_between_sources(kernels: ModuleType) -> None:
    before = np.full(9000, 2**62, np.int64)
    row = np.ones(9000)
    for rows, scales in [([row], [2.0**62]), ([row, row], [2.0**62, -(2.0**62)])]:
        out = before.copy()
        with pytest.raises(Overflow):
            kernels.fold_exact(out, rows, scales, room=2**63 - 1 - 2**62)
        np.testing.assert_array_equal(out, before)


@both
def test_room_is_exact(kernels: ModuleType) -> None:
    out = np.zeros(3, np.int64)
    kernels.fold_exact(out, [np.array([1.0, -8.0, 2.0])], [1.0], room=8)
    with pytest.raises(Overflow):
        kernels.fold_exact(out, [np.array([1.0, -8.0, 2.0])], [1.0], room=7)
    assert out.tolist() == [1, -8, 2]


@both
def test_other_forms_are_decoded_first(kernels: ModuleType) -> None:
    out = np.zeros(3, np.int64)
    row = np.float16([0.5, 1.5, -2.5])
    kernels.fold_exact(out, [row, Half(row.view(np.uint16), "f16")], [2.0, 1.0])
    assert out.tolist() == [1, 3 + 2, -5 - 2]
