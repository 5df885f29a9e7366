"""The values of largest magnitude, exactly or by the threshold of a sample."""

import numpy as np

from shoal.codecs import native
from shoal.codecs.portable import Array

SAMPLE = 400  # evenly spaced values that should reach the threshold
LARGE = 1 << 16  # values from which on a histogram is faster than a partition


def largest(x: Array, k: int) -> Array:
    """Rising indices of the k values of largest magnitude; of equal ones, the first.

    Of float32 a sample tells a magnitude that somewhat more than k values should reach. One pass
    takes them, and a partition cuts them to k. Should they be fewer than k, a histogram of the
    upper 16 of 31 bits tells what to take. The result is the same either way.

    Args:
        x: floats, finite, shape (n,) with n > k.
        k: at least 1.
    """
    if x.dtype != np.float32 or x.size < LARGE:
        indices = np.arange(x.size)
        return _cut(indices, np.abs(x), k)
    stride = k // SAMPLE
    if stride >= 2:
        found = native.take(x, _reached(x, stride, SAMPLE + 5 * SAMPLE**0.5), 5 * k // 4)
        if k <= found.size <= 2 * k:
            return found[_cut(np.arange(found.size), np.abs(x[found]), k)]
    counts = native.bins(x, signed=False)
    above = np.cumsum(counts[::-1])[::-1]  # in this bin or a higher one
    bin_ = int(np.flatnonzero(above >= k)[-1])
    found = native.take(x, bin_ << 15, int(above[bin_]))
    return found[_cut(np.arange(found.size), np.abs(x[found]), k)]


def above_sample(x: Array, k: int, sample: int = SAMPLE) -> Array:
    """Rising indices of about k values of largest magnitude: 0.8 k to 1.25 k of them, else exact.

    The threshold is that of evenly spaced values, of which about `sample` should pass it (Lin et
    al. 2018, arXiv 1712.01887).
    """
    stride = k // sample
    if stride < 2 or x.dtype != np.float32 or x.size < LARGE:
        return largest(x, k)
    found = native.take(x, _reached(x, stride, k / (stride | 1)), k)
    return found if 0.8 * k <= found.size <= 1.25 * k else largest(x, k)


def _reached(x: Array, stride: int, rank: float) -> int:
    """The bits of the magnitude that so many of evenly spaced values reach."""
    some = np.abs(x[stride // 2 :: stride | 1])
    last = some.size - min(some.size, max(1, round(rank)))
    return int(np.partition(some, last)[last : last + 1].view(np.int32)[0])


def _cut(indices: Array, magnitude: Array, k: int) -> Array:
    """Which of several equal ones are taken does not hang on the sort."""
    size = magnitude.size
    if size == k:
        return indices
    threshold = np.partition(magnitude, size - k)[size - k]
    above = magnitude > threshold
    equal = np.flatnonzero(magnitude == threshold)[: k - int(above.sum())]
    above[equal] = True
    return np.flatnonzero(above)
