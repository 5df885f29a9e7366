"""Count sketches (Charikar, Chen, Farach-Colton 2002): values added with signs at hashed places.

Whole numbers modulo 2**32, so that sketches add up exactly, in any order, masked or not, and the
sum estimates the sum. Every row estimates a value without bias; their median ignores collisions
with large ones.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.codecs import native
from shoal.encoded import Array, Encoded, flat

ROWS = 63  # rows of a sketch, at most: what a client sends must not keep the server busy
_CHUNK = 1 << 18  # coordinates hashed at once


@dataclass(frozen=True, eq=False)
class Sketch(Encoded):
    """Multiples of a step in a sketch.

    Attributes:
        cells: int32, shape (rows * width,), one row after the other: sums modulo 2**32.
        rows: odd, at most `ROWS`.
        step: what an integer of 1 stands for.
        key: 64 bits, the same for all that are summed.
    """

    size: int
    cells: Array
    rows: int
    step: float
    key: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return np.dtype(np.float32)

    def dense(self) -> Array:
        """The estimates: float32, shape (size,)."""
        return (estimates(self.cells, self.size, self.rows, self.key) * self.step).astype("f4")

    def unpacked(self) -> Array:
        """The estimates."""
        return self.dense()

    def finite(self) -> bool:
        """Always."""
        return True

    def parts(self) -> Mapping[str, "Array | Encoded"]:
        """The cells."""
        return {"cells": self.cells}

    def fields(self) -> Mapping[str, int | float | str]:
        """Size, rows, step and key."""
        return {"size": self.size, "rows": self.rows, "step": self.step, "key": self.key}

    def check(self) -> str:
        """What is wrong with cells or fields."""
        if type(self.size) is not int or type(self.key) is not int or not 0 <= self.key < 2**64:
            return f"size {self.size!r} or key {self.key!r} is not such a number"
        if type(self.step) is not float or not 0 < self.step < 1e28 or self.size < 0:
            return f"step {self.step!r} or size {self.size} is out of range"
        if type(self.rows) is not int or not 1 <= self.rows <= ROWS or self.rows % 2 == 0:
            return f"rows {self.rows!r} is not an odd number up to {ROWS}"
        if not flat(self.cells, "i") or self.cells.itemsize != 4 or not self.cells.size:
            return "cells must be a flat array of int32"
        return f"{self.cells.size} cells in {self.rows} rows" if self.cells.size % self.rows else ""


def sketched(values: Array, indices: Array, rows: int, width: int, key: int) -> Array:
    """The cells of values: int32 with wrap-around, shape (rows * width,).

    Args:
        values: int32, shape (k,).
        indices: their coordinates, shape (k,).
    """
    out = np.zeros((rows, width), np.int32)
    for row, at, where, signs in _hashed(indices, rows, width, key):
        np.add.at(out[row], where, values[at : at + where.size] * signs)
    return out.reshape(-1)


def estimates(cells: Array, size: int, rows: int, key: int) -> Array:
    """What is estimated of every coordinate: shape (size,), of the dtype of float64 sums.

    Args:
        cells: int32 or float64, shape (rows * width,).
    """
    table, out = cells.reshape(rows, -1), np.empty(size)
    for begin in range(0, size, _CHUNK):
        indices = np.arange(begin, min(size, begin + _CHUNK))
        found = np.empty((rows, indices.size))
        for row, at, where, signs in _hashed(indices, rows, table.shape[1], key):
            found[row, at : at + where.size] = table[row, where] * signs.astype(np.float64)
        out[begin : begin + indices.size] = np.median(found, axis=0)
    return out


def _hashed(
    indices: Array, rows: int, width: int, key: int
) -> Iterator[tuple[int, int, Array, Array]]:
    """Of each row and some coordinates at once: where they begin, their cells, their signs."""
    salts = native.words(key, 11, 0, 2 * rows).astype(np.uint64)
    for at in range(0, indices.size, _CHUNK):
        x = indices[at : at + _CHUNK].astype(np.uint64)
        for row in range(rows):
            with np.errstate(over="ignore"):  # SplitMix64's finalizer on shifted numbers
                z = x + (salts[2 * row] << np.uint64(32) | salts[2 * row + 1])
                z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
                z = z ^ z >> np.uint64(31)
            where = ((z >> np.uint64(32)) * np.uint64(width) >> np.uint64(32)).astype(np.int64)
            yield row, at, where, 1 - 2 * (z & np.uint64(1)).astype(np.int32)
