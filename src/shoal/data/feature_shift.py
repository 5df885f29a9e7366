"""Clients that see the same world differently: rotated, noisier, or at another scale."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shoal.data.federation import Array, Column, Partition, Parts
from shoal.data.partition import IID
from shoal.errors import ConfigError, DataError, positive
from shoal.seeds import normal, rng, uniform

KINDS = ("rotation", "noise", "scale")


@dataclass(frozen=True)
class FeatureShift:
    """Any split, plus a fixed transformation of each client's inputs.

    rotation: by an angle ~ U(-level, level) degrees;  noise: + N(0, s^2), s ~ U(0, level);
    scale: * exp(level * z), z ~ N(0, 1);  all drawn once per client

    Attributes:
        kind: "rotation" (images, shape (n, h, w) or (n, c, h, w)), "noise" or "scale".
        level: how strong, in the unit that the kind has above.
        partition: who gets which examples.
    """

    kind: Literal["rotation", "noise", "scale"]
    level: float
    partition: Partition = IID

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.kind not in KINDS:
            raise ConfigError("kind", f"must be one of {', '.join(KINDS)}, got {self.kind!r}")
        positive("level", self.level)

    @property
    def by(self) -> Column:
        """What the inner partition splits by."""
        return self.partition.by

    def split(self, labels: Array, clients: int, seed: int) -> Parts:
        """Each client's indices, as the inner partition gives them."""
        return self.partition.split(labels, clients, seed)

    def transform(self, seed: int, client: str, x: Array) -> Array:
        """The client's view of inputs x, shape (n, ...), same shape and dtype.

        Raises:
            DataError: for a rotation of inputs that are not images, or inputs that are not floats.
        """
        if x.dtype.kind != "f":
            raise DataError(f"feature shift needs float inputs, got {x.dtype}")
        if self.kind == "noise":
            spread = self.level * uniform(seed, "shift", client)
            noise: Array = rng(seed, "shift", client, "noise").standard_normal(x.shape, np.float32)
            noise = (spread * noise).astype(x.dtype)
            return noise + x
        if self.kind == "scale":
            gain = np.full((), math.exp(self.level * normal(seed, "shift", client)), x.dtype)
            return np.multiply(x, gain, dtype=x.dtype)
        return rotate(x, self.level * (2.0 * uniform(seed, "shift", client) - 1.0))


def rotate(images: Array, degrees: float) -> Array:
    """Images, shape (..., h, w), turned counter-clockwise about their center, zeros outside.

    Values are interpolated bilinearly.

    Raises:
        DataError: for inputs with fewer than three axes.
    """
    if images.ndim < 3:
        raise DataError(
            f"rotation needs images of shape (n, h, w) or (n, c, h, w), got "
            f"{images.shape}; some data sets take image=True"
        )
    height, width = images.shape[-2:]
    row, column = np.meshgrid(
        np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij"
    )
    turn = math.radians(degrees)
    # Where each pixel comes from; rows grow downward.
    from_row = row * math.cos(turn) + column * math.sin(turn) + (height - 1) / 2
    from_column = -row * math.sin(turn) + column * math.cos(turn) + (width - 1) / 2
    top = np.floor(from_row + 1e-9).astype(np.int64)
    left = np.floor(from_column + 1e-9).astype(np.int64)
    out = np.zeros_like(images)
    for i, down in ((top, 1 - (from_row - top)), (top + 1, from_row - top)):
        for j, along in ((left, 1 - (from_column - left)), (left + 1, from_column - left)):
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            weight = np.where(inside, down * along, 0.0).astype(images.dtype)
            out += weight * images[..., i.clip(0, height - 1), j.clip(0, width - 1)]
    return out
