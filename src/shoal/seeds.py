"""Random draws named by what they decide, never by when they happen.

`rng(seed, "cohort", round)` gives the same stream on every machine, in any order of calls, after
any resume. Names are hashed with BLAKE2b; the generator is counter-based (Philox).
"""

import hashlib
import sys
from collections.abc import Sequence
from operator import index
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

Purpose = str | int
_NORMAL = NormalDist()


def key(seed: int, *purpose: Purpose) -> bytes:
    """The 32-byte key of a named draw. `1` and `"1"` are different names.

    Raises:
        TypeError: for a purpose that is neither a string nor an integer (floats and booleans are
            refused: 1.0, True and 1 would be equal as keys of a dict, yet different names here).
    """
    if type(seed) is not int:
        seed = _integer(seed)
    # ascii(), not repr(): what repr() escapes depends on Python's Unicode tables. The escapes also
    # keep the separator out of names, so that no two purposes share a text.
    parts = [ascii(p) if type(p) is str or type(p) is int else _name(p) for p in purpose]
    text = f"{seed}\x1f" + "\x1f".join(parts)
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


def rng(seed: int, *purpose: Purpose) -> np.random.Generator:
    """A generator for one purpose, independent of every other purpose."""
    return np.random.Generator(np.random.Philox(_Key(key(seed, *purpose)[15::-1])))  # type: ignore[arg-type]


class _Key(ISeedSequence):
    """Hands Philox its key as it is: `Philox(key=...)` gathers entropy first, and costs double."""

    def __init__(self, words: bytes) -> None:
        self.words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """The key, little-endian."""
        kind = dtype if sys.byteorder == "little" else np.dtype(dtype).newbyteorder("<")
        return np.frombuffer(self.words, kind, n_words)


def integer(seed: int, *purpose: Purpose) -> int:
    """One draw from 0 .. 2**63 - 1, for seeding a framework's own generator."""
    return int.from_bytes(key(seed, *purpose)[:8]) >> 1


def uniform(seed: int, *purpose: Purpose) -> float:
    """One draw from the open interval (0, 1); a microsecond, where a generator costs ten."""
    return ((int.from_bytes(key(seed, *purpose)[:8]) >> 12) + 0.5) * 2.0**-52


def normal(seed: int, *purpose: Purpose) -> float:
    """One draw from the standard normal distribution."""
    return _NORMAL.inv_cdf(uniform(seed, *purpose))


def choose(items: Sequence[str], n: int, seed: int, *purpose: Purpose) -> list[str]:
    """n distinct items in random order, every selection equally likely, in O(n).

    Raises:
        ValueError: if n is negative or exceeds the number of items.
    """
    size = len(items)
    if not 0 <= n <= size:
        raise ValueError(f"cannot choose {n} of {size}")
    if n == 0:
        return []
    if n == 1:
        return [items[int(uniform(seed, *purpose) * size)]]
    # Fisher and Yates' shuffle, cut off after n steps; `moved` holds the few places it touched.
    moved: dict[int, int] = {}
    chosen = []
    for at, draw in enumerate(rng(seed, *purpose).random(n).tolist()):
        pick = at + int(draw * (size - at))
        chosen.append(items[moved.get(pick, pick)])
        moved[pick] = moved.get(at, at)
    return chosen


def _name(part: Purpose) -> str:
    """The name of a string or integer of a subclass, or of NumPy's."""
    return ascii(str(part)) if isinstance(part, str) else ascii(_integer(part))


def _integer(value: int) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"a seed or purpose is a string or an integer, got {value!r}")
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"a seed or purpose is a string or an integer, got {value!r}") from None
