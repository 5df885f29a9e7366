"""A federation's data in a table, and as a picture that needs nothing else to be shown."""

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.data.federation import Federation, strata

# Okabe and Ito's colors, and Tol's "muted" set: told apart with any color vision. Beyond ten
# classes: steps of the viridis map, whose lightness rises all the way.
FEW = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
SOME = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255",
        "#AA4499", "#BBBBBB")  # fmt: skip
MANY = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
WIDTH, LEFT, RIGHT = 900, 110, 60
FONT = "font-family='system-ui,sans-serif'"


@dataclass(frozen=True)
class Row:
    """One client's data.

    Attributes:
        counts: examples of each class (or of each decile of a real target).
        entropy: of its labels, in bits; 0 for a single class.
        distance: total variation between its labels and all clients' labels, 0 to 1.
    """

    client: str
    examples: int
    counts: tuple[int, ...]
    entropy: float
    distance: float


def labels(federation: Federation) -> tuple[str, ...]:
    """Names of what `Row.counts` counts: the classes, or the deciles of a real target."""
    if federation.classes:
        return federation.classes
    kind = "decile" if federation.train.y.dtype.kind == "f" else "class"
    first = 1 if kind == "decile" else 0
    count = int(_codes(federation).max(initial=0)) + 1
    return tuple(f"{kind} {first + k}" for k in range(count))


def table(federation: Federation) -> list[Row]:
    """A row for each client, in the order of their names."""
    counts = _counts(federation)
    total = counts.sum(axis=0) / counts.sum()
    rows = []
    for client, own in zip(federation.clients, counts, strict=True):
        mix = own / own.sum()
        some = mix[mix > 0]
        rows.append(
            Row(
                client,
                int(own.sum()),
                tuple(int(n) for n in own),
                max(0.0, float(-(some * np.log2(some)).sum())),
                float(np.abs(mix - total).sum() / 2),
            )
        )
    return rows


def plot(federation: Federation, title: str = "Training examples per client and class") -> str:
    """An SVG document: one horizontal bar for each client, stacked by class."""
    names, rows = labels(federation), table(federation)
    colors = palette(len(names))
    step = 20 if len(rows) <= 30 else 11 if len(rows) <= 200 else 8
    legend, top = _legend(names, colors)
    height = top + step * len(rows) + 46
    most = max(row.examples for row in rows)
    per_example = (WIDTH - LEFT - RIGHT) / most
    bars = [
        part
        for i, row in enumerate(rows)
        for part in _bar(row, names, colors, top + i * step, step, per_example)
    ]
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' "
            f"width='{WIDTH}' height='{height}' role='img' {FONT}>",
            f"<title>{escape(title)}</title>",
            f"<rect width='{WIDTH}' height='{height}' fill='#fff'/>",
            f"<text x='16' y='26' font-size='16' font-weight='600'>{escape(title)}</text>",
            *legend,
            *_axis(most, per_example, top, top + step * len(rows)),
            *bars,
            "</svg>",
        ]
    )


def palette(count: int) -> tuple[str, ...]:
    """So many colors, told apart with any color vision as far as that goes."""
    if count <= len(FEW):
        return FEW[:count]
    if count <= len(SOME):
        return SOME[:count]
    at = np.linspace(0, len(MANY) - 1, count)
    mixed = [np.interp(at, np.arange(len(MANY)), [c[i] for c in MANY]) for i in range(3)]
    return tuple("#" + "".join(f"{round(v):02x}" for v in rgb) for rgb in zip(*mixed, strict=True))


def _bar(
    row: Row, names: tuple[str, ...], colors: tuple[str, ...], y: int, step: int, scale: float
) -> list[str]:
    size, thick = min(12, step - 1), step - 2
    parts = [
        f"<text x='{LEFT - 6}' y='{y + step * 0.75:.1f}' font-size='{size}' "
        f"text-anchor='end'>{escape(_short(row.client))}</text>"
    ]
    start = float(LEFT)
    for name, color, n in zip(names, colors, row.counts, strict=True):
        if n:
            parts.append(
                f"<rect x='{start:.2f}' y='{y + 1}' width='{n * scale:.2f}' height='{thick}' "
                f"fill='{color}'><title>{escape(row.client)}: {n} of {escape(name)}</title></rect>"
            )
            start += n * scale
    parts.append(
        f"<text x='{start + 4:.2f}' y='{y + step * 0.75:.1f}' font-size='{size}' "
        f"fill='#555'>{row.examples}</text>"
    )
    return parts


def _legend(names: tuple[str, ...], colors: tuple[str, ...]) -> tuple[list[str], int]:
    """The legend in lines below the title, and where the bars may begin."""
    parts, x, y = [], 16.0, 40
    for name, color in zip(names, colors, strict=True):
        wide = 26 + 7.0 * len(_short(name))
        if x + wide > WIDTH - 16:
            x, y = 16.0, y + 20
        parts.append(f"<rect x='{x:.0f}' y='{y}' width='12' height='12' fill='{color}'/>")
        parts.append(
            f"<text x='{x + 17:.0f}' y='{y + 10}' font-size='12'>{escape(_short(name))}</text>"
        )
        x += wide
    return parts, y + 32


def _axis(most: int, scale: float, top: int, bottom: int) -> list[str]:
    """Light vertical lines at round numbers, with the numbers below."""
    raw = max(1.0, most / 6)
    unit = 10.0 ** np.floor(np.log10(raw))
    gap = int(unit * next(f for f in (1, 2, 5, 10) if f * unit >= raw))
    parts = []
    for value in range(0, most + 1, gap):
        x = LEFT + value * scale
        parts.append(f"<path d='M{x:.1f} {top}V{bottom}' stroke='#ddd'/>")
        parts.append(
            f"<text x='{x:.1f}' y='{bottom + 15}' font-size='11' fill='#555' "
            f"text-anchor='middle'>{value}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f"<text x='{middle:.0f}' y='{bottom + 34}' font-size='12' "
        f"text-anchor='middle'>training examples</text>"
    )
    return parts


def _counts(federation: Federation) -> NDArray[np.int64]:
    codes, classes = _codes(federation), len(labels(federation))
    parts = [np.bincount(codes[federation.parts[c]], minlength=classes) for c in federation.clients]
    return np.stack(parts)


def _codes(federation: Federation) -> NDArray[Any]:
    y = strata(federation.train.y)
    return y.astype(np.int64)


def _short(name: str) -> str:
    return name if len(name) <= 15 else name[:14] + "…"
