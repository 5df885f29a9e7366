"""Splits by label: Dirichlet, dual Dirichlet, class partition, and shards."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from shoal.data.federation import Array, Column, Indices
from shoal.data.partition import apportion, assign, check_clients, named, top_up
from shoal.errors import ConfigError, positive
from shoal.seeds import rng


@dataclass(frozen=True)
class Dirichlet:
    """Each class is shared out by Dirichlet proportions (Yurochkin et al. 2019, 1905.12022).

    p_k ~ Dir(alpha, ..., alpha) over clients;  client i gets p_k[i] of class k

    Attributes:
        alpha: small for clients of few classes, large for nearly IID.
        min_size: examples that every client has at least, moved from the largest if need be.
    """

    alpha: float
    min_size: int = 1
    by: ClassVar[Column] = "label"

    def __post_init__(self) -> None:
        """Check the fields."""
        positive("alpha", self.alpha)
        positive("min_size", self.min_size)

    def split(self, labels: Array, clients: int, seed: int) -> dict[str, Indices]:
        """Each client's indices into `labels`, shape (n,).

        Raises:
            ConfigError: for fewer examples than `min_size` for each client.
        """
        check_clients(len(labels), clients, self.min_size)
        codes, sizes = _classes(labels)
        draw = rng(seed, "partition", "dirichlet")
        shares = draw.dirichlet(np.full(clients, self.alpha), size=len(sizes))
        counts = np.stack([apportion(n, p) for n, p in zip(sizes, shares, strict=True)], axis=1)
        return assign(codes, top_up(counts, self.min_size), draw)


@dataclass(frozen=True)
class DualDirichlet:
    """One Dirichlet for the clients' sizes, one for each client's mix of classes.

    As FedCompass uses it (Li et al. 2023, 2309.14675):
    w ~ Dir(alpha1 / m), q_i ~ Dir(alpha2 * class shares);  i gets w_i q_ik / sum_j w_j q_jk of k

    Attributes:
        alpha1: total concentration of the sizes; None for the number of clients m.
        alpha2: total concentration of the class mixes.
        min_size: examples that every client has at least, moved from the largest if need be.
    """

    alpha1: float | None = None
    alpha2: float = 0.5
    min_size: int = 1
    by: ClassVar[Column] = "label"

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.alpha1 is not None:
            positive("alpha1", self.alpha1)
        positive("alpha2", self.alpha2)
        positive("min_size", self.min_size)

    def split(self, labels: Array, clients: int, seed: int) -> dict[str, Indices]:
        """Each client's indices into `labels`, shape (n,).

        Raises:
            ConfigError: for fewer examples than `min_size` for each client.
        """
        check_clients(len(labels), clients, self.min_size)
        codes, sizes = _classes(labels)
        draw = rng(seed, "partition", "dual")
        total = float(clients) if self.alpha1 is None else self.alpha1
        weights = draw.dirichlet(np.full(clients, total / clients))
        mixes = draw.dirichlet(self.alpha2 * sizes / sizes.sum(), size=clients)
        counts = np.stack([apportion(n, weights * mixes[:, k]) for k, n in enumerate(sizes)], 1)
        return assign(codes, top_up(counts, self.min_size), draw)


@dataclass(frozen=True)
class ClassPartition:
    """Each client has a random few of the classes, in random amounts.

    As FedCompass uses it (Li et al. 2023, 2309.14675): c_i ~ U{min_classes..max_classes} classes;
    a class is shared among those who have it by weights |N(1, spread)|. Every class is given out.

    Attributes:
        min_classes: fewest classes of a client; one may get fewer examples than classes.
        max_classes: most classes of a client.
        spread: standard deviation of the weights relative to their mean.
    """

    min_classes: int = 3
    max_classes: int = 5
    spread: float = 0.3
    by: ClassVar[Column] = "label"

    def __post_init__(self) -> None:
        """Check the fields."""
        positive("min_classes", self.min_classes)
        positive("spread", self.spread, zero=True)
        if self.max_classes < self.min_classes:
            raise ConfigError("max_classes", f"{self.max_classes} is below {self.min_classes}")

    def split(self, labels: Array, clients: int, seed: int) -> dict[str, Indices]:
        """Each client's indices into `labels`, shape (n,).

        Raises:
            ConfigError: for fewer examples than clients, fewer classes than `max_classes`, or
                more classes than the clients may hold together.
        """
        check_clients(len(labels), clients)
        codes, sizes = _classes(labels)
        if not self.max_classes <= len(sizes) <= clients * self.max_classes:
            problem = f"{self.max_classes} for each of {clients} clients, but {len(sizes)} classes"
            raise ConfigError("max_classes", problem)
        draw = rng(seed, "partition", "classes")
        holds = self._who_holds_what(clients, len(sizes), draw)
        counts = np.zeros(holds.shape, np.int64)
        for label, size in enumerate(sizes):
            who = np.flatnonzero(holds[:, label])
            weights = np.abs(draw.normal(1.0, self.spread, len(who)))
            counts[who, label] = apportion(int(size), weights, least=1)
        empty = int((counts.sum(axis=1) == 0).sum())
        if empty:
            problem = f"{clients} clients, but {len(labels)} examples leave {empty} without any"
            raise ConfigError("clients", problem)
        return assign(codes, counts, draw)

    def _who_holds_what(
        self, clients: int, classes: int, draw: np.random.Generator
    ) -> NDArray[np.bool_]:
        holds = np.zeros((clients, classes), np.bool_)
        for own in holds:
            n = draw.integers(self.min_classes, self.max_classes + 1)
            own[draw.permutation(classes)[:n]] = True
        for label in np.flatnonzero(~holds.any(axis=0)):
            # Nobody drew it: swap it for a class that others have too, else add it to somebody.
            spare = np.argwhere(holds & (holds.sum(axis=0) > 1))
            if len(spare):
                client, other = spare[draw.integers(len(spare))]
                holds[client, other] = False
            else:
                client = int(holds.sum(axis=1).argmin())
            holds[client, label] = True
        return holds


@dataclass(frozen=True)
class Shards:
    """Sorted by label, cut into equal shards, a few to each client (McMahan et al. 2017).

    The pathological split of 1602.05629: with two shards, most clients know two classes.

    Attributes:
        per_client: shards for each client.
    """

    per_client: int = 2
    by: ClassVar[Column] = "label"

    def __post_init__(self) -> None:
        """Check the fields."""
        positive("per_client", self.per_client)

    def split(self, labels: Array, clients: int, seed: int) -> dict[str, Indices]:
        """Each client's indices into `labels`, shape (n,).

        Raises:
            ConfigError: for fewer examples than shards.
        """
        check_clients(len(labels), clients, self.per_client)
        draw = rng(seed, "partition", "shards")
        mixed = draw.permutation(len(labels))
        ordered = mixed[np.argsort(labels[mixed], kind="stable")]
        shards = np.array_split(ordered, clients * self.per_client)
        hands = draw.permutation(len(shards)).reshape(clients, self.per_client)
        return named([np.sort(np.concatenate([shards[s] for s in hand])) for hand in hands])


def _classes(labels: Array) -> tuple[Indices, NDArray[Any]]:
    """Each example's class as 0, 1, ..., and the sizes of the classes."""
    classes, codes = np.unique(labels, return_inverse=True)
    return codes, np.bincount(codes, minlength=len(classes))
