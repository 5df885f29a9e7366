"""The data sets that scikit-learn brings along: real, small, no download.

The test set is a fifth of the examples, stratified, the same for every seed. Tabular features are
standardized by the training examples; the pixels of the digits are divided by 16.
"""

from dataclasses import dataclass

import numpy as np

from shoal.core import Examples
from shoal.data.federation import Array, Federation, Partition, federate, strata
from shoal.data.partition import IID, holdout
from shoal.errors import MissingExtra


@dataclass(frozen=True)
class Digits:
    """1797 handwritten digits of 8 x 8 pixels in [0, 1], 10 classes.

    Attributes:
        clients: how many.
        partition: how they share the training examples.
        image: inputs of shape (n, 1, 8, 8) instead of (n, 64).
    """

    clients: int = 100
    partition: Partition = IID
    image: bool = False

    def load(self, seed: int) -> Federation:
        """Inputs float32, targets int64, shape (n,)."""
        x, y, classes = _bundled("digits")
        x = (x / 16.0).astype(np.float32)
        x = x.reshape(-1, 1, 8, 8) if self.image else x
        keep, test = holdout(y)
        return federate(
            Examples(x[keep], y[keep]),
            Examples(x[test], y[test]),
            partition=self.partition,
            clients=self.clients,
            seed=seed,
            classes=classes,
        )


@dataclass(frozen=True)
class Wine:
    """178 wines by 13 chemical measurements, 3 classes."""

    clients: int = 10
    partition: Partition = IID

    def load(self, seed: int) -> Federation:
        """Inputs float32, shape (n, 13), targets int64, shape (n,)."""
        return _table("wine", self.clients, self.partition, seed)


@dataclass(frozen=True)
class BreastCancer:
    """569 tumors by 30 measurements, 2 classes."""

    clients: int = 10
    partition: Partition = IID

    def load(self, seed: int) -> Federation:
        """Inputs float32, shape (n, 30), targets int64, shape (n,)."""
        return _table("breast_cancer", self.clients, self.partition, seed)


@dataclass(frozen=True)
class Iris:
    """150 irises by 4 measurements, 3 classes."""

    clients: int = 5
    partition: Partition = IID

    def load(self, seed: int) -> Federation:
        """Inputs float32, shape (n, 4), targets int64, shape (n,)."""
        return _table("iris", self.clients, self.partition, seed)


@dataclass(frozen=True)
class Diabetes:
    """442 patients by 10 measurements; the target is the disease's progress a year later.

    A regression: the target, too, is standardized by the training examples. Partitions by label
    see the decile that a target falls in.
    """

    clients: int = 10
    partition: Partition = IID

    def load(self, seed: int) -> Federation:
        """Inputs float32, shape (n, 10), targets float32, shape (n,)."""
        return _table("diabetes", self.clients, self.partition, seed)


def standardize(x: Array, keep: Array) -> Array:
    """Columns of x, shape (n, d), with mean 0 and deviation 1 over the rows `keep`; float32.

    Missing values (NaN) become 0, the mean; a constant column becomes 0.
    """
    known = ~np.isnan(x[keep])
    filled = np.where(known, x[keep], 0.0)
    count = np.maximum(known.sum(axis=0), 1)
    mean = filled.sum(axis=0) / count
    spread = np.sqrt((np.where(known, filled - mean, 0.0) ** 2).sum(axis=0) / count)
    whole: Array = np.nan_to_num((x - mean) / np.where(spread > 0, spread, 1.0))
    return whole.astype(np.float32)


def _table(name: str, clients: int, partition: Partition, seed: int) -> Federation:
    x, y, classes = _bundled(name)
    keep, test = holdout(strata(y))
    x = standardize(x, keep)
    y = y if classes else standardize(y[:, None], keep)[:, 0]
    return federate(
        Examples(x[keep], y[keep]),
        Examples(x[test], y[test]),
        partition=partition,
        clients=clients,
        seed=seed,
        classes=classes,
    )


def _bundled(name: str) -> tuple[Array, Array, tuple[str, ...]]:
    """Raw inputs, targets (int64 classes or float64 values), names of classes."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtra("scikit-learn", "sklearn") from error
    if name == "diabetes":
        x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
        return x, y, ()
    found = getattr(datasets, f"load_{name}")()
    return found.data, found.target.astype(np.int64), tuple(str(c) for c in found.target_names)
