"""Random draws named by what they decide, never by when they happen.

`rng(seed, "cohort", round)` gives the same stream on every machine, in any order of calls, after
any resume. Names are hashed with BLAKE2b; the generator is counter-based (Philox).
"""

import hashlib
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

Purpose = str | int
_NORMAL = NormalDist()


def key(seed: int, *purpose: Purpose) -> bytes:
    """The 32-byte key of a named draw. `1` and `"1"` are different names."""
    text = f"{seed}\x1f" + "\x1f".join([repr(part) for part in purpose])
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


def rng(seed: int, *purpose: Purpose) -> np.random.Generator:
    """A generator for one purpose, independent of every other purpose."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key(seed, *purpose)[:16])))


def integer(seed: int, *purpose: Purpose) -> int:
    """One draw from 0 .. 2**63 - 1, for seeding a framework's own generator."""
    return int.from_bytes(key(seed, *purpose)[:8]) >> 1


def uniform(seed: int, *purpose: Purpose) -> float:
    """One draw from the open interval (0, 1); a microsecond, where a generator costs twenty."""
    return ((int.from_bytes(key(seed, *purpose)[:8]) >> 12) + 0.5) * 2.0**-52


def normal(seed: int, *purpose: Purpose) -> float:
    """One draw from the standard normal distribution."""
    return _NORMAL.inv_cdf(uniform(seed, *purpose))


def choose(items: Sequence[str], n: int, seed: int, *purpose: Purpose) -> list[str]:
    """n distinct items, uniformly, in O(n) for small n (Floyd's algorithm).

    Raises:
        ValueError: if n exceeds the number of items.
    """
    size = len(items)
    if n > size:
        raise ValueError(f"cannot choose {n} of {size}")
    if n == 1:
        return [items[int(uniform(seed, *purpose) * size)]]
    if n * 8 > size:
        return [items[i] for i in rng(seed, *purpose).permutation(size)[:n]]
    chosen: dict[int, None] = {}
    for step, top in enumerate(range(size - n, size)):
        pick = int(uniform(seed, *purpose, step) * (top + 1))
        chosen[top if pick in chosen else pick] = None
    return [items[i] for i in chosen]
