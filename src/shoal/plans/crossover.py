"""Where one kind of plan becomes cheaper than another, and the sentences that say so.

G* = sqrt(b (m - 1) (put + get) / (2 p [(N + 2A - 1) / N - (N + 1) / (N m)]))     tree to shards
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from shoal.plans.predict import KINDS, Candidate, Workload, predict, shapes
from shoal.plans.prices import Platform, Prices
from shoal.plans.quantities import bytes_text

POINTS = 25
DECADES = 2.0  # of model sizes, either side of the workload's


def cheapest(
    model_bytes: float, workload: Workload, platform: Platform, prices: Prices
) -> dict[str, Candidate]:
    """The cheapest usable candidate of each kind for a model of another size."""
    load = replace(workload, model_bytes=model_bytes)
    best: dict[str, Candidate] = {}
    for shape in shapes(load, platform):
        found = predict(shape, load, platform, prices)
        if not found.problem:
            other = best.get(shape.kind)
            if other is None or found.dollars < other.dollars:
                best[shape.kind] = found
    return best


def sizes(workload: Workload) -> list[float]:
    """Model sizes around the workload's, evenly on a logarithmic scale, itself in the middle."""
    steps = [2 * DECADES * (i / (POINTS - 1) - 0.5) for i in range(POINTS)]
    return [max(4.0, workload.model_bytes * 10.0**step) for step in steps]


def crossovers(
    workload: Workload, platform: Platform, prices: Prices
) -> tuple[tuple[float, str, str], ...]:
    """Model sizes at which another kind becomes the cheapest: size, kind below, kind above."""

    def leader(size: float) -> str:
        best = cheapest(size, workload, platform, prices)
        return min(best, key=lambda kind: (best[kind].dollars, KINDS.index(kind)), default="")

    found = []
    grid = sizes(workload)
    names = [leader(size) for size in grid]
    for low, high, below, above in zip(grid, grid[1:], names, names[1:], strict=False):
        if below != above and below and above:
            for _ in range(7):
                middle = (low * high) ** 0.5
                if leader(middle) == below:
                    low = middle
                else:
                    high = middle
            found.append((high, below, leader(high)))
    return tuple(found)


def between(
    a: Candidate, b: Candidate, workload: Workload, platform: Platform, prices: Prices
) -> float:
    """The model size in bytes at which two shapes, as they are, cost the same; infinite if none.

    Ceilings are left out: this is where the lines cross, not where one ends.
    """

    def gap(size: float) -> float:
        load = replace(workload, model_bytes=size)
        first, second = (predict(c.shape, load, platform, prices) for c in (a, b))
        return first.dollars - second.dollars

    low, high = 1e4, 1e13
    if gap(low) * gap(high) >= 0:
        return inf
    rising = gap(high) > 0
    for _ in range(60):
        middle = (low * high) ** 0.5
        if (gap(middle) > 0) == rising:
            high = middle
        else:
            low = middle
    return high


def explain(
    winner: Candidate,
    rows: Sequence[Candidate],
    crossed: Sequence[tuple[float, str, str]],
    workload: Workload,
) -> tuple[str, ...]:
    """Why the winner wins, and where it would not."""
    name = f"{winner.shape.name}, {winner.shape.trigger}"
    said = [
        f"{name} wins: ${winner.dollars:.4g} a round, {winner.latency:,.1f} s, "
        f"{bytes_text(winner.memory)} a worker in {winner.use.functions:,} folds."
    ]
    same = [r for r in rows if r.shape.kind == winner.shape.kind and r.shape != winner.shape]
    others = [r for r in rows if r.shape.kind != winner.shape.kind]
    usable = [r for r in others if not r.problem]
    if usable:
        next_ = min(usable, key=lambda r: r.dollars)
        ratio = next_.dollars / winner.dollars if winner.dollars else inf
        percent = f"{100 * (ratio - 1):.1f} % more" if ratio < 1.5 else f"{ratio:.2f} times as much"
        more = percent if ratio < inf else "more"
        said.append(
            f"The next kind, {next_.shape.name}, {next_.shape.trigger}, costs {more}: "
            f"{_why(winner, next_)}."
        )
    for kind in KINDS:
        out = [r for r in others if r.shape.kind == kind]
        if out and all(r.problem for r in out):
            said.append(f"{kind} is out: {_even(out[0])}{out[0].problem}.")
    for row in same:
        if row.shape.trigger == "eager" and not row.problem and winner.shape.trigger == "at":
            said.append(
                f"Started at its time instead of at the first arrival, a leaf is billed for less "
                f"waiting: {row.dollars / winner.dollars:.2f} times less."
            )
    for size, below, above in crossed:
        said.append(f"Cross-over at {bytes_text(size)}: {below} below it, {above} above.")
    if not crossed:
        low, high = (bytes_text(workload.model_bytes * f) for f in (10**-DECADES, 10**DECADES))
        said.append(f"No cross-over between {low} and {high}.")
    return tuple(said)


def _why(winner: Candidate, other: Candidate) -> str:
    requests = [c.use.puts + c.use.gets for c in (winner, other)]
    compute = [c.use.byte_seconds for c in (winner, other)]
    if compute[1] > compute[0] and requests[1] > requests[0]:
        return "it needs more memory times seconds and more requests"
    if compute[1] > compute[0]:
        return f"it needs {compute[1] / compute[0]:.2f} times the memory times seconds"
    return f"it makes {requests[1]:,} requests instead of {requests[0]:,}"


def _even(row: Candidate) -> str:
    return "it " if row.shape.kind == "flat" else f"even {row.shape.name} "
