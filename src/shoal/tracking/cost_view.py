"""The costs of a run on the terminal, and all of them as a CSV file."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from shoal.errors import DataError, MissingExtra
from shoal.tracking import units
from shoal.tracking.cost import KWH, Account, Cost

try:
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingExtra("rich", "cli") from error

MOST = 10


def energy(joules: float) -> str:
    """An amount of energy in one family of units: "3.42 mWh", "1.25 Wh", "12.5 kWh"."""
    hours = joules / 3600
    for factor, unit in ((1e-3, "kWh"), (1.0, "Wh"), (1e3, "mWh"), (1e6, "µWh")):
        value = hours * factor
        if value >= 0.9995:
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
    return f"{hours * 1e6:.3g} µWh" if hours else "0 Wh"


def dollars(value: float) -> str:
    """An amount of money."""
    return f"${value:,.2f}" if value >= 1 or not value else f"${value:.2g}"


def line(name: str, found: Account, host: Mapping[str, float]) -> str:
    """The cost of a run in one line."""
    total = found.total
    parts = [
        f"{units.size(total.bytes_up)} up, {units.size(total.bytes_down)} down",
        f"{units.seconds(total.seconds)} of {found.rates.device}s",
        f"{energy(total.joules)} (devices {energy(total.device)}, network "
        f"{energy(total.network)}, server {energy(total.server)})",
        dollars(total.dollars),
    ]
    if host:
        parts.append(f"this machine drew {energy(host['kwh'] * KWH)}")
    return f"cost of {name}: " + "; ".join(parts)


def clients(found: Account) -> Table:
    """The clients that cost most energy."""
    ranked = sorted(found.clients.items(), key=lambda item: (-item[1].joules, item[0]))
    table = _table("client", ranked[:MOST])
    more = len(ranked) - MOST
    table.caption = f"and {units.count(more)} more clients" if more > 0 else None
    table.caption_justify = "left"
    return table


def commits(found: Account) -> Table:
    """The mean of all commits and the dearest ones."""
    ranked = sorted(found.commits.items(), key=lambda item: (-item[1].joules, item[0]))
    count = max(1, len(ranked))
    total = sum((cost for _, cost in ranked), Cost())
    mean = Cost(
        round(total.tasks / count),
        round(total.bytes_down / count),
        round(total.bytes_up / count),
        *(getattr(total, f.name) / count for f in fields(Cost)[3:]),
    )
    shown = [("mean", mean), *((f"v{version}", cost) for version, cost in ranked[: MOST // 2])]
    return _table("commit", shown)


def _table(title: str, rows: Iterable[tuple[str, Cost]]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1))
    table.add_column(title, style="bold")
    for name in ("tasks", "bytes up", "bytes down", "device time", "energy", "money"):
        table.add_column(name, justify="right")
    for name, cost in rows:
        table.add_row(
            Text(name),
            units.count(cost.tasks),
            units.size(cost.bytes_up),
            units.size(cost.bytes_down),
            units.seconds(cost.seconds),
            energy(cost.joules),
            dollars(cost.dollars),
        )
    return table


def write(path: Path, found: Account) -> None:
    """Every client, every commit, the server and the total, a row each.

    Raises:
        DataError: if it cannot be written.
    """
    names = [f.name for f in fields(Cost)]
    rows = [
        *(("client", name, cost) for name, cost in sorted(found.clients.items())),
        *(("commit", str(version), cost) for version, cost in sorted(found.commits.items())),
        ("server", "", found.server),
        ("run", "", found.total),
    ]
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["what", "name", *names])
            for what, name, cost in rows:
                writer.writerow([what, name, *(getattr(cost, n) for n in names)])
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
