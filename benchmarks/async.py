"""The asynchronous family on MNIST by writer and on CIFAR-10 features, exponential speeds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import shoal
from features import WIDTH
from harness import Figure, at_least, at_most, finish, quick
from shoal.algorithms.fedat import tiers_by_speed
from studies import Result, Study, cifar, gap, missing, mnist_by_writer, table

STEPS, BATCH, BUFFER, CLIENTS, LEAST = 15, 10, 10, 50, 127
SECONDS, SHORT = (300.0, 300.0) if quick() else (1000.0, 250.0)
DEVICES = shoal.Devices(speed=shoal.Exponential(1.0), jitter=0.2)
Speeds = dict[str, float]
Method = Callable[[Any, Speeds], shoal.Algorithm]
METHODS: dict[str, tuple[Method, int]] = {  # with the commits from one evaluation to the next
    "FedAvg, everyone": (lambda t, s: shoal.fedavg(trainer=t), 1),
    "FedAvg, first 10 of 13": (
        lambda t, s: shoal.fedavg(len(s) * 10 // 13, over_selection=1.3, trainer=t), 1,
    ),
    "FedAsync, alpha 0.5": (lambda t, s: shoal.fedasync(0.5, trainer=t), 100),
    "FedBuff, K 10": (lambda t, s: shoal.fedbuff(BUFFER, trainer=t), 10),
    "Papaya, K 10, staleness 10": (
        lambda t, s: shoal.papaya(BUFFER, concurrency=len(s), tau_max=10, trainer=t), 10,
    ),
    "FedAT, 5 tiers": (lambda t, s: shoal.fedat(tiers_by_speed(s, 5), mu=0.0, trainer=t), 20),
    "FedFix, 15 s": (lambda t, s: shoal.fedfix(15.0, trainer=t), 1),
    "FedFix, 15 s, at once": (lambda t, s: shoal.fedfix(15.0, restart="immediate", trainer=t), 1),
    "FedCompass, 7 to 35 steps": (
        lambda t, s: shoal.fedcompass(trainer=t, min_steps=7, max_steps=35), 20,
    ),
    "AFA-CD, m 10": (lambda t, s: shoal.afa_cd(BUFFER, trainer=t, lr=STEPS * t.lr), 20),
    "AFA-CS, m 10": (
        lambda t, s: shoal.afa_cs(BUFFER, clients=len(s), trainer=t, lr=STEPS * t.lr), 20,
    ),
}  # fmt: skip
QUICK = ("FedAvg, everyone", "FedBuff, K 10", "FedFix, 15 s")


@dataclass(frozen=True)
class Task:
    """A data set with a network of one hidden layer.

    Attributes:
        name: of the data.
        data: as clients have them.
        features, hidden: widths.
        target: an accuracy.
        rates: to choose from; the first without a choice.
    """

    name: str
    data: Any
    features: int
    hidden: int
    target: float
    rates: tuple[float, ...]


def tasks() -> list[Task]:
    """Both."""
    return [
        Task("MNIST by writer", mnist_by_writer(LEAST), 784, 32, 0.9, (0.1, 0.3)),
        Task("CIFAR-10 features", cifar(CLIENTS, 0.3), WIDTH, 64, 0.5, (0.1, 0.03, 0.3)),
    ]


def experiment(name: str, task: Task, seconds: float, lr: float, seed: int) -> shoal.Experiment:
    """A method on a data set for some virtual seconds."""
    make, every = METHODS[name]
    speeds = {c: DEVICES.step_seconds(seed, c) for c in task.data.load(seed).clients}
    trainer = shoal.numpy.MLP(
        lr=lr, local_steps=STEPS, batch=BATCH, hidden=(task.hidden,), features=task.features,
        classes=10,
    )  # fmt: skip
    return shoal.Experiment(
        None, task.data, make(trainer, speeds), seconds=seconds, evaluate_every=every, seed=seed,
        devices=DEVICES,
    )  # fmt: skip


def study(kept: Study, task: Task) -> dict[str, Result]:
    """All methods on a data set."""
    found = {}
    for name in QUICK if quick() else METHODS:
        full, short = (partial(experiment, name, task, seconds) for seconds in (SECONDS, SHORT))
        lr = kept.tuned(f"{name}, {task.name}", short, task.rates)
        found[name] = kept.method(f"{name}, {task.name}", full, task.target, lr)
    return found


def figures(title: str, found: dict[str, Result]) -> list[Figure]:
    """What the papers claim; who misses the target took all the time."""
    waiting, buffered, fixed = (found[name] for name in QUICK)
    faster = min(waiting.time, SECONDS) / min(buffered.time, SECONDS)
    lost, _ = gap(waiting, buffered)
    above, seeds = gap(fixed, buffered)
    return [
        at_least(f"{title}: time to target, FedAvg over FedBuff", faster, "x", 1.5),
        at_most(f"{title}: accuracy lost by FedBuff to FedAvg", lost, "", 0.02),
        at_least(f"{title}: accuracy of FedFix above FedBuff", above, seeds, 0.0),
    ]


NOTES = f"""
Every client works all the time, in every method: FedFix, FedCompass and anarchic methods have no
cohorts, and so nobody has more workers than another. Seconds per local step are exponential over
clients with mean 1 s, with a jitter of 0.2 from task to task; {STEPS} steps on {BATCH} examples
(7 to 35 for FedCompass). MNIST: the writers of {LEAST} images or more, as they wrote them; 32
hidden units. CIFAR-10: the subset of 10,000 images by {WIDTH} fixed features
(benchmarks/features.py), {CLIENTS} clients, Dirichlet 0.3; 64 hidden units. {SECONDS:g} virtual
seconds, 3 seeds; a seed draws the speeds and the partition too. Learning rates are the best of
0.1 and 0.3 (MNIST; 0.03 was worse throughout the first methods) or 0.03, 0.1 and 0.3 (CIFAR-10) for
each method in {SHORT:g} s on another seed; for most it is the largest. AFA's server rate is
{STEPS} times the local one, which makes AFA-CD FedBuff without damping. *At once*: clients begin
anew at once in place of at the tick. Final accuracy is the mean over the last tenth of the time.

FedFix undoes the weight of fast clients, which shows where clients differ (CIFAR-10) and costs a
little where writers hardly do. An update counts at most one over all clients in FedCompass, which
makes it slow among so many.

No paper has these tables. The FedBuff paper reports up to 3.3 times faster than synchronous rounds
at a concurrency of up to 1000 (from memory, not verified).
"""


def main() -> None:
    """Run the studies and write the page."""
    if missing(["mnist_idx", "mnist_writers.npz", "cifar10_subset.npz"]):
        finish("async", "Asynchronous methods", "The data sets are not here.", [])
        return
    kept, text, done = Study("async"), "", []
    for task in tasks():
        found = study(kept, task)
        text += f"## {task.name}, to {task.target:.0%}\n\n{table(found)}\n\n"
        done += figures(task.name, found)
    finish("async", "Asynchronous methods", text + NOTES, done)


if __name__ == "__main__":
    main()
