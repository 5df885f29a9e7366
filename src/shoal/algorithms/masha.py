"""MASHA1 and MASHA2: compressed methods for saddle points and other variational inequalities.

Beznosikov, Richtarik, Diskin, Ryabinin, Gasnikov, Distributed methods with compressed communication
for solving variational inequalities, 2021, arXiv 2110.03313; formulas from memory, convergence
checked. Clients compress, the server does not.
    z_h = tau z + (1 - tau) w - gamma F(w)
    1: z <- z_h - gamma mean Q(F_m(z_h) - F_m(w))             Q unbiased
    2: z <- z_h - mean C(gamma (F_m(z_h) - F_m(w)) + e_m)      C contractive, e_m what it leaves out
    with probability 1 - tau, by a coin that all share:  w <- z, and everybody sends F_m(w) whole

gamma F_m comes from any trainer of one plain local step at rate gamma, whose "gradient" may be the
operator of a game: (grad_x, -grad_y).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from shoal.aggregators import Mean
from shoal.algorithms._increments import lasting
from shoal.algorithms.fedavg import FedAvg
from shoal.core import Algorithm, Context, Trainer, Transform
from shoal.errors import ConfigError, fraction, positive
from shoal.seeds import uniform
from shoal.tensors import Tensors, zeros

ASSUMES = ("a monotone operator",)


@dataclass(frozen=True, eq=False)
class Anchored:
    """-gamma F_m(w), what was left out, and the codec's state."""

    anchor: Tensors
    residual: Tensors
    codec: Any


@dataclass(frozen=True)
class Differences:
    """The client's half: what its operator differs by from that at w; `feedback` is MASHA2."""

    codec: Transform[Any]
    tau: float
    feedback: bool
    coins: int

    def init(self, model: Tensors) -> Anchored:
        """Before the first whole round."""
        return Anchored(zeros(model.layout), zeros(model.layout), self.codec.init(model))

    def apply(self, value: Tensors, state: Anchored, ctx: Context) -> tuple[Tensors, Anchored]:
        """The whole value in whole rounds, else the encoded difference."""
        if not value.finite():
            return value, state
        if whole(self.coins, self.tau, ctx.version):
            return value, Anchored(Tensors(value.layout, value.dense), state.residual, state.codec)
        wanted = value.dense - state.anchor.dense + state.residual.dense
        sent, codec = self.codec.apply(value.with_flat(wanted), state.codec, ctx)
        if not self.feedback or not sent.finite():
            return sent, Anchored(state.anchor, state.residual, codec)
        left = Tensors(value.layout, wanted - sent.dense)
        return sent, Anchored(state.anchor, left, codec)


@dataclass(frozen=True, eq=False)
class Points:
    """z, w, -gamma F(w), and the point at which clients look."""

    z: Tensors
    w: Tensors
    anchor: Tensors
    point: Tensors


@dataclass(frozen=True)
class Extragradient:
    """The server's half: a step from the point of this round to that of the next."""

    tau: float
    coins: int

    def init(self, model: Tensors) -> Points:
        """z = w = the first model, at which the first round is whole."""
        start = Tensors(model.layout, model.dense)
        return Points(start, start, zeros(model.layout), start)

    def apply(self, value: Tensors, state: Points, ctx: Context) -> tuple[Tensors, Points]:
        """The move to the next point."""
        version, layout = ctx.version - 1, state.z.layout  # the round that was just folded
        z, w, anchor, point = (t.dense for t in (state.z, state.w, state.anchor, state.point))
        if whole(self.coins, self.tau, version):
            anchor = value.dense
        else:
            z = point + value.dense
        tau = layout.dtype.type(self.tau)
        if whole(self.coins, self.tau, version + 1):
            w = following = z
        else:
            following = tau * z + (1 - tau) * w + anchor
        new = Points(*(Tensors(layout, np.array(x)) for x in (z, w, anchor, following)))
        return value.with_flat(following - point), new


@lru_cache(maxsize=4096)
def whole(coins: int, tau: float, version: int) -> bool:
    """Whether everybody sends the operator whole: at first, and after a coin, but not twice."""
    if version == 0:
        return True
    at, run = version, 0  # of coins in a row, each of which needs a step since the last whole round
    while at and uniform(coins, "masha", at) > tau:
        at, run = at - 1, run + 1
    return run > 0 and run % 2 == (1 if at else 0)


def masha1(
    *, codec: Transform[Any], tau: float, trainer: Trainer[Any], coins: int = 0,
    rounds: FedAvg = FedAvg(),
) -> Algorithm:  # fmt: skip
    """MASHA1: for an unbiased codec, e.g. `RandK(0.1)`. Every client must answer every round.

    Args:
        tau: in [0, 1); 1 - tau near the codec's rate makes whole rounds cost what others do.
        trainer: of one plain local step, at the rate gamma.
        coins: seed of the coins, which clients and server share.
    """
    return _made("masha1", codec, tau, False, trainer, coins, rounds)


def masha2(
    *, codec: Transform[Any], tau: float, trainer: Trainer[Any], coins: int = 0,
    rounds: FedAvg = FedAvg(),
) -> Algorithm:  # fmt: skip
    """MASHA2: for a contractive codec, e.g. `TopK(0.1)`; the rest as `masha1`."""
    return _made("masha2", codec, tau, True, trainer, coins, rounds)


def _made(
    name: str, codec: Transform[Any], tau: float, feedback: bool, trainer: Trainer[Any], coins: int,
    rounds: FedAvg,
) -> Algorithm:  # fmt: skip
    fraction("tau", tau, one=False)
    positive("coins", coins, zero=True)
    if rounds.cohort is not None or rounds.fraction is not None:
        raise ConfigError("rounds", "every client must take part in every round: no cohort")
    upload = Differences(codec, tau, feedback, coins)
    planned = lasting(None, 10**12, rounds)
    return Algorithm(planned, trainer, Mean(), upload, Extragradient(tau, coins), name)
