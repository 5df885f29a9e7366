"""Recorded measurements and events from CSV files, plain or gzip."""

import csv
import gzip
import zlib
from pathlib import Path

from shoal.errors import DataError, nearest


def rows(path: str, columns: list[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, which has (at least) the given columns.

    Raises:
        DataError: if the file is missing or broken, or lacks a column.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8", newline="")
            if path.endswith(".gz")
            else Path(path).open(encoding="utf-8", newline="")
        ) as file:
            reader = csv.DictReader(file)
            found = list(reader)
            header = list(reader.fieldnames or ())
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    for column in columns:
        if column not in header:
            raise DataError(f"{path}: no column {column!r}; {nearest(column, header)}")
    return found


def number(path: str, cell: str | None) -> float:
    """A cell as a number.

    Raises:
        DataError: if it is none.
    """
    try:
        return float(cell or "")
    except ValueError:
        raise DataError(f"{path}: {cell!r} is not a number") from None
