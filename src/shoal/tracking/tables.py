"""Comparison tables of runs for the terminal."""

from collections.abc import Sequence

from shoal.errors import MissingExtra
from shoal.tracking.columns import columns
from shoal.tracking.history import Run, summary

try:
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingExtra("rich", "cli") from error


def comparison(runs: Sequence[Run]) -> Table:
    """A row for each run, the best value of a column in bold green with a star.

    Below it stand the notes of runs that are odd, e.g. a half-written record.
    """
    summaries = [summary(run) for run in runs]
    found = columns(runs, summaries)
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1))
    table.add_column("run", style="bold", no_wrap=True, vertical="bottom")
    for column in found:
        table.add_column(column.title, justify="right", vertical="bottom")
    for i, run in enumerate(runs):
        cells = [column.cells[i] for column in found]
        # The mark is a column of its own width, so that digits stay aligned without color too.
        texts = [
            Text(f"{c.text} {'*' if c.best else ' '}", style="bold green" if c.best else "")
            for c in cells
        ]
        name = run.meta.name
        status = "" if run.meta.status == "done" else f" ({run.meta.status})"
        table.add_row(Text(name + status), *texts)
    notes = [f"{run.meta.name}: {note}" for run in runs for note in run.notes]
    table.caption = "\n".join(["* best of the column" if len(runs) > 1 else "", *notes]).strip()
    table.caption_justify = "left"
    return table
