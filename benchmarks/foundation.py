"""Figures of the foundation: control overhead, import time, and McMahan's MNIST table.

The MNIST part needs the idx files of MNIST under SHOAL_DATA/mnist_idx (or shared/data/mnist_idx
beside the project); without them it is left out, and said so.
"""

import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

import numpy as np
from torch import nn

import shoal
from harness import Figure, at_least, at_most, between, data_directory, finish, quick
from shoal.aggregators import Mean
from shoal.combinators import until
from shoal.core import Chain, Examples
from shoal.messages import Config, Metrics, Payload, Task
from shoal.node import Node
from shoal.planes import Local
from shoal.simulation import Devices, Exponential
from shoal.tensors import Tensors
from shoal.transports import Simulator, run

ZERO = Tensors.of({"x": np.zeros(4, np.float32)})
CLIENTS = {f"c{i:04d}": Examples(np.zeros((1, 1)), np.zeros(1)) for i in range(1000)}
DEVICES = Devices(speed=Exponential(1.0), jitter=0.2)
TARGET, ROUNDS = 0.97, {"iid": 87, "non-iid": 664}
LR = 0.05


@dataclass(frozen=True)
class Trivial:
    """A client that does nothing: what is left is the engine."""

    def bind(self, model: Any) -> "Trivial":
        return self

    def initial(self, seed: int) -> Tensors:
        return ZERO

    def init(self, model: Tensors) -> None:
        return None

    def steps(self, num_examples: int, config: Config) -> int:
        return 10

    def train(
        self, model: Tensors, data: Any, state: None, task: Task, rng: np.random.Generator
    ) -> tuple[Payload, None]:
        return Payload(ZERO, 1, 10), None

    def evaluate(self, model: Tensors, data: Any) -> Metrics:
        return {}


def updates_per_second(algorithm: shoal.Algorithm, commits: int) -> float:
    """Updates per second of CPU time (one core) that node and simulator handle."""
    coordinator = until(algorithm.coordinator, commits=commits)
    node = Node(coordinator, Local(algorithm.aggregator, Chain()), ZERO)
    simulator = Simulator(algorithm, CLIENTS, DEVICES)
    began = time.process_time()
    run(node, simulator)
    return node.next_id / (time.process_time() - began)


def overhead() -> list[Figure]:
    """Best of several runs, since other work on the machine only ever slows a run down."""
    trainer = Trivial()
    cases = {
        "fedavg": (shoal.fedavg(100, trainer=trainer, aggregator=Mean()), 100),
        "fedbuff": (shoal.fedbuff(10, trainer=trainer), 1),
        "fedasync": (shoal.fedasync(mode="delta", trainer=trainer), 1),
    }
    updates = 5_000 if quick() else 40_000
    figures = []
    for name, (algorithm, per) in cases.items():
        commits = updates // (10 if name == "fedbuff" else per)
        best = max(updates_per_second(algorithm, commits) for _ in range(2 if quick() else 5))
        title = f"control overhead, {name}, 1000 clients"
        figures.append(at_least(title, best, "updates/s per core", 20_000))
    return figures


def import_seconds() -> Figure:
    """Best of several fresh interpreters; what is used first is imported when it is."""
    script = "import time; t = time.perf_counter(); import shoal; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", script]
    best = min(float(subprocess.check_output(command)) for _ in range(5))
    return at_most("import shoal", best, "s", 0.5)


def two_layer() -> nn.Module:
    """McMahan's "2NN": two hidden layers of 200, 199,210 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(),
        nn.Linear(200, 10),
    )  # fmt: skip


def mnist(kind: str, seed: int, lr: float, limit: int) -> shoal.Experiment:
    """C = 0.1, E = 1, B = 10 on 100 clients; non-IID is two shards of 300 for each."""
    partition = shoal.data.iid() if kind == "iid" else shoal.data.shards(2)
    return shoal.Experiment(
        model=two_layer,
        data=shoal.data.idx(str(data_directory() / "mnist_idx"), clients=100, partition=partition),
        algorithm=shoal.fedavg(10, trainer=shoal.torch.SGD(lr=lr, epochs=1, batch=10)),
        commits=limit,
        target=TARGET,
        seed=seed,
    )


def rounds_to_target(case: tuple[str, int, float, int]) -> float:
    """Rounds until the best accuracy so far reaches the target, interpolated; inf if never."""
    before, best = 0, 0.0
    for point in shoal.simulate(mnist(*case)):
        accuracy = point.metrics["accuracy"]
        if accuracy >= TARGET:
            share = (TARGET - best) / (accuracy - best)
            return before + share * (point.version - before)
        if accuracy > best:
            before, best = point.version, accuracy
    return float("inf")


def mcmahan() -> tuple[list[Figure], str]:
    """Median rounds over three seeds (one, and IID alone, in a quick run)."""
    if not (data_directory() / "mnist_idx").is_dir():
        return [], "MNIST is not here, so its table was left out."
    kinds = ["iid"] if quick() else ["iid", "non-iid"]
    seeds = range(1 if quick() else 3)
    cases = [(kind, seed, LR, 3 * ROUNDS[kind]) for kind in kinds for seed in seeds]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = dict(zip(cases, pool.map(rounds_to_target, cases), strict=True))
    figures, lines = [], []
    for kind in kinds:
        found = sorted(rounds for case, rounds in results.items() if case[0] == kind)
        factor = (0.6, 1.4) if kind == "iid" else (0.5, 2.0)
        low, high = (f * ROUNDS[kind] for f in factor)
        title = f"MNIST 2NN rounds to 97 %, {kind}"
        figures.append(between(title, median(found), "rounds (median)", low, high))
        each = ", ".join(f"{rounds:.0f}" for rounds in found)
        lines.append(f"- {kind}: seeds gave {each} rounds; the paper has {ROUNDS[kind]}.")
    return figures, "\n".join(lines)


def main() -> None:
    """Measure everything and write the page."""
    figures = [*overhead(), import_seconds()]
    table, lines = mcmahan()
    text = f"""
## Control overhead

A thousand clients that do no work (exponential speeds, jitter), driven through `Node`, the local
plane and the simulator; every update is dispatched, drawn, validated, folded and recorded. CPU
time of one core, best of five runs. FedAsync makes one commit for each update, FedBuff one for ten,
FedAvg one for a hundred.

## McMahan's MNIST table

FedAvg on the two-layer network (McMahan et al. 2016, arXiv 1602.05629, table 1): 100 clients,
C = 0.1, E = 1, B = 10, plain SGD, evaluated after every round on the 10,000 test images; rounds to
97 % on the monotone curve, interpolated. The learning rate is {LR} in both cases. The paper tuned
it for each; here larger rates are faster still (seed 0: 59 rounds IID and 261 non-IID at 0.1, 39
IID at 0.2), so the paper's numbers are reproduced in size, not as an optimum.

{lines}
"""
    finish("foundation", "Foundation", text, [*figures, *table])


if __name__ == "__main__":
    main()
