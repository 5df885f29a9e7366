"""Client updates per second: Shoal beside the current releases of its peers and a plain loop.

Every contestant runs in a process of its own, and they take turns. The peers are installed into
`benchmarks/.peers/simulation-*`, environments of their own. The images are MNIST's, under
SHOAL_DATA/mnist_idx (or shared/data beside the project); without them only the digits are run.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from harness import Figure, at_least, at_most, data_directory, finish, quick
from shoal.data import Dataset, digits, idx, iid

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "peers" / "local_work.py"
CLIENTS = 100
INSTALLS = {
    "flower": ["flwr[simulation]", "torch", "numpy"],
    "pfl": ["pfl[pytorch]"],
    "fedjax": ["fedjax"],
}
PACKAGES = {"flower": "flwr", "pfl": "pfl", "fedjax": "fedjax"}
# What Shoal must reach, in multiples of the peers' rates.
LEAST: dict[str, dict[str, float]] = {
    "logistic": {"pfl": 10, "fedjax": 5, "flower": 200},
    "mlp": {"pfl": 10, "fedjax": 5, "flower": 250},
    "image_mlp": {"pfl": 4, "fedjax": 2, "flower": 8},
    "cnn": {"pfl": 3, "flower": 2},
    "large_cnn": {"pfl": 2, "flower": 1.25},
}
TITLES = {
    "logistic": "digits, logistic regression",
    "mlp": "digits, MLP 64-200-10",
    "image_mlp": "28x28 images, MLP 784-200-10",
    "cnn": "28x28 images, CNN of 207,000 parameters",
    "large_cnn": "28x28 images, CNN of 1.66 million parameters",
}
OUTSIDE = 5.0  # percent of the large model's time
MEMORY = 512.0  # megabytes: a quarter of what Flower's processes take

NOTES = """
pfl and the plain loop vary most: on two cores torch's threads wait for each other, and another
process that is awake costs them up to a factor of ten, which is why each has its best turn here.

## Why convolutions are fast

