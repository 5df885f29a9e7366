"""Comparison tables of runs for the terminal."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.errors import MissingExtra
from shoal.tracking import units
from shoal.tracking.columns import Cell, Column, columns
from shoal.tracking.history import Run, summary

if TYPE_CHECKING:
    from shoal.data.describe import Row

try:
    from rich.cells import cell_len
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingExtra("rich", "cli") from error

GAP = 1
MAX_CLIENTS = 40


class Comparison:
    """A row for each run, the best value of a column in bold green with a star.

    Where it is wider than the terminal its columns continue in a second table below. Then come
    the notes of runs that are odd, e.g. a half-written record.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._names = [_name(run) for run in runs]
        self._columns = columns(runs, [summary(run) for run in runs])
        self._notes = [f"{run.meta.name}: {note}" for run in runs for note in run.notes]
        if any(cell.best for column in self._columns for cell in column.cells):
            self._notes.insert(0, "* best of the column")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for block in self._blocks(options.max_width):
            yield self._table(block)
        for note in self._notes:
            yield Text(note, style="dim")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, self._first() + sum(_width(c) + GAP for c in self._columns))

    def _first(self) -> int:
        return max((cell_len(name) for name in self._names), default=0)

    def _blocks(self, room: int) -> list[list[Column]]:
        blocks: list[list[Column]] = [[]]
        used = self._first()
        for column in self._columns:
            need = _width(column) + GAP
            if blocks[-1] and used + need > room:
                blocks.append([])
                used = self._first()
            blocks[-1].append(column)
            used += need
        return blocks

    def _table(self, block: Sequence[Column]) -> Table:
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, GAP, 0, 0))
        table.add_column("run", style="bold", no_wrap=True, vertical="bottom")
        for column in block:
            title = "\n".join(_title(column))
            table.add_column(title, justify="right", vertical="bottom", min_width=_width(column))
        for i, name in enumerate(self._names):
            cells = [column.cells[i] for column in block]
            style = ("", "bold green")
            table.add_row(Text(name), *(Text(_cell(c), style=style[c.best]) for c in cells))
        return table


def comparison(runs: Sequence[Run]) -> Comparison:
    """The comparison of runs, for Rich to print."""
    return Comparison(runs)


def _name(run: Run) -> str:
    return run.meta.name + ("" if run.meta.status == "done" else f" ({run.meta.status})")


def _cell(cell: Cell) -> str:
    # The mark has a place of its own, so that digits stay aligned without color too.
    return f"{cell.text} *" if cell.best else f"{cell.text}  "


def _title(column: Column) -> list[str]:
    widest = max((cell_len(cell.text) for cell in column.cells), default=0)
    words = max(len(word) for word in column.title.split())
    return [f"{line}  " for line in textwrap.wrap(column.title, max(widest, words))]


def _width(column: Column) -> int:
    return max(cell_len(text) for text in (*_title(column), *map(_cell, column.cells)))


def partition_table(names: Sequence[str], rows: "Sequence[Row]") -> Table:
    """Who has which data: a row for each client, the first forty of them.

    Args:
        names: of the classes that `Row.counts` counts.
        rows: one for each client.
    """
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1))
    table.add_column("client", style="bold")
    for title in ("examples", "classes", "entropy (bits)", "distance to all"):
        table.add_column(title, justify="right")
    table.add_column(f"examples of {names[0]} … {names[-1]}" if names else "")
    for row in rows[:MAX_CLIENTS]:
        held = sum(n > 0 for n in row.counts)
        table.add_row(
            Text(row.client),
            *(units.count(row.examples), f"{held} of {len(names)}"),
            *(f"{row.entropy:.2f}", f"{row.distance:.2f}"),
            units.sparkline((0, *row.counts), len(row.counts) + 1)[1:],
        )
    more = len(rows) - MAX_CLIENTS
    table.caption = f"and {units.count(more)} more clients" if more > 0 else None
    table.caption_justify = "left"
    return table


def show(table: RenderableType) -> None:
    """Print a table; in a pipe it is as wide as it needs to be, and without color."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=Console(width=10_000).measure(table).maximum)
    console.print(table)
