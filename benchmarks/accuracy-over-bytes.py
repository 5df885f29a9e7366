"""Accuracy over the bytes that were sent up: every method of compression on real data.

MNIST by its writers, the CIFAR-10 subset and characters of Shakespeare's roles. Bytes are those of
the records. Every finished run is a line of runs/accuracy-over-bytes.jsonl and is not repeated: the
study can be stopped and goes on where it was. Needs SHOAL_DATA or shared/data beside the project;
what is missing there is left out, and said so.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import shoal
from bytes_deep import ratios
from bytes_page import ABOUT, Runs, accuracy_at, final, kilobytes, picture, table
from bytes_tasks import FILES, LOADERS, MODELS, TITLES, Data, size
from harness import RESULTS, ROOT, Figure, at_least, data_directory, finish, quick
from shoal import wire
from shoal.algorithms import fedavg
from shoal.combinators import until
from shoal.core import Algorithm, Context, Transform, chain
from shoal.messages import CommitRecord, TaskRecord
from shoal.node import Node
from shoal.planes import Local
from shoal.simulation import Devices
from shoal.tensors import Tensors
from shoal.transforms import (
    DGC,
    Entropy,
    ErrorFeedback,
    FedZip,
    LGreCo,
    Momentum,
    PerTensor,
    Quantize,
    RandK,
    TopK,
)  # fmt: skip
from shoal.transports import Simulator, steps

SEEDS = (0,) if quick() else (0, 1, 2)
SHARE, ETA = 0.01, 0.3  # of what is kept; of the error that EControl compensates
FRACTIONS = tuple(SHARE * 2.0**i for i in range(-4, 5))
RATES = {"mnist": 0.3, "cifar": 0.05, "shakespeare": 2.0}  # of local steps
DRIFT = {
    "mnist": 0.05,
    "cifar": 0.02,
    "shakespeare": 0.3,
}  # with control variates: above, c_i explode
SLOWER = {"mnist": 0.1, "cifar": 0.04, "shakespeare": 0.6}  # with a momentum of 0.9
SPARSE = {"mnist": 0.05, "cifar": 0.02, "shakespeare": 0.3}  # with DGC's
DGCS = {
    "mnist": DGC(0.003, clip=1.0, clients=10, warmup=4, every=1),
    "cifar": DGC(0.004, clip=1.0, clients=10, warmup=4, every=1),
    "shakespeare": DGC(0.003, clip=3.0, clients=10, warmup=4, every=1, vectors=False),
}
LONG = ("uncompressed, momentum", "DGC", "DGC, 5 %")
LINES = ROOT / "runs" / "accuracy-over-bytes.jsonl"
Weight = tuple[int, float, Sequence[int], Sequence[float]]


@dataclass(frozen=True)
class Weighed:
    """A codec whose bytes and error are compared with those of uniform rates for the same values.

    Attributes:
        codec: what is applied.
        seen: bytes and error of the codec, then of each of `FRACTIONS`, in every fortieth call.
    """

    codec: Transform[Any]
    seen: list[Weight] = field(default_factory=list, compare=False, repr=False)

    def init(self, model: Tensors) -> tuple[Any, int]:
        """The codec's, and how often it was called."""
        return self.codec.init(model), 0

    def apply(
        self, value: Tensors, state: tuple[Any, int], ctx: Context
    ) -> tuple[Tensors, tuple[Any, int]]:
        """What the codec makes of the value."""
        sent, inner = self.codec.apply(value, state[0], ctx)
        if state[1] % 40 == 39:
            others = [_one(PerTensor(TopK(f)), value, ctx) for f in FRACTIONS]
            found = [_weight(one, value) for one in (sent, *others)]
            (nbytes, error), rest = found[0], found[1:]
            self.seen.append((nbytes, error, [b for b, _ in rest], [e for _, e in rest]))
        return sent, (inner, state[1] + 1)


def _one(codec: Transform[Any], value: Tensors, ctx: Context) -> Tensors:
    return codec.apply(value, codec.init(value), ctx)[0]


def _weight(sent: Tensors, value: Tensors) -> tuple[int, float]:
    lost = value.dense.astype(np.float64) - sent.dense
    return wire.size(sent), float(lost @ lost)


def gains(seen: Sequence[Weight]) -> float:
    """Bytes of uniform rates that lose as much as the codec did, over the codec's: the median."""
    found = []
    for nbytes, error, sizes, errors in seen:
        order = np.argsort(errors)
        uniform = np.interp(error, np.array(errors)[order], np.log(np.array(sizes))[order])
        found.append(float(np.exp(uniform)) / nbytes)
    return float(np.median(found)) if found else 1.0


@dataclass(frozen=True)
class Job:
    """One run."""

    task: str
    method: str
    seed: int


