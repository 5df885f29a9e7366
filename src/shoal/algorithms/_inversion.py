"""Data that would have led to an update, and the update that they would lead to now.

D = argmin |W(x_old; D) - delta|^2 / |delta|^2         W: K gradient steps on D, differentiated
estimate = W(x_now; D)                                 D lives no longer than this call
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from shoal.errors import ConfigError
from shoal.seeds import integer
from shoal.trainers._replica import Replica, limited, seeded
from shoal.trainers._structure import draws

FROZEN = 0  # the seed of `shoal.trainers.torch` for what does not travel
SHARP = 3.0  # of made-up classes: those of one class alone are hard to reach from soft ones
CPU = torch.device("cpu")
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda out, y: nn.functional.cross_entropy(out, (SHARP * y).softmax(1)),
    "mse_loss": nn.functional.mse_loss,
}
Array = NDArray[Any]


@dataclass(frozen=True)
class Estimate:
    """What an update would be now, and how well the data behind it explain what came.

    `delta` has the shape (size,); `residual` is |W(x_old; D) - delta| / |delta|.
    """

    delta: Array
    residual: float


class Inverter:
    """Inverts updates of one module, in float64 on the CPU.

    Args:
        make: the module; its trainable values are those of the model.
        inputs: shape of one input.
        loss: a name in `LOSSES`.
        examples: how many are made up.

    Raises:
        ConfigError: for a module that cannot be inverted, with the reason.
    """

    def __init__(
        self, make: Callable[[], nn.Module], inputs: Sequence[int], loss: str, examples: int
    ) -> None:
        replica = Replica(make, CPU, 0)  # the seed of `shoal.trainers.torch`
        self.module, self.layout = replica.module.double(), replica.layout
        self.shape, self.loss = (examples, *inputs), LOSSES[loss]
        if replica.buffer_names:
            _refuse("it has buffers (batch norm), which updates do not tell", "GroupNorm")
        try:
            if draws(replica, torch.zeros(self.shape, dtype=torch.float64)):
                _refuse("it draws random numbers (dropout)", "a module without them")
            with torch.no_grad():
                self.out = tuple(self.module(torch.zeros(self.shape, dtype=torch.float64)).shape)
        except (RuntimeError, ValueError, IndexError) as error:
            _refuse(f"it does not take inputs of {tuple(inputs)}: {error!r:.100}", "their shape")
        self._check()

    def _check(self) -> None:
        """Try one derivative of the loss that is minimized."""
        flat = torch.linspace(-0.3, 0.3, self.layout.size, dtype=torch.float64)
        x, y = self._start(0, "check")
        try:
            moved = self.steps(flat, x, y, 1, 1.0, graph=True)
            found = torch.autograd.grad(moved.square().sum(), (x, y))
        except RuntimeError as error:
            _refuse(f"its steps have no derivative: {error!r:.100}", "smooth layers")
        if not all(part.isfinite().all() for part in found) or not found[0].any():
            _refuse("its updates do not depend on inputs smoothly", "smooth layers")

    def _start(self, seed: int, *purpose: str | int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(integer(seed, "inversion", *purpose) % 2**63)
        wide: Any = {"generator": draw, "dtype": torch.float64, "requires_grad": True}
        return torch.randn(self.shape, **wide), torch.randn(self.out, **wide)

    def steps(
        self, flat: Tensor, x: Tensor, y: Tensor, count: int, lr: float, graph: bool
    ) -> Tensor:
        """How far full-batch steps on (x, y) lead from a model, flat."""
        moved = flat.detach().requires_grad_()
        for _ in range(count):
            out = functional_call(self.module, self._named(moved), (x,))
            (slope,) = torch.autograd.grad(self.loss(out, y), moved, create_graph=graph)
            moved = moved - lr * slope
            if not graph:
                moved = moved.detach().requires_grad_()
        return moved - flat

    def _named(self, flat: Tensor) -> dict[str, Tensor]:
        slices = self.layout.slices.items()
        return {name: flat[where].view(shape) for name, (where, shape) in slices}

    def estimate(
        self, old: Array, delta: Array, now: Array, count: int, lr: float, iterations: int,
        name: tuple[str | int, ...],
    ) -> Estimate:  # fmt: skip
        """The update that the data behind `delta` would give on the model as it is now.

        Args:
            old, now: models, shape (size,); `delta` was trained from `old`.
            count: local steps of learning rate `lr` that it took.
            iterations: of the search.
            name: of the draw that the search begins with.
        """
        before, wanted, after = (
            torch.from_numpy(np.array(v, np.float64)) for v in (old, delta, now)
        )
        scale = wanted.square().sum()
        if not scale:
            return Estimate(np.zeros(len(delta)), 0.0)
        x, y = self._start(0, *name)
        search = torch.optim.LBFGS(
            [x, y], lr=1.0, max_iter=iterations, history_size=20, line_search_fn="strong_wolfe",
            tolerance_grad=1e-12, tolerance_change=1e-14,
        )  # fmt: skip

        def distance() -> Tensor:
            search.zero_grad()
            moved = self.steps(before, x, y, count, lr, graph=True)
            away = (moved - wanted).square().sum() / scale
            away.backward()  # type: ignore[no-untyped-call]
            return away

        with limited(1), seeded(CPU, 0):
            search.step(distance)  # type: ignore[no-untyped-call]
            away = float(distance().detach())
            found = self.steps(after, x.detach(), y.detach(), count, lr, graph=False)
        return Estimate(found.detach().numpy(), away**0.5)


def _refuse(reason: str, instead: str) -> None:
    raise ConfigError(
        "model", f"cannot be inverted: {reason}. Use {instead}, or shoal.fedbuff, which weighs "
        "stale updates less",
    )  # fmt: skip
