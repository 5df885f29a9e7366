"""Both backends, and what tests of them share."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.kernels import compiled, portable

Array = NDArray[Any]
native = pytest.mark.skipif(bool(compiled.MISSING), reason=f"no native kernels: {compiled.MISSING}")
BACKENDS = [pytest.param(compiled, id="native", marks=native), pytest.param(portable, id="numpy")]
both = pytest.mark.parametrize("kernels", BACKENDS)
SIZES = (0, 1, 7, 63, 64, 65, 100, 4097, 70_001)  # around vectors, blocks of 64 and tiles


def loose(values: Array) -> Array:
    """A copy that begins at an odd address."""
    raw = np.empty(values.nbytes + 1, np.uint8)
    copy = raw[1:].view(values.dtype)
    copy[:] = values
    return copy


def same(a: Array, b: Array) -> bool:
    """Whether bits are the same, or both are NaN."""
    bits = f"u{a.itemsize}"
    equal = (a.view(bits) == b.view(bits)) | ((a != a) & (b != b))
    return a.dtype == b.dtype and a.shape == b.shape and bool(equal.all())


def each() -> list[ModuleType]:
    """The backends that this machine has."""
    return [portable] if compiled.MISSING else [compiled, portable]
