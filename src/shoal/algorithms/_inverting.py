"""The server's half of gradient inversion: earlier models, and stale updates made fresh by them.

No made-up example outlives the call that made it: what is kept, and goes into checkpoints, are the
models that the server sent out itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from shoal.algorithms._versions import COUNTER, counters, read
from shoal.encoded import Array
from shoal.errors import UpdateError
from shoal.parts import blank
from shoal.staleness import SQRT
from shoal.sums import owned
from shoal.tensors import Tensors


@dataclass(frozen=True, eq=False)
class Past:
    """What was folded, and the models that updates may have started from, by version.

    Attributes:
        like: names and shapes, without values.
        total: shape (size,), float64.
        version: of the newest model.
        models: flat, shape (size,) each.
    """

    like: Tensors
    total: Array
    version: int
    models: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Inverting:
    """The sum of updates, stale ones converted.

    Attributes:
        model: the function that makes the module.
        inputs: shape of one input.
        loss: of the clients.
        rate: their learning rate.
        lr: the server's.
        examples: made up for an update.
        iterations: of each search for them.
        starts: searches, whose accepted results are averaged.
        history: versions that are kept.
        accept: the largest relative distance between what D gives and what came.
    """

    model: Callable[[], Any]
    inputs: tuple[int, ...]
    loss: str
    rate: float
    lr: float = 1.0
    examples: int = 16
    iterations: int = 60
    starts: int = 3
    history: int = 100
    accept: float = 0.1
    scope: ClassVar[str] = "update"
    place: ClassVar[str] = "local"  # the module is here

    def init(self, model: Tensors) -> Past:
        """Nothing folded, and the first model; ConfigError if it cannot be inverted."""
        _inverter(self.model, self.inputs, self.loss, self.examples)
        version = read(model.groups[COUNTER])[0] if COUNTER in model.groups else 0
        size = model.layout.size
        return Past(blank(model.layout), np.zeros(size), version, {str(version): model.dense})

    def fold(self, acc: Past, value: Tensors, weight: float, client: str) -> Past:
        """Add an update as if it were fresh; UpdateError if it does not say where it began."""
        if value.layout != acc.like.layout or COUNTER not in value.groups:
            raise UpdateError(f"client {client!r} sent a part, or no version")
        version, steps = read(value.groups[COUNTER])
        delta, tau = value.dense, acc.version - version
        if tau < 0 or steps < 1:
            raise UpdateError(f"client {client!r} sent version {version} and {steps} steps")
        if tau:
            delta, weight = self._fresh(acc, delta, version, steps, weight, client)
        total = owned(acc.total)
        total += weight * delta
        return replace(acc, total=total)

    def _fresh(
        self, acc: Past, delta: Array, version: int, steps: int, weight: float, client: str
    ) -> tuple[Array, float]:
        old, now = acc.models.get(str(version)), acc.models[str(acc.version)]
        if old is not None:
            tool = _inverter(self.model, self.inputs, self.loss, self.examples)
            tries = [
                tool.estimate(old, delta, now, steps, self.rate, self.iterations, (client, k))
                for k in range(self.starts)
            ]
            found = [it.delta for it in tries if it.residual <= self.accept]
            if found:
                return np.mean(found, axis=0), weight
        return delta, weight * SQRT(acc.version - version)

    def merge(self, a: Past, b: Past) -> Past:
        """Both sums."""
        return replace(a, total=a.total + b.total)

    def finish(self, acc: Past) -> tuple[Tensors, Past]:
        """The step with the next version's number, and the model that it leads to."""
        layout, version = acc.like.layout, acc.version + 1
        step = (self.lr * acc.total).astype(layout.dtype)
        kept = {v: m for v, m in acc.models.items() if version - int(v) <= self.history}
        models = {**kept, str(version): acc.models[str(acc.version)] + step}
        value = Tensors(layout, step).with_group(COUNTER, counters(version))
        return value, Past(acc.like, np.zeros_like(acc.total), version, models)

    def clear(self, acc: Past) -> Past:
        """Nothing folded; the models stay."""
        return replace(acc, total=np.zeros_like(acc.total))


@lru_cache(maxsize=8)
def _inverter(model: Any, inputs: tuple[int, ...], loss: str, examples: int) -> Any:
    from shoal.algorithms._inversion import Inverter

    return Inverter(model, inputs, loss, examples)