One update of the CNN of 207,000 parameters (600 examples, forward and backward) is 4.2 thousand
million floating-point operations if all are carried out, one of the CNN of 1.66 million is 43. A
core of the machine of these figures does at most 265 thousand million a second (fused multiply-add
on 16 lanes, measured in registers), so that two cores could do 125 and 12.2 such updates.
The compiled rounds do not carry them all out: behind a pooling of four pixels at most a quarter
of a gradient is other than zero, behind a ReLU less, and both sums of the backward pass run over
lists of what is not. The forward pass (direct, channels last, 14 pixels x 32 outputs in registers)
reaches 90 % of the limit for the large network. The weights of its first dense layer (6.4 MB)
do not fit the cache of a core; each step reads them twice and writes them once.
"""


def python_of(name: str) -> str:
    """The interpreter of a contestant, its environment made if it is missing."""
    if name not in INSTALLS:
        return sys.executable
    home = HERE / ".peers" / f"simulation-{name}"
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        print(f"installing {name} into {home}", file=sys.stderr)
        venv.create(home, with_pip=True)
        free = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
        command = [str(python), "-m", "pip", "install", "-q", *INSTALLS[name]]
        subprocess.run(command, check=True, env=free)
    return str(python)


def release(name: str) -> str:
    """The release that was measured."""
    package = PACKAGES[name]
    code = f"from importlib.metadata import version; print(version('{package}'))"
    found = subprocess.check_output([python_of(name), "-c", code], text=True)
    return f"{package} {found.strip()}"


def save(folder: Path) -> dict[str, Path]:
    """The two data sets, as files that every environment can read; "images" only if it is here."""
    sources: dict[str, Dataset] = {"digits": digits(clients=CLIENTS, partition=iid())}
    images = data_directory() / "mnist_idx"
    if images.is_dir():
        sources["images"] = idx(str(images), clients=CLIENTS, partition=iid())
    paths = {}
    for name, source in sources.items():
        federation = source.load(0)
        parts = [federation.parts[client] for client in federation.clients]
        rows = np.concatenate(parts)
        x = federation.train.x[rows].astype(np.float32)
        if name == "images":
            x = x.reshape(len(x), 1, 28, 28)
        ends = np.cumsum([len(part) for part in parts])
        paths[name] = folder / f"{name}.npz"
        np.savez(paths[name], x=x, y=federation.train.y[rows].astype(np.int64), ends=ends)
    return paths


def turn(name: str, task: str, data: Path, seconds: float) -> dict[str, float]:
    """One process; an empty result for a contestant that cannot do the task."""
    command = [python_of(name), str(SCRIPT), name, task, str(data), str(seconds)]
    quiet = {**os.environ, "RAY_DEDUP_LOGS": "0", "FLWR_TELEMETRY_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"{name} on {task}: {done.stderr[-500:]}", file=sys.stderr)
        return {}
    found: dict[str, float] = json.loads(lines[-1])
    return found


def case(task: str, data: Path) -> dict[str, dict[str, float]]:
    """The best rate and the lowest peak of each contestant, taking turns."""
    turns, seconds = (1, 1.0) if quick() else (2, 3.0)
    best: dict[str, dict[str, float]] = {}
    for _ in range(turns):
        for name in ("shoal", "plain", *INSTALLS):
            if name == "fedjax" and name not in LEAST[task]:
                continue
            got = turn(name, task, data, seconds)
            old = best.get(name, got)
            best[name] = {
                "rate": max(got.get("rate", 0.0), old.get("rate", 0.0)),
                "peak": min(got.get("peak", 0.0), old.get("peak", 0.0)),
                "outside": min(got.get("outside", 0.0), old.get("outside", 0.0)),
            }
    return best


def figures_of(task: str, best: dict[str, dict[str, float]]) -> list[Figure]:
    """Shoal's rate against each peer's, and its memory."""
    own = best["shoal"]["rate"]
    found = [
        at_least(f"{TITLES[task]}: faster than {name}", own / best[name]["rate"], "times", least)
        for name, least in LEAST[task].items()
        if best.get(name, {}).get("rate")
    ]
    peak = best["shoal"]["peak"] / 2**20
    found.append(at_most(f"{TITLES[task]}: peak memory", peak, "MB", MEMORY))
    if task == "large_cnn":
        outside = 100 * best["shoal"]["outside"]
        found.append(at_most(f"{TITLES[task]}: time outside of training", outside, "%", OUTSIDE))
    return found


def row(task: str, best: dict[str, dict[str, float]]) -> str:
    """A line of the table."""
    cells = [best.get(name, {}).get("rate", 0.0) for name in ("shoal", "plain", *INSTALLS)]
    return f"| {TITLES[task]} | " + " | ".join(f"{c:,.5g}" if c else "-" for c in cells) + " |"


def main() -> None:
    """Measure all tasks and write the page."""
    tasks = ["logistic", "mlp"] if quick() else list(LEAST)
    tasks = [name for name in sys.argv[1:] if name in LEAST] or tasks
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = save(Path(folder))
        for task in tasks:
            data = paths.get("digits" if task in ("logistic", "mlp") else "images")
            if data is None:
                print(f"{task}: left out, MNIST is not here", file=sys.stderr)
                continue
            found[task] = case(task, data)
            print(json.dumps({task: found[task]}), file=sys.stderr, flush=True)
    page(found)


def page(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Write the page of all tasks that were measured."""
    figures = [figure for task, best in found.items() for figure in figures_of(task, best)]
    rows = [row(task, best) for task, best in found.items()]
    text = f"""
Peers: {", ".join(release(name) for name in INSTALLS)}. FedAvg, {CLIENTS} clients, 10 a round, one
local epoch in batches of 10, plain SGD, without evaluation. Client updates per second, the best of
two processes of three seconds each that took turns, after the first rounds. Shoal is
the whole engine (node, simulator, plane), as `shoal run` has it, with `backend="auto"`, which takes
compiled rounds for all of these models; *plain* is a hand-written PyTorch loop with torch's own
threads; Flower has a Ray worker for each core; pfl and FedJAX are single processes. FedJAX needs
`jax.tree_map` put back to run with this release of JAX. Memory is the most that one process had.
"Time outside of training" is what node, simulator and plane take of a round.

| task | Shoal | plain | {" | ".join(INSTALLS)} |
|---|---|---|---|---|---|
{chr(10).join(rows)}

{NOTES}
"""
    finish("simulation", "Simulation", text, figures)


if __name__ == "__main__":
    main()
