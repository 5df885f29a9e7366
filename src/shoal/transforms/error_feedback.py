"""What a codec leaves out is sent later (Seide et al. 2014; Karimireddy et al. 2019, 1901.09847).

p = u + e;   send C(p);   e <- p - C(p)
"""

from dataclasses import dataclass
from typing import Any

from shoal.core import Context, Transform
from shoal.parts import gather, scatter
from shoal.tensors import Tensors, zeros


@dataclass(frozen=True, eq=False)
class Feedback:
    """What has not been sent yet, and the codec's own state."""

    residual: Tensors
    codec: Any


@dataclass(frozen=True)
class ErrorFeedback:
    """Error feedback around a whole codec, e.g. `ErrorFeedback(chain(TopK(0.01), Quantize()))`.

    Attributes:
        codec: what would be applied without it.
    """

    codec: Transform[Any]

    def init(self, model: Tensors) -> Feedback:
        """No residual yet."""
        return Feedback(zeros(model.layout), self.codec.init(model))

    def apply(self, value: Tensors, state: Feedback, ctx: Context) -> tuple[Tensors, Feedback]:
        """The encoded sum of value and residual, and what that leaves out.

        Of a partial value, the residual outside the part stays. A value with NaN or infinity is
        sent as it is, for the server to reject, and leaves no trace in the state.
        """
        whole, layout = state.residual.layout, value.layout
        old = state.residual.dense
        wanted = value.dense + gather(old, whole, layout)
        sent, codec = self.codec.apply(value.with_flat(wanted), state.codec, ctx)
        if not sent.finite():
            return sent, state
        residual = scatter(old, whole, layout, wanted - sent.dense)
        return sent, Feedback(Tensors(whole, residual), codec)
