"""Data sets in files: MNIST-style idx and NumPy `.npz`; never pickle."""

import gzip
import zipfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from shoal.core import Examples
from shoal.data.download import local
from shoal.data.federation import Array, Federation, Partition, federate, strata
from shoal.data.partition import IID, holdout
from shoal.errors import DataError, nearest

IDX = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass(frozen=True)
class Idx:
    """A folder of four idx files, as MNIST and its successors come; plain or `.gz`.

    Attributes:
        folder: with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte,
            t10k-labels-idx1-ubyte.
        clients: how many; 0 for all that the client key names.
        partition: how they share the training examples.
        image: inputs of shape (n, 1, h, w) instead of (n, h * w); pixels in [0, 1] either way.
        keys: an `.npz` file that names each training example's owner, for a natural partition.
        key: the array in `keys`, e.g. "writer_train".
    """

    folder: str
    clients: int = 100
    partition: Partition = IID
    image: bool = True
    keys: str = ""
    key: str = ""

    def load(self, seed: int) -> Federation:
        """Inputs float32, targets int64, shape (n,).

        Raises:
            DataError: for a file that is missing or broken.
        """
        train, test = (self._examples(part) for part in ("train", "t10k"))
        return federate(
            train,
            test,
            partition=self.partition,
            clients=self.clients,
            seed=seed,
            classes=class_names(train.y, test.y),
            keys=_owners(self.keys, self.key, len(train)) if self.keys else None,
        )

    def _examples(self, part: str) -> Examples:
        images, labels = (
            read_idx(_either(Path(self.folder) / f"{part}-{kind}-ubyte"))
            for kind in ("images-idx3", "labels-idx1")
        )
        x = images.astype(np.float32) / np.float32(255.0)
        x = channels_first(x) if self.image else x.reshape(len(x), -1)
        return Examples(x, labels.astype(np.int64))


@dataclass(frozen=True)
class Npz:
    """Arrays in one `.npz` file.

    Attributes:
        path: file or URL; a URL is downloaded once, and needs `sha256`.
        x, y: names of the training arrays, e.g. "x_train".
        x_test, y_test: names of the test arrays; empty to hold out a stratified fifth.
        key: name of an array with each training example's owner.
        clients: how many; 0 for all that the client key names.
        partition: how they share the training examples.
        scale: factor on the inputs, e.g. 1 / 255 for bytes.
        image: images of shape (n, h, w) or (n, h, w, c) become (n, c, h, w).
        sha256: checksum of the file.
    """

    path: str
    x: str = "x_train"
    y: str = "y_train"
    x_test: str = "x_test"
    y_test: str = "y_test"
    key: str = ""
    clients: int = 100
    partition: Partition = IID
    scale: float = 1.0
    image: bool = False
    sha256: str = ""

    def load(self, seed: int) -> Federation:
        """Inputs float32; targets int64 classes, shape (n,), or float32 values.

        Raises:
            DataError: for a file or array that is missing or broken.
        """
        names = [n for n in (self.x, self.y, self.x_test, self.y_test, self.key) if n]
        found = read_npz(local(self.path, self.sha256), names)
        x, y = scaled(found[self.x], self.scale, self.image), targets(found[self.y])
        keys = found[self.key] if self.key else None
        whole = Examples(x, y)
        if self.x_test:
            test = scaled(found[self.x_test], self.scale, self.image)
            train, held = whole, Examples(test, targets(found[self.y_test]))
        else:
            keep, rest = holdout(strata(y))
            train, held = whole.take(keep), whole.take(rest)
            keys = keys[keep] if keys is not None else None
        return federate(
            train,
            held,
            partition=self.partition,
            clients=self.clients,
            seed=seed,
            classes=class_names(train.y, held.y),
            keys=keys,
        )


def read_idx(path: Path) -> Array:
    """The array in an idx file, plain or gzip.

    Raises:
        DataError: if it is missing, cut short or of another format.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX:
        raise DataError(f"{path}: not an idx file")
    axes = data[3]
    start = 4 + 4 * axes
    shape = tuple(int(n) for n in np.frombuffer(data[4:start], ">u4"))
    kind = np.dtype(IDX[data[2]])
    size = prod(shape) * kind.itemsize
    if len(shape) != axes or len(data) - start != size:
        raise DataError(f"{path}: {len(data) - start} bytes of data for shape {shape}")
    return np.frombuffer(data, kind, offset=start).reshape(shape)


def read_npz(path: Path, names: list[str]) -> dict[str, Array]:
    """Some arrays of an `.npz` file.

    Raises:
        DataError: if it is broken, lacks one of them, or hides Python objects in it.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise DataError(f"{path}: a single array, not an .npz file")
        with loaded as file:
            for name in names:
                if name not in file.files:
                    raise DataError(f"{path}: no array {name!r}; {nearest(name, file.files)}")
            return {name: file[name] for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as .npz ({error})") from error


def channels_first(images: Array) -> Array:
    """Images of shape (n, h, w) or (n, h, w, c) as (n, c, h, w), contiguous."""
    if images.ndim not in (3, 4):
        raise DataError(f"images of shape {images.shape}; expected (n, h, w) or (n, h, w, c)")
    whole = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
    return np.ascontiguousarray(whole)


def scaled(x: Array, scale: float, image: bool) -> Array:
    """Inputs as float32 times a factor, channels first if they are images."""
    if x.dtype.kind not in "biuf":
        raise DataError(f"inputs of type {x.dtype}; expected numbers")
    found = x.astype(np.float32) * np.float32(scale)
    return channels_first(found) if image else found


def targets(y: Array) -> Array:
    """Classes as int64, real values as float32."""
    if y.dtype.kind not in "biuf":
        raise DataError(f"targets of type {y.dtype}; expected numbers")
    return y.astype(np.float32 if y.dtype.kind == "f" else np.int64)


def class_names(*ys: Array) -> tuple[str, ...]:
    """Names for the classes 0 .. max of all targets; none for real values."""
    if any(y.dtype.kind == "f" for y in ys):
        return ()
    return tuple(str(c) for c in range(max(int(y.max(initial=0)) for y in ys) + 1))


def _either(path: Path) -> Path:
    """The file, or the one with `.gz` after its name."""
    packed = path.with_name(path.name + ".gz")
    if not path.is_file() and not packed.is_file():
        raise DataError(f"{path}: no such file, nor {packed.name}")
    return path if path.is_file() else packed


def _owners(path: str, name: str, examples: int) -> Array:
    keys = read_npz(local(path), [name])[name]
    if keys.shape != (examples,):
        raise DataError(f"{path}: {name!r} has shape {keys.shape} for {examples} examples")
    return keys
