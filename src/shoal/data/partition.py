"""Splits that do not look at labels: IID, by size, by a natural key; and what all splits share."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from shoal.data.federation import Array, Column, Indices
from shoal.errors import ConfigError, positive
from shoal.seeds import rng

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Iid:
    """Equal shares (their sizes differ by one at most), uniformly at random."""

    by: ClassVar[Column] = "index"

    def split(self, labels: Array, clients: int, seed: int) -> dict[str, Indices]:
        """Each client's indices into `labels`, shape (n,).

        Raises:
            ConfigError: for fewer examples than clients.
        """
        check_clients(len(labels), clients)
        order = rng(seed, "partition", "iid").permutation(len(labels))
        return named([np.sort(part) for part in np.array_split(order, clients)])


IID = Iid()


@dataclass(frozen=True)
class QuantitySkew:
    """Shares of unequal size with the same mix of labels.

    Attributes:
        alpha: of a symmetric Dirichlet distribution over the sizes (small: very unequal), or the
            exponent of the power law size ~ rank ** -alpha (large: very unequal).
        law: "dirichlet" or "power".
        min_size: examples that every client has at least.
    """

    alpha: float = 0.5
    law: Literal["dirichlet", "power"] = "dirichlet"
    min_size: int = 1
    by: ClassVar[Column] = "index"

    def __post_init__(self) -> None:
        """Check the fields."""
        positive("alpha", self.alpha)
        positive("min_size", self.min_size)
        if self.law not in ("dirichlet", "power"):
            raise ConfigError("law", f'must be "dirichlet" or "power", got {self.law!r}')

    def split(self, labels: Array, clients: int, seed: int) -> dict[str, Indices]:
        """Each client's indices into `labels`, shape (n,).

        Raises:
            ConfigError: for fewer examples than `min_size` for each client.
        """
        check_clients(len(labels), clients, self.min_size)
        draw = rng(seed, "partition", "quantity")
        if self.law == "dirichlet":
            weights = draw.dirichlet(np.full(clients, self.alpha))
        else:
            weights = draw.permutation(np.arange(1, clients + 1, dtype=np.float64) ** -self.alpha)
        sizes = apportion(len(labels), weights)[:, None]
        return assign(np.zeros(len(labels), np.int64), top_up(sizes, self.min_size), draw)


@dataclass(frozen=True)
class Natural:
    """One client for each value of the data's client key, e.g. the writer or the hospital.

    Asked for n clients it takes n of the keys at random; the other examples are not used. Asked
    for 0, it takes all.

    Attributes:
        min_size: keys with fewer examples are left out.
    """

    min_size: int = 1
    by: ClassVar[Column] = "key"

    def __post_init__(self) -> None:
        """Check the fields."""
        positive("min_size", self.min_size)

    def split(self, labels: Array, clients: int, seed: int) -> dict[str, Indices]:
        """Each key's positions in `labels` (the keys, shape (n,)), under the key as a string.

        Raises:
            ConfigError: for more clients than keys.
        """
        keys, codes = np.unique(labels, return_inverse=True)
        sizes = np.bincount(codes, minlength=len(keys))
        kept = np.flatnonzero(sizes >= self.min_size)
        if clients < 0 or clients > len(kept) or not len(kept):
            found = f"{len(kept)} keys with {self.min_size} or more examples"
            raise ConfigError("clients", f"{clients} clients, but {found}")
        chosen = rng(seed, "partition", "natural").permutation(kept)[: clients or len(kept)]
        parts = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
        return {str(keys[k]): parts[k] for k in chosen}


def named(parts: list[Indices]) -> dict[str, Indices]:
    """Parts under the clients' names: c0, c1, ..., padded so that they sort by number."""
    width = len(str(len(parts) - 1))
    return {f"c{i:0{width}d}": part for i, part in enumerate(parts)}


def check_clients(examples: int, clients: int, each: int = 1) -> None:
    """Raise `ConfigError` unless the examples suffice for `each` per client."""
    if clients < 1:
        raise ConfigError("clients", f"must be at least 1, got {clients}")
    if clients * each > examples:
        need = f" with at least {each} examples each" if each > 1 else ""
        raise ConfigError("clients", f"{clients} clients{need}, but {examples} examples")


def apportion(total: int, weights: NDArray[Any], least: int = 0) -> Counts:
    """Integers that sum to `total`, near weights' shares of it (largest remainders).

    Each is at least `least` where the total allows that; weights without a finite positive sum
    count as equal.
    """
    weights = np.where(np.isfinite(weights), weights, 0.0)
    if weights.sum() <= 0:
        weights = np.ones(len(weights))
    floor = min(least, total // len(weights))
    exact = weights / weights.sum() * (total - floor * len(weights))
    counts: Counts = np.floor(exact).astype(np.int64)
    short = total - floor * len(weights) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    counts += floor
    return counts


def top_up(counts: Counts, least: int) -> Counts:
    """Counts, shape (clients, classes), with at least `least` examples for each client.

    Whoever lacks some gets them from the commonest class of the largest client: no redrawing, so
    it ends for every alpha.
    """
    counts = counts.copy()
    sizes = counts.sum(axis=1)
    while sizes.min() < least:
        poor, rich = int(sizes.argmin()), int(sizes.argmax())
        label = int(counts[rich].argmax())
        counts[rich, label] -= 1
        counts[poor, label] += 1
        sizes[rich] -= 1
        sizes[poor] += 1
    return counts


def assign(codes: Indices, counts: Counts, draw: np.random.Generator) -> dict[str, Indices]:
    """Random examples for each client: `counts[i, k]` of those with code k; all are used once."""
    shares: list[list[Indices]] = [[] for _ in counts]
    for label in range(counts.shape[1]):
        order = draw.permutation(np.flatnonzero(codes == label))
        for share, piece in zip(
            shares, np.split(order, np.cumsum(counts[:-1, label])), strict=True
        ):
            share.append(piece)
    return named([np.sort(np.concatenate(share)) for share in shares])


def holdout(labels: Array, share: float = 0.2) -> tuple[Indices, Indices]:
    """Indices for training and for the test, stratified by label, shape (n,).

    The same whatever the run's seed, so that runs with different seeds share their test set.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    sizes = np.bincount(codes, minlength=len(classes))
    taken = apportion(round(share * len(labels)), sizes.astype(np.float64))
    parts = assign(codes, np.stack([sizes - taken, taken]), rng(0, "test split"))
    return parts["c0"], parts["c1"]
