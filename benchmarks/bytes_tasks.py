"""The three tasks of the study of bytes: models and clients' data.

MNIST with four writers at each client and a convolutional network; the CIFAR-10 subset, its labels
cut by Dirichlet's distribution, and another; Shakespeare's roles and a causal convolutional model
of characters. Strides in place of pooling make steps cheap for their number of parameters.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from harness import data_directory, quick
from shoal.core import Examples
from shoal.data.files import read_idx, read_npz

Data = tuple[dict[str, Examples], Examples]
WRITERS = 4  # of a client
WINDOW = 40  # characters


@dataclass(frozen=True)
class Size:
    """How large a task is.

    Attributes:
        clients, cohort: of the population, and of each round.
        rounds: commits of a run.
        long: of DGC and what it is compared with: what is sent of 0.1 % or so comes late.
        rows: examples of a client, at most.
        tested: examples of the test set; windows of characters.
        steps, batch: of a client's task.
    """

    clients: int
    cohort: int
    rounds: int
    long: int
    rows: int
    tested: int
    steps: int
    batch: int


SIZES = {
    "mnist": Size(10, 10, 120, 400, 400, 5000, 2, 20),
    "cifar": Size(10, 10, 80, 300, 400, 2000, 2, 20),
    "shakespeare": Size(10, 10, 80, 300, 500, 500, 2, 5),
}
QUICK = Size(4, 2, 3, 3, 40, 200, 1, 10)
FILES = {
    "mnist": "mnist_writers.npz",
    "cifar": "cifar10_subset.npz",
    "shakespeare": "shakespeare_roles.jsonl.gz",
}

TITLES = {
    "mnist": "MNIST by writers, convolutional network",
    "cifar": "CIFAR-10 subset, convolutional network",
    "shakespeare": "Shakespeare's roles, character-level language model",
}


def size(task: str) -> Size:
    """That of a task, or of a quick run."""
    return QUICK if quick() else SIZES[task]


class Characters(nn.Module):
    """Characters to the logits of the next ones, from the fifteen before at most."""

    def __init__(self, symbols: int = 80, width: int = 160) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, 32)
        self.near = nn.Conv1d(32, width, 4)
        self.far = nn.Conv1d(width, width, 4, dilation=4)
        self.out = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x).transpose(1, 2)
        hidden = nn.functional.relu(self.near(nn.functional.pad(hidden, (3, 0))))
        hidden = nn.functional.relu(self.far(nn.functional.pad(hidden, (12, 0))))
        logits: Tensor = self.out(hidden.transpose(1, 2)).transpose(1, 2)
        return logits


def convolutional(channels: int, side: int) -> nn.Module:
    """Two convolutions with strides and two dense layers."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def mnist_model() -> nn.Module:
    """For 28 x 28 pixels of one channel: 207,178 parameters."""
    return convolutional(1, 28)


def cifar_model() -> nn.Module:
    """For 32 x 32 pixels of three channels: 269,434 parameters."""
    return convolutional(3, 32)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mnist": mnist_model, "cifar": cifar_model, "shakespeare": Characters,
}  # fmt: skip


def mnist(shape: Size) -> Data:
    """Images by the person who wrote them: the writers with most of them, four to a client."""
    folder = data_directory() / "mnist_idx"
    x, y = (read_idx(next(folder.glob(f"train-{kind}*"))) for kind in ("images", "labels"))
    writers = np.load(data_directory() / "mnist_writers.npz")["writer_train"]
    names, counts = np.unique(writers, return_counts=True)
    keep = names[np.argsort(-counts, kind="stable")[: WRITERS * shape.clients]]
    parts = {}
    for at in range(shape.clients):
        rows = np.flatnonzero(np.isin(writers, keep[at :: shape.clients]))[: shape.rows]
        parts[f"c{at:02d}"] = _images(x[:, None], y, rows)
    tx, ty = (read_idx(next(folder.glob(f"t10k-{kind}*"))) for kind in ("images", "labels"))
    return parts, _images(tx[:, None], ty, np.arange(shape.tested))


def cifar(shape: Size) -> Data:
    """The subset, with labels cut by Dirichlet's distribution of strength 0.5."""
    names = ["x_train", "y_train", "x_test", "y_test"]
    values = read_npz(data_directory() / "cifar10_subset.npz", names)
    x, y, tx, ty = (np.asarray(values[name]) for name in names)
    x, tx = x.transpose(0, 3, 1, 2), tx.transpose(0, 3, 1, 2)
    split = np.random.default_rng(0).dirichlet([0.5] * shape.clients, 10).cumsum(axis=1)
    draws = np.random.default_rng(1).random(len(y))
    owner = (draws[:, None] > split[y.astype(np.int64)]).sum(axis=1).clip(0, shape.clients - 1)
    rows = [np.flatnonzero(owner == at)[: shape.rows] for at in range(shape.clients)]
    parts = {f"c{at:02d}": _images(x, y, own) for at, own in enumerate(rows) if own.size}
    return parts, _images(tx, ty, np.arange(shape.tested))


def _images(x: NDArray[np.uint8], y: NDArray[np.uint8], rows: NDArray[np.int64]) -> Examples:
    pixels = x[rows].astype(np.float32) / 255
    if x.shape[1] == 3:
        pixels = (pixels - 0.5) / 0.25
    return Examples(np.ascontiguousarray(pixels), y[rows].astype(np.int64).reshape(-1))


def shakespeare(shape: Size) -> Data:
    """Windows of characters, a client for each role: those who speak most; a tenth for tests."""
    texts: dict[str, str] = {}
    with gzip.open(data_directory() / FILES["shakespeare"], "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            texts[row["client"]] = texts.get(row["client"], "") + row["text"] + "\n"
    roles = sorted(texts, key=lambda role: (-len(texts[role]), role))[: shape.clients]
    known = {c: i for i, c in enumerate(sorted(set("".join(texts[r] for r in roles)))[:79])}
    parts, held = {}, []
    for at, role in enumerate(roles):
        codes = np.array([known.get(c, 79) for c in texts[role]])
        cut = len(codes) - len(codes) // 10
        held.append(_windows(codes[cut:])[: shape.tested // shape.clients])
        own = _windows(codes[:cut])[: shape.rows]
        parts[f"c{at:02d}"] = Examples(own[:, :-1].copy(), own[:, 1:].copy())
    test = np.concatenate(held)
    return parts, Examples(test[:, :-1].copy(), test[:, 1:].copy())


def _windows(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    every = np.lib.stride_tricks.sliding_window_view(codes, WINDOW + 1)[::WINDOW]
    return every.astype(np.int64)


LOADERS: dict[str, Callable[[Size], Data]] = {
    "mnist": mnist, "cifar": cifar, "shakespeare": shakespeare,
}  # fmt: skip
