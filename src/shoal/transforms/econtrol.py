"""EControl: error feedback with a control on how much of the error is compensated.

Gao, Islamov, Stich, EControl: Fast distributed optimization with compression and error control,
2023, arXiv 2311.05645; formula from memory, checked on quadratics.
    d = C(eta e_i + u - h_i);   e_i <- e_i + u - h_i - d;   h_i <- h_i + d;   send d
The server adds up what is sent (`Accumulate`). eta = 0 is EF21.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

from shoal.core import Context, Transform
from shoal.errors import ConfigError, fraction, positive
from shoal.parts import gather, scatter
from shoal.tensors import Tensors, zeros


@dataclass(frozen=True, eq=False)
class Controlled:
    """e_i, all that was asked for and not sent; h_i, the sum of what was sent; the codec's state.

    Attributes:
        error, estimate: e_i and h_i.
    """

    error: Tensors
    estimate: Tensors
    codec: Any


@dataclass(frozen=True)
class EControl:
    """The client's half of EControl; `econtrol` is the whole. The server adds up what is sent.

    Attributes:
        codec: contractive, e.g. `TopK(0.01)`.
        eta: the share of the error that is compensated, in [0, 1]; see `strength`.
    """

    codec: Transform[Any]
    eta: float

    def __post_init__(self) -> None:
        """Check the share."""
        fraction("eta", self.eta)

    def init(self, model: Tensors) -> Controlled:
        """No error, and h_i = 0."""
        return Controlled(zeros(model.layout), zeros(model.layout), self.codec.init(model))

    def apply(self, value: Tensors, state: Controlled, ctx: Context) -> tuple[Tensors, Controlled]:
        """The encoded change, and error and estimate moved by what is decoded of it.

        Of a partial value, the state outside the part stays. A value with NaN or infinity is sent
        as it is, for the server to reject, and leaves no trace in the state.
        """
        whole, layout = state.error.layout, value.layout
        errors, estimates = state.error.dense, state.estimate.dense
        error, known = gather(errors, whole, layout), gather(estimates, whole, layout)
        change = value.dense - known
        wanted = change + error.dtype.type(self.eta) * error
        sent, codec = self.codec.apply(value.with_flat(wanted), state.codec, ctx)
        if not sent.finite():
            return sent, state
        decoded = sent.dense
        left = scatter(errors, whole, layout, error + (change - decoded))
        moved = scatter(estimates, whole, layout, known + decoded)
        return sent, Controlled(Tensors(whole, left), Tensors(whole, moved), codec)


def strength(contraction: float) -> float:
    """The paper's eta for a codec with |C(u) - u|^2 <= (1 - contraction) |u|^2.

    It is small: for top-k of 1 % the method is close to EF21. With two local steps on a few
    examples 0.1 to 0.3 did better (benchmarks/accuracy-over-bytes.py).

    Raises:
        ConfigError: unless 0 < contraction < 1; an exact codec needs no control.
    """
    positive("contraction", contraction)
    if contraction >= 1:
        raise ConfigError("contraction", f"must lie in (0, 1), got {contraction!r}")
    root = sqrt(1 - contraction)
    return min(1.0, contraction / (3 * root * (1 + root)))
