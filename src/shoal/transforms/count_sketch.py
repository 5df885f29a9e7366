"""Updates as count sketches, whose sums estimate the sum of updates, masked or not.

Charikar, Chen, Farach-Colton, Finding frequent items in data streams, 2002; for federated learning:
Rothchild et al., FetchSGD, 2020, arXiv 2007.07682.
    cells[r, h_r(j)] += s_r(j) round(u_j / step);   C(u)_j = step median_r s_r(j) cells[r, h_r(j)]
"""

from dataclasses import dataclass

import numpy as np

from shoal.codecs import Sketch
from shoal.codecs.sketch import ROWS, sketched
from shoal.core import Context
from shoal.errors import ConfigError, positive
from shoal.seeds import key
from shoal.tensors import Tensors, all_finite


@dataclass(frozen=True)
class CountSketch:
    """A sketch of rows times width cells of four bytes, in place of all values; see `fetchsgd`.

    Attributes:
        width: cells of a row; an estimate errs by about the norm of the update over its root.
        rows: odd; more of them make a large error rarer.
        step: values are rounded to multiples of it; sums must stay below 2**31 steps.
    """

    width: int
    rows: int = 5
    step: float = 1e-6

    def __post_init__(self) -> None:
        """Check the fields."""
        if type(self.width) is not int or not 1 <= self.width < 2**31:
            raise ConfigError("width", f"must be a whole number above 0, got {self.width!r}")
        if type(self.rows) is not int or not 1 <= self.rows <= ROWS or self.rows % 2 == 0:
            raise ConfigError("rows", f"must be odd and at most {ROWS}, got {self.rows!r}")
        positive("step", self.step)

    def init(self, model: Tensors) -> None:
        """No state."""

    def apply(self, value: Tensors, state: None, ctx: Context) -> tuple[Tensors, None]:
        """The value as a `Sketch`; one with NaN or infinity as it is, for the server to reject.

        Raises:
            ConfigError: for a value of 2**31 steps.
        """
        flat = value.dense
        if flat.dtype != np.float32 or not all_finite(flat):
            return value, None
        steps = np.rint(flat / np.float64(self.step))
        if np.abs(steps).max(initial=0) >= 2**31:
            raise ConfigError("step", f"{self.step} is too small for values in this update")
        indices = np.flatnonzero(steps)
        shared = int.from_bytes(key(ctx.seed, "count-sketch")[:8], "little")
        cells = sketched(
            steps[indices].astype(np.int32), indices, self.rows, self.width, shared
        )  # fmt: skip
        return value.with_flat(Sketch(flat.size, cells, self.rows, float(self.step), shared)), None
