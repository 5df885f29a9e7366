"""Data sets in a CSV file with a header row, plain or gzip, perhaps with a client-key column."""

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shoal.core import Examples
from shoal.data.download import local
from shoal.data.federation import Array, Federation, Partition, federate, strata
from shoal.data.partition import IID, holdout
from shoal.data.sklearn_sets import standardize
from shoal.errors import ConfigError, DataError, nearest

MISSING = ("", "?", "NA", "NaN", "nan")


@dataclass(frozen=True)
class Csv:
    """One row per example.

    Columns of numbers are standardized by the training rows, with missing values at the mean;
    other columns become one 0/1 input per value. The order of the inputs is that of the columns.

    Attributes:
        path: file or URL; a URL is downloaded once, and needs `sha256`.
        label: the target's column.
        key: the column that names each row's owner, for a natural partition; not an input.
        drop: columns to leave out.
        above: if given, the target is whether the label exceeds this number.
        regression: the label is a real value, and is standardized.
        split: a column that says "train" or "test"; empty to hold out a stratified fifth.
        clients: how many; 0 for all that the client key names.
        partition: how they share the training examples.
        sha256: checksum of the file.
    """

    path: str
    label: str
    key: str = ""
    drop: tuple[str, ...] = ()
    above: float | None = None
    regression: bool = False
    split: str = ""
    clients: int = 0
    partition: Partition = IID
    sha256: str = ""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.regression and self.above is not None:
            raise ConfigError("above", "makes classes; a regression has none")

    def load(self, seed: int) -> Federation:
        """Inputs float32, shape (n, d); targets int64 classes or float32 values, shape (n,).

        Raises:
            DataError: for a file that is missing or broken, or lacks a column.
        """
        columns = read_columns(local(self.path, self.sha256))
        for name in (self.label, self.key, self.split, *self.drop):
            if name and name not in columns:
                hint = nearest(name, list(columns))
                raise DataError(f"{self.path}: no column {name!r}; {hint}")
        y, classes = self._targets(columns[self.label])
        keys = np.array(columns[self.key]) if self.key else None
        keep, test = self._rows(y, keys, columns)
        if self.regression:
            y = standardize(y[:, None], keep)[:, 0]
        unused = {self.label, self.key, self.split, *self.drop}
        inputs = [encode(cells, keep) for name, cells in columns.items() if name not in unused]
        if not inputs:
            raise DataError(f"{self.path}: no column is left as an input")
        whole = Examples(np.concatenate(inputs, axis=1), y)
        return federate(
            whole.take(keep),
            whole.take(test),
            partition=self.partition,
            clients=self.clients,
            seed=seed,
            classes=classes,
            keys=keys[keep] if keys is not None else None,
        )

    def _targets(self, cells: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
        if "" in cells:
            raise DataError(f"{self.path}: row {cells.index('') + 1} has no {self.label!r}")
        values = None if _text(cells) else numbers(cells)
        if self.above is None and not self.regression:
            names = sorted(set(cells), key=lambda c: (0.0, c) if values is None else (float(c), c))
            place = {name: i for i, name in enumerate(names)}
            return np.array([place[c] for c in cells], np.int64), tuple(names)
        if values is None or np.isnan(values).any():
            raise DataError(f"{self.path}: column {self.label!r} is not made of numbers")
        if self.above is None:
            return values, ()
        sides = (f"{self.label} <= {self.above:g}", f"{self.label} > {self.above:g}")
        return (values > self.above).astype(np.int64), sides

    def _rows(
        self, y: Array, keys: Array | None, columns: dict[str, list[str]]
    ) -> tuple[Array, Array]:
        if self.split:
            part = np.array(columns[self.split])
            known = np.isin(part, ["train", "test"])
            if not known.all():
                found = str(part[~known][0])
                raise DataError(f'{self.path}: {found!r} in {self.split!r}; "train" or "test"')
            return np.flatnonzero(part == "train"), np.flatnonzero(part == "test")
        labels = strata(y)
        if keys is not None:
            owners = np.unique(keys, return_inverse=True)[1]
            labels = owners * (int(labels.max()) + 1) + labels
        return holdout(labels)


def read_columns(path: Path) -> dict[str, list[str]]:
    """The cells of each column, as text.

    Raises:
        DataError: if the file is broken, or a row has too few or too many cells.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8", newline="")
        ) as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows or len(set(header)) < len(header):
        raise DataError(f"{path}: needs a header row with distinct names, and rows below it")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} cells, not {len(header)}")
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def encode(cells: Sequence[str], keep: Array) -> Array:
    """A column as inputs, float32, shape (n, 1) for numbers or (n, values) for anything else."""
    if not _text(cells):
        return standardize(numbers(cells)[:, None], keep)
    values = np.array([v for v in sorted(set(cells)) if v not in MISSING])
    matches: Array = np.array(cells)[:, None] == values
    return matches.astype(np.float32)


def numbers(cells: Sequence[str]) -> Array:
    """Numbers in text as float64, shape (n,); NaN where missing."""
    return np.array([np.nan if c.strip() in MISSING else float(c) for c in cells])


def _text(cells: Sequence[str]) -> bool:
    """Whether some cell is neither missing nor a finite number."""
    for cell in cells:
        if cell.strip() in MISSING:
            continue
        try:
            if not np.isfinite(float(cell)):
                return True
        except ValueError:
            return True
    return False
