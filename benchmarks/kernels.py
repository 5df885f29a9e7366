"""How fast updates that lie in memory are folded, against reading them and against other ways.

All contestants take turns within each round, and ratios are those of one round, so that other work
on the machine hits them alike. Needs about 6 GB of memory.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness import Figure, at_least, finish, quick
from shoal import kernels
from shoal.kernels import portable

Array = NDArray[Any]
# Values of an update, number of updates, least share of the bandwidth of reading.
CASES = ((100_000, 1000, 0.70), (10_000_000, 10, 0.70), (10_000_000, 100, 0.70),
         (100_000_000, 10, 0.85))  # fmt: skip
ROUNDS = 3 if quick() else 9
SMALLER = 10 if quick() else 1  # a quick run has shorter updates, under the same names
POOL = ThreadPoolExecutor(2)


def both_halves(read: Callable[[Array], object], values: Array) -> None:
    """Read all values with two threads."""
    half = values.size // 2
    list(POOL.map(read, (values[:half], values[half:])))


def contestants(values: Array, count: int) -> dict[str, Callable[[], object]]:
    """What is done with `count` updates that lie behind one another."""
    rows = list(values.reshape(count, -1))
    weights = [float(1 + i % 7) for i in range(count)]
    size = rows[0].size
    total, fixed, other = np.zeros(size, np.float32), np.zeros(size, np.int64), torch.zeros(size)
    tensors = [torch.from_numpy(row) for row in rows]

    def by_torch() -> None:
        for tensor, weight in zip(tensors, weights, strict=True):
            other.add_(tensor, alpha=weight)

    def one_at_a_time() -> None:
        for row, weight in zip(rows, weights, strict=True):
            kernels.fold(total, [row], [weight])

    units = [weight * 2.0**40 for weight in weights]

    return {
        "sum": lambda: both_halves(np.sum, values),
        "dot": lambda: both_halves(lambda x: np.dot(x, x), values),
        "fold": lambda: kernels.fold(total, rows, weights),
        "exact": lambda: kernels.fold_exact(fixed, rows, units),
        "one at a time": one_at_a_time,
        "torch.add_": by_torch,
        "NumPy kernels": lambda: portable.fold(total, rows, weights),
    }


def rounds(cases: dict[str, Callable[[], object]]) -> list[dict[str, float]]:
    """Seconds of each contestant in each round; a first one, to warm up, is not counted."""
    found = []
    for _ in range(ROUNDS + 1):
        seconds = {}
        for name, work in cases.items():
            began = time.perf_counter()
            work()
            seconds[name] = time.perf_counter() - began
        found.append(seconds)
    return found[1:]


def ratio(found: Sequence[dict[str, float]], slow: str, fast: str) -> float:
    """How many times less time `fast` takes: the median over rounds."""
    return statistics.median(seconds[slow] / seconds[fast] for seconds in found)


def case(buffer: Array, size: int, count: int, least: float) -> tuple[list[Figure], str]:
    """The figures of one case, and a row with everybody's gigabytes per second."""
    values = buffer[: size // SMALLER * count]
    found = rounds(contestants(values, count))
    title = f"D = {size:.0e}, {count} updates".replace("e+0", "e")
    figures = [
        at_least(f"float mean, {title}", ratio(found, "sum", "fold"), "of a plain sum", least),
        at_least(f"exact mean, {title}", ratio(found, "fold", "exact"), "of the float mean", 0.5),
    ]
    rates = [statistics.median(values.nbytes / s[name] / 1e9 for s in found) for name in found[0]]
    share = ratio(found, "dot", "fold")
    return figures, f"| {title} | {' | '.join(f'{r:.1f}' for r in rates)} | {share:.2f} |"


def codecs(buffer: Array) -> str:
    """Rates of folding ten encoded updates, in values and in bytes of payload, and of a commit."""
    size, count = 10_000_000 // SMALLER, 10
    rows = list(buffer[: size * count].reshape(count, size))
    total, out = np.zeros(size, np.float32), np.zeros(size, np.float32)
    scales = np.full(-(-size // 512), 0.01, np.float32)
    index = np.arange(0, size, 100)
    sources: dict[str, tuple[list[kernels.Source], int]] = {
        "float16": ([kernels.Half(r.astype(np.float16).view(np.uint16), "f16") for r in rows], 2),
        "bfloat16": ([kernels.Half(r.view(np.uint16)[1::2].copy(), "bf16") for r in rows], 2),
        "int8 in blocks of 512": (
            [kernels.Codes((r * 40).clip(-127, 127).astype(np.int8), scales, 512) for r in rows], 1
        ),
        "1 % at 64-bit indices": ([kernels.Pairs(index, r[index]) for r in rows], 0),
    }  # fmt: skip
    work: dict[str, Callable[[], object]] = {
        name: partial(kernels.fold, total, given, [1.0] * count)
        for name, (given, _) in sources.items()
    }
    work["commit"] = lambda: kernels.commit(rows[0], total, 3.0, 0.5, out)
    work["commit, NumPy kernels"] = lambda: portable.commit(rows[0], total, 3.0, 0.5, out)
    found = rounds(work)
    seconds = {name: statistics.median(s[name] for s in found) for name in work}
    lines = []
    for name, (_, width) in sources.items():
        moved = (width or 0.12) * size * count
        line = f"{size * count / seconds[name] / 1e9:.1f} billion values/s"
        lines.append(f"- {name}: {line}, {moved / seconds[name] / 1e9:.1f} GB/s of payload")
    lines += [f"- {name}: {seconds[name] * 1e3:.1f} ms" for name in work if name not in sources]
    return "\n".join(lines)


def main() -> None:
    """Measure everything and write the page."""
    total = max(size // SMALLER * count for size, count, _ in CASES)
    pattern = np.random.default_rng(0).standard_normal(1_000_003, dtype=np.float32) * 0.01
    buffer = np.resize(pattern, total)
    figures, lines = [], []
    for size, count, least in CASES:
        some, line = case(buffer, size, count, least)
        figures += some
        lines.append(line)
    names = "sum | dot | fold | exact | one at a time | torch.add_ | NumPy kernels"
    table = "\n".join(lines)
    text = f"""
{kernels.about()}; medians of {ROUNDS} rounds.

Gigabytes of updates per second. *sum* is `numpy.sum` over both halves of the same bytes in two
threads; *dot* is the dot product of the same halves with themselves, the fastest reader found here;
the last column is the fold's share of that. *one at a time* gives our kernel one update a
call, as `torch.add_` has to.

| updates | {names} | fold / dot |
|---|{"---|" * 8}
{table}

Ten updates of 10 million values, encoded:

{codecs(buffer)}
"""
    finish("kernels", "Folding kernels", text, figures)


if __name__ == "__main__":
    main()
