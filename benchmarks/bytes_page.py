"""What is read from the runs of the study of bytes: means, a table and a plot."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # lines of a method, one for each seed
LAST = 5  # evaluations that make a final accuracy
ABOUT = """\
Bytes up are those that the records of a run count for each update, headers included; a line of a
table is the mean over seeds, ± their standard deviation, and a final accuracy is the mean of the
last five evaluations. DGC and the uncompressed run with momentum that it is held against take more
rounds than the others: a value of which a thousandth or so is sent in each round comes late.
"""


def ends(own: Sequence[Mapping[str, Any]]) -> list[float]:
    """The final accuracy of each seed."""
    return [mean(point[1] for point in one["points"][-LAST:]) for one in own]


def final(own: Sequence[Mapping[str, Any]]) -> float:
    """The mean final accuracy."""
    return mean(ends(own))


def kilobytes(own: Sequence[Mapping[str, Any]]) -> float:
    """Sent up by one place in every round of a whole run."""
    return mean(float(one["points"][-1][0]) for one in own) / 1e3


def accuracy_at(own: Sequence[Mapping[str, Any]], most: float) -> float:
    """The mean accuracy once so many kilobytes are sent: on a line between evaluations."""
    found = []
    for one in own:
        x, y = np.array([point[:2] for point in one["points"]]).T
        if most >= 0.999e-3 * x[-1]:
            return final(own)
        found.append(float(np.interp(np.log(most * 1e3), np.log(x), y)))
    return mean(found)


def table(runs: Runs, rounds: Mapping[str, int]) -> str:
    """A row for each method."""
    whole = kilobytes(runs["uncompressed"]) / rounds["uncompressed"]
    rows = [
        "| method | rounds | kB up, an update | times fewer | accuracy, % | test loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in runs.items():
        found = [100 * one for one in ends(own)]
        around = f" ± {stdev(found):.2f}" if len(found) > 1 else ""
        loss = mean(mean(point[2] for point in one["points"][-LAST:]) for one in own)
        up = kilobytes(own) / rounds[name]
        broken = sum(one.get("rejected", 0) > 0 for one in own)
        shown = f"{name} ({broken} of {len(own)} diverged)" if broken else name
        rows.append(f"| {shown} | {rounds[name]} | {up:,.2f} | {whole / up:,.1f} | "
                    f"{mean(found):.2f}{around} | {loss:.3f} |")  # fmt: skip
    return "\n".join(rows)


def picture(task: str, runs: Runs) -> str:
    """Accuracy over kilobytes, logarithmic, each line the mean over seeds, as SVG."""
    curves = {name: _mean_curve(own) for name, own in runs.items()}
    low = min(np.log10(xy[0, 0]) for xy in curves.values())
    high = max(np.log10(xy[-1, 0]) for xy in curves.values())
    top = 5 * np.ceil(20 * max(xy[:, 1].max() for xy in curves.values()))

    def place(x: float, y: float) -> tuple[float, float]:
        return 60 + 520 * (x - low) / (high - low), 370 - 340 * 100 * y / top

    parts = list[str]()
    for power in range(int(np.ceil(low)), int(high) + 1):
        x, y = place(power, 0)
        parts.append(_line(x, 30, x, y))
        parts.append(f'<text x="{x:.0f}" y="386" text-anchor="middle">{10.0**power:,g}</text>')
    for percent in range(0, int(top) + 1, 10):
        x, y = place(low, percent / 100)
        parts.append(_line(x, y, 580, y))
        parts.append(f'<text x="54" y="{y + 4:.0f}" text-anchor="end">{percent}</text>')
    for at, (name, xy) in enumerate(curves.items()):
        color = f"hsl({at * 360 // len(curves)} 75% {35 + 15 * (at % 2)}%)"
        dash = ' stroke-dasharray="5 3"' if at % 3 == 1 else ""
        path = " ".join("{:.1f},{:.1f}".format(*place(np.log10(x), y)) for x, y in xy)
        parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.6"{dash} '
                     f'points="{path}"/>')  # fmt: skip
        y = 40 + 18 * at
        parts.append(f'<path d="M594 {y}h24" stroke="{color}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="624" y="{y + 4}">{name}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 410" font-size="12" '
        'font-family="sans-serif"><rect width="800" height="410" fill="#fff"/>'
        f"<title>{task}: accuracy over bytes up</title>{''.join(parts)}"
        '<text x="320" y="404" text-anchor="middle">kB up, one place in every round</text>'
        f'<text x="60" y="18">{task}: test accuracy, %</text></svg>\n'
    )


def _line(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" stroke="#ddd"/>'


def _mean_curve(own: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    points = [[point[:2] for point in one["points"]] for one in own]
    xy: NDArray[np.float64] = np.array(points, np.float64).mean(axis=0)
    xy[:, 0] /= 1e3
    return xy