def methods(task: str, clients: int) -> dict[str, Algorithm]:
    """Every contestant, by name; those of one share send about equally many bytes."""
    shape = size(task)
    trainer = shoal.torch.SGD(
        lr=RATES[task], local_steps=shape.steps, batch=shape.batch, device="cpu",
        backend="sequential",
    )  # fmt: skip
    drift, stride = replace(trainer, lr=DRIFT[task]), DRIFT[task] * shape.steps

    def sent(upload: Transform[Any]) -> Algorithm:
        return fedavg(shape.cohort, trainer=trainer, weighting="equal", upload=upload)

    def at(rate: float, upload: Transform[Any], optimizer: Transform[Any] = chain()) -> Algorithm:
        local = replace(trainer, lr=rate)
        return fedavg(shape.cohort, trainer=local, weighting="equal", upload=upload,
                      optimizer=optimizer)  # fmt: skip

    entropy, short = Entropy(), Quantize(8, block=64)
    top = chain(TopK(SHARE), Quantize(8, stochastic=False))
    options = tuple(TopK(f) for f in FRACTIONS)
    planned = Weighed(LGreCo(options, default=4, every=1))
    coded: Any = {"population": clients, "trainer": trainer, "lossless": entropy}
    drifting: Any = {**coded, "trainer": drift}
    denser = {} if task == "mnist" else {
        "DGC, 5 %": at(SPARSE[task], chain(replace(DGCS[task], fraction=0.05), short, entropy)),
    }  # fmt: skip
    return {
        "uncompressed": sent(chain()),
        "uncompressed, momentum": at(SLOWER[task], chain(), Momentum(0.9)),
        "DGC": at(SPARSE[task], chain(DGCS[task], short, entropy)),
        **denser,
        "top-k, no feedback": sent(chain(top, entropy)),
        "top-k, error feedback": sent(chain(ErrorFeedback(top), entropy)),
        "EF21": shoal.ef21(shape.cohort, codec=top, **coded),
        "EControl": shoal.econtrol(shape.cohort, codec=top, eta=ETA, **coded),
        "FedZip": sent(PerTensor(FedZip(0.05))),
        "uniform rates": sent(ErrorFeedback(PerTensor(options[4]))),
        "L-GreCo": sent(ErrorFeedback(planned)),
        "SCAFFOLD": shoal.scaffold(shape.cohort, trainer=drift, population=clients),
        "SCALLION": shoal.scallion(
            shape.cohort, codec=RandK(0.1), alpha=0.1, stride=stride, **drifting
        ),
        "SCAFCOM": shoal.scafcom(shape.cohort, codec=top, beta=0.5, stride=stride, **drifting),
    }  # fmt: skip


def commits(job: Job) -> int:
    """Rounds of a run."""
    shape = size(job.task)
    return shape.long if job.method in LONG else shape.rounds


@cache
def data(task: str) -> Data:
    """A task's clients and its test set; read once in a process."""
    return LOADERS[task](size(task))


