"""Deep gradient compression: top-k of a velocity that is corrected for momentum.

Lin, Han, Mao, Wang, Dally, Deep gradient compression, 2017, arXiv 1712.01887; warm-up and what is
sent densely as in the authors' code.
    u <- m u + clip(g);   v <- v + u;   send the largest of v;   u, v <- 0 there
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from shoal.codecs.layers import largest_of_each
from shoal.core import Context
from shoal.encoded import Array, Sparse
from shoal.errors import ConfigError, fraction, positive
from shoal.parts import gather, scatter
from shoal.tensors import Tensors, all_finite, zeros


@dataclass(frozen=True, eq=False)
class Velocity:
    """u, the momentum, and v, what has piled up of it without being sent."""

    momentum: Tensors
    velocity: Tensors


@dataclass(frozen=True)
class DGC:
    """Sparse uploads with momentum at the client; the server only averages: no momentum there.

    Attributes:
        fraction: of each matrix's values to send in the end; one waits 1 / fraction rounds or so.
        momentum: m, in [0, 1).
        nesterov: look ahead: u <- m (u + g), v <- v + u + g.
        clip, clients: largest norm of a client's values is clip / sqrt(clients); None for any.
        warmup: stages in which the fraction falls, exponentially, from fraction^(1 / (warmup + 1)).
        every: commits that a stage lasts.
        masking: forget momentum where something was sent.
        vectors: send tensors of one axis, as biases, whole.
        sampled: take what exceeds the threshold of a sample, as `TopK`.
    """

    fraction: float = 0.001
    momentum: float = 0.9
    nesterov: bool = False
    clip: float | None = None
    clients: int = 1
    warmup: int = 0
    every: int = 1
    masking: bool = True
    vectors: bool = True
    sampled: bool = False

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        fraction("fraction", self.fraction)
        fraction("momentum", self.momentum, one=False)
        positive("fraction", self.fraction)
        positive("clip", 1.0 if self.clip is None else self.clip)
        for name, least in (("clients", 1), ("warmup", 0), ("every", 1)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise ConfigError(name, f"must be a whole number from {least} on")

    def share(self, version: int) -> float:
        """The fraction that is sent by tasks on a model version."""
        stage = version // self.every + 1
        return float(self.fraction ** min(1.0, stage / (self.warmup + 1)))

    def init(self, model: Tensors) -> Velocity:
        """Both zero."""
        return Velocity(zeros(model.layout), zeros(model.layout))

    def apply(self, value: Tensors, state: Velocity, ctx: Context) -> tuple[Tensors, Velocity]:
        """The largest values of the velocity; a value with NaN or infinity is sent as it is."""
        whole, layout, flat = state.momentum.layout, value.layout, value.dense
        if not all_finite(flat):
            return value, state
        flat, m = self._clipped(flat), flat.dtype.type(self.momentum)
        before = gather(state.momentum.dense, whole, layout)
        u = m * (before + flat) if self.nesterov else m * before + flat
        step = u + flat if self.nesterov else u
        v = gather(state.velocity.dense, whole, layout) + step
        share, layers = self.share(ctx.version), layout.slices.values()
        found, plain = largest_of_each(v, layers, share, self.vectors, self.sampled)
        sent = value.with_flat(v if found.size == v.size else Sparse(v.size, found, v[found]))
        v = v.copy()
        v[found] = 0
        if self.masking:
            u[found[~plain]] = 0
        u = scatter(state.momentum.dense, whole, layout, u)
        v = scatter(state.velocity.dense, whole, layout, v)
        return sent, Velocity(Tensors(whole, u), Tensors(whole, v))

    def _clipped(self, flat: Array) -> Array:
        if self.clip is None:
            return flat
        norm, most = float(np.linalg.norm(flat.astype(np.float64))), self.clip / sqrt(self.clients)
        return flat if norm <= most else flat * flat.dtype.type(most / norm)
