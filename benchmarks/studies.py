"""What studies of methods share: runs over seeds that can be resumed, and a table of means.

Every run leaves one JSON line in `runs/studies/NAME.jsonl`, under a digest of its settings: a study
that is started again computes what is missing, and what has changed.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from math import inf
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import shoal
from features import features
from harness import ROOT, data_directory, quick

TUNING = 100  # the seed that learning rates are chosen on; results are of the seeds 0, 1, 2
Make = Callable[[float, int], shoal.Experiment]  # a method at a learning rate, of a seed


@dataclass(frozen=True)
class Run:
    """One run: virtual seconds to the target (inf if missed), and final accuracy."""

    seconds: float
    accuracy: float


@dataclass(frozen=True)
class Result:
    """One method over seeds, at the learning rate that was chosen for it."""

    runs: tuple[Run, ...]
    lr: float = 0.0

    @property
    def time(self) -> float:
        """The mean time to the target; inf if a seed missed it."""
        return mean(run.seconds for run in self.runs)

    @property
    def final(self) -> float:
        """The mean final accuracy."""
        return mean(run.accuracy for run in self.runs)


class Study:
    """Runs by name; a quick study keeps nothing."""

    def __init__(self, name: str) -> None:
        folder = Path(os.environ.get("SHOAL_STUDIES", ROOT / "runs" / "studies"))
        self.path, self.known = folder / f"{name}.jsonl", dict[str, list[float]]()
        if not quick() and self.path.is_file():
            for line in self.path.read_text("utf-8").splitlines():
                found = json.loads(line)
                self.known[found["digest"]] = found["values"]

    def seeds(self) -> range:
        """One in a quick study."""
        return range(1 if quick() else 3)

    def remember(
        self, case: str, experiment: shoal.Experiment, compute: Callable[[], list[float]]
    ) -> list[float]:
        """What comes of an experiment, computed or known."""
        settings = re.sub(r" at 0x[0-9a-f]+", "", f"{case} {experiment!r}")
        digest = blake2s(settings.encode(), digest_size=8).hexdigest()
        if digest not in self.known:
            began = time.perf_counter()
            self.known[digest] = compute()
            took = round(time.perf_counter() - began, 1)
            line = {"digest": digest, "case": case, "seed": experiment.seed}
            self.add({**line, "values": self.known[digest], "took": took})
        return self.known[digest]

    def add(self, line: Mapping[str, Any]) -> None:
        """Keep a line."""
        if quick():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def run(self, case: str, experiment: shoal.Experiment, target: float) -> Run:
        """One run."""
        return Run(
            *self.remember(f"{case} {target}", experiment, lambda: measured(experiment, target))
        )

    def tuned(self, case: str, make: Make, rates: Sequence[float]) -> float:
        """The learning rate with the highest final accuracy on the seed for that."""
        if len(rates) == 1 or quick():
            return rates[0]
        finals = {lr: self.run(f"{case}, lr {lr:g}", make(lr, TUNING), 1.0) for lr in rates}
        return max(rates, key=lambda lr: finals[lr].accuracy)

    def method(self, case: str, make: Make, target: float, lr: float) -> Result:
        """A method over seeds, at a learning rate."""
        runs = [self.run(case, make(lr, seed), target) for seed in self.seeds()]
        return Result(tuple(runs), lr)


def measured(experiment: shoal.Experiment, target: float) -> list[float]:
    """Simulate: seconds to the target, and the mean accuracy over the last tenth of the time.

    Products of small matrices gain nothing from several threads of BLAS, and lose much where
    others compute as well.
    """
    reached, points = inf, []
    with threadpool_limits(1, "blas"):
        for point in shoal.simulate(experiment):
            accuracy = point.metrics["accuracy"]
            points.append((point.time, accuracy))
            if reached == inf and accuracy >= target:
                reached = point.time
    late = [accuracy for at, accuracy in points if at >= 0.9 * points[-1][0]]
    return [reached, mean(late)]


def table(results: Mapping[str, Result], **more: Mapping[str, str]) -> str:
    """Rows of mean and spread; `more` columns by their title, of cells by method."""
    titles = ["method", "learning rate", "virtual seconds to target", "final accuracy", *more]
    rows = [titles, ["---"] * len(titles)]
    for name, result in results.items():
        seconds = spread([run.seconds for run in result.runs], 4)
        final = spread([run.accuracy for run in result.runs], 3)
        cells = [column.get(name, "") for column in more.values()]
        rows.append([name, f"{result.lr:g}", seconds, final, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation; or how often there was no value."""
    if inf in values:
        return f"missed by {values.count(inf)} of {len(values)}"
    around = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}g}{around}"


def gap(a: Result, b: Result) -> tuple[float, str]:
    """By how much a's final accuracy is above b's in the mean, and for how many seeds."""
    gaps = [x.accuracy - y.accuracy for x, y in zip(a.runs, b.runs, strict=True)]
    return mean(gaps), f"in {sum(gap > 0 for gap in gaps)} of {len(gaps)} seeds"


def mnist_by_writer(least: int) -> Any:
    """MNIST's training images by the person who wrote them, of those who wrote so many."""
    folder = data_directory()
    return shoal.data.idx(
        str(folder / "mnist_idx"), keys=str(folder / "mnist_writers.npz"), key="writer_train",
        clients=0, partition=shoal.data.natural(min_size=least),
    )  # fmt: skip


def cifar(clients: int, alpha: float) -> Any:
    """The CIFAR-10 subset by fixed features, cut by Dirichlet's distribution."""
    path = str(features(data_directory() / "cifar10_subset.npz"))
    return shoal.data.npz(path, clients=clients, partition=shoal.data.dirichlet(alpha=alpha))


def fashion(clients: int, alpha: float) -> Any:
    """Fashion-MNIST, cut by Dirichlet's distribution."""
    path, split = data_directory() / "fashion_mnist_resplit.npz", shoal.data.dirichlet(alpha=alpha)
    return shoal.data.npz(str(path), clients=clients, partition=split, scale=1 / 255)


def missing(names: Iterable[str]) -> list[str]:
    """Data sets that are not here."""
    return [name for name in names if not (data_directory() / name).exists()]