def shown(rounds: int) -> set[int]:
    """Versions that are measured: ever fewer, as the axis of bytes is logarithmic; five at last."""
    early = {round(1.5**i) for i in range(40) if 1.5**i < rounds}
    return early | {rounds - i * max(1, rounds // 40) for i in range(5)} - {0}


def run(job: Job) -> dict[str, Any]:
    """The line of a run: bytes up so far, for each place in a round, accuracy and loss."""
    torch.set_num_threads(1)
    began = time.monotonic()
    clients, held = data(job.task)
    algorithm, shape = methods(job.task, len(clients))[job.method], size(job.task)
    trainer = algorithm.trainer.bind(MODELS[job.task])
    algorithm, rounds = replace(algorithm, trainer=trainer), commits(job)
    plane = Local(algorithm.aggregator, algorithm.optimizer, job.seed)
    node = Node(until(algorithm.coordinator, commits=rounds), plane, trainer.initial(job.seed),
                job.seed)  # fmt: skip
    simulator = Simulator(algorithm, clients, Devices(), seed=job.seed)
    points, up, down, rejected, measured = [], 0, 0, 0, shown(rounds)
    for effects in steps(node, simulator):
        if rejected > 5 * shape.cohort:
            break  # NaN: no round would ever end
        for effect in effects:
            if isinstance(effect, TaskRecord):
                up, down = up + effect.bytes_up, down + effect.bytes_down
                rejected += effect.outcome == "rejected"
            elif isinstance(effect, CommitRecord) and effect.version in measured:
                found = trainer.evaluate(node.model, held)
                points.append((up / shape.cohort, found["accuracy"], found["loss"]))
    points += points[-1:] * (len(measured) - len(points))
    return {
        "task": job.task, "method": job.method, "seed": job.seed, "key": key(job),
        "points": points, "rejected": rejected, "down": down / shape.cohort,
        "gain": gains(_seen(algorithm.upload)),
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _seen(upload: Any) -> list[Weight]:
    """What a `Weighed` in a pipeline has seen."""
    if isinstance(upload, Weighed):
        return upload.seen
    inner = getattr(upload, "transforms", ()) or (getattr(upload, "codec", None),)
    return [one for part in inner if part is not None for one in _seen(part)]


def key(job: Job) -> str:
    """What a run's result depends on, beside the library: another setting is another run."""
    algorithm = methods(job.task, size(job.task).clients)[job.method]
    shape = replace(size(job.task), rounds=commits(job), long=0)
    text = f"{algorithm!r} {shape!r} {MODELS[job.task]()!r} {job.seed}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lines(path: Path) -> dict[str, dict[str, Any]]:
    """Finished runs, by their key; a last line that was cut off is left out."""
    found = {}
    for text in path.read_text("utf-8").splitlines() if path.exists() else ():
        if text.endswith("}"):
            one = json.loads(text)
            found[one["key"]] = one
    return found


def complete(jobs: Sequence[Job], path: Path, work: Callable[[Job], dict[str, Any]] = run) -> None:
    """Do what is missing in the file of lines, two at a time with one thread each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = lines(path)
    missing = [job for job in jobs if key(job) not in there]
    for name in ("SHOAL_KERNEL_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # of the processes that are started now
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(work, job) for job in missing]):
            line = done.result()
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line["task"], line["method"], line["seed"], line["seconds"], "s",
                  f"{line['points'][-1][1]:.4f}", file=sys.stderr)  # fmt: skip


def figures(task: str, runs: Runs) -> Iterator[Figure]:
    """What the methods promise."""
    end = {name: 100 * final(own) for name, own in runs.items()}
    up = {name: kilobytes(own) for name, own in runs.items()}
    best = max(end["uncompressed"], end["uncompressed, momentum"])
    fewer = up["uncompressed, momentum"] / up["DGC"]
    yield at_least(f"{task}: DGC, times fewer bytes, warm-up included", fewer, "x", 270)
    yield at_least(f"{task}: DGC over uncompressed", end["DGC"] - best, "points", -0.5)
    for name in ("EF21", "EControl"):
        for other in ("top-k, no feedback", "top-k, error feedback"):
            least = min(up[name], up[other])
            more = accuracy_at(runs[name], least) - accuracy_at(runs[other], least)
            text = f"{task}: {name} over {other} at equal bytes"
            yield at_least(text, 100 * more, "points", 0 if "no" in other else -0.5)
    gain = float(np.mean([one["gain"] for one in runs["L-GreCo"]]))
    yield at_least(f"{task}: L-GreCo, times smaller than uniform rates", gain, "x", 1.5)
    yield at_least(f"{task}: L-GreCo over uniform rates", end["L-GreCo"] - end["uniform rates"],
                   "points", -0.5)  # fmt: skip
    more = end["SCALLION"] - 100 * accuracy_at(runs["SCAFFOLD"], up["SCALLION"])
    yield at_least(f"{task}: SCALLION over SCAFFOLD at equal bytes", more, "points", 0)


def report(task: str, runs: Runs) -> str:
    """A task's part of the page; the plot lies beside it."""
    if not quick():
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"accuracy-over-bytes-{task}.svg"
        path.write_text(picture(task, runs), "utf-8")
    shape, rounds = size(task), {name: commits(Job(task, name, 0)) for name in runs}
    parameters = sum(p.numel() for p in MODELS[task]().parameters())
    return (
        f"## {TITLES[task]}\n\n{parameters:,} parameters; {shape.clients} clients of at most "
        f"{shape.rows} examples, {shape.cohort} in a round; {shape.steps} local steps on "
        f"{shape.batch} examples; {shape.tested:,} for tests. Rates of local steps: "
        f"{RATES[task]}, with control variates {DRIFT[task]}, with momentum {SLOWER[task]}, with "
        f"DGC {SPARSE[task]}.\n\n"
        f"{table(runs, rounds)}\n\n"
        f"![{task}: accuracy over bytes](accuracy-over-bytes-{task}.svg)"
    )


def main() -> None:
    """Run every method on every task, and report."""
    tasks = [task for task in MODELS if not (quick() and task == "cifar")]
    for task in [t for t in tasks if not (data_directory() / FILES[t]).exists()]:
        print(f"{task} is left out: no {FILES[task]} in {data_directory()}", file=sys.stderr)
        tasks.remove(task)
    jobs = [Job(task, method, seed) for task in tasks for seed in SEEDS
            for method in methods(task, size(task).clients)]  # fmt: skip
    with TemporaryDirectory() as folder:
        path = Path(folder) / LINES.name if quick() else LINES
        complete(jobs, path)
        there = lines(path)
    results: Mapping[str, dict[str, list[Any]]] = {task: {} for task in tasks}
    for job in jobs:
        results[job.task].setdefault(job.method, []).append(there[key(job)])
    found = [figure for task in tasks for figure in figures(task, results[task])]
    large, more = ratios()
    parts = [ABOUT, *(report(task, results[task]) for task in tasks), large]
    finish("accuracy-over-bytes", "Accuracy over bytes", "\n\n".join(parts), [*found, *more])


if __name__ == "__main__":
    main()
