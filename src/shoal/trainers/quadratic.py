"""Gradient descent on quadratics: the oracle trainer, every step of which has a closed form.

    F(x) = mean_j 1/2 (x - b_j)' A_j (x - b_j);    y <- y - lr grad F(y), K steps
    one scalar example:  y = b + (1 - lr a)^K (x - b)

An example is one quadratic: `Examples.x` holds curvatures, shape (n,) or matrices (n, d, d), and
`Examples.y` optima, shape (n,) or (n, d). The model is one float64 value "x", shape () or (d,).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shoal.core import Examples, StepRule
from shoal.errors import ConfigError, DataError, ModelError, positive
from shoal.messages import Config, Metrics, Payload, Task
from shoal.rules import PLAIN
from shoal.tensors import Tensors
from shoal.trainers import _work

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Quadratic:
    """Full-batch gradient descent with exact gradients.

    Attributes:
        lr: learning rate.
        local_steps: gradient steps per task.
        rule: the step rule.
        start: the fresh model, a number or a vector.
        exact_prox: if above 0, solve min F(y) + exact_prox/2 ||y - x||^2 exactly, in one step.
    """

    lr: float
    local_steps: int = 1
    rule: StepRule[Any] = PLAIN
    start: float | tuple[float, ...] = 0.0
    exact_prox: float = 0.0

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        positive("lr", self.lr)
        positive("exact_prox", self.exact_prox, zero=True)
        _work.check_work(1, self.local_steps, 0)
        if self.exact_prox and self.rule != PLAIN:
            raise ConfigError("exact_prox", "an exact solution takes no step rule")

    def bind(self, model: Callable[[], Any] | None) -> Self:
        """The same trainer, starting at the number or vector that the function gives."""
        if model is None:
            return self
        start = np.asarray(model(), np.float64)
        return replace(self, start=tuple(start.tolist()) if start.ndim else float(start))

    def initial(self, seed: int) -> Tensors:
        """The start, with what the rule carries."""
        start = np.asarray(self.start, np.float64)
        if not np.isfinite(start).all():
            raise ModelError(f"x: the start holds NaN or infinity: {self.start}")
        model = Tensors.of({"x": start})
        return Tensors(model.layout, model.flat, _work.payload_groups(self.rule.groups(model)))

    def init(self, model: Tensors) -> Any:
        """The rule's state."""
        return self.rule.init(model)

    def steps(self, num_examples: int, config: Config) -> int:
        """Gradient steps of a task."""
        if self.exact_prox:
            return 1
        return _work.count_steps(num_examples, config, 1, self.local_steps, 0)

    def train(
        self, model: Tensors, data: Examples, state: Any, task: Task, rng: np.random.Generator
    ) -> tuple[Payload, Any]:
        """Take the steps. Draws nothing from `rng`.

        Raises:
            DataError: if there is no data, or curvatures and optima do not fit the model.
        """
        _work.require_examples(data, task.client)
        base: Array = model.dense
        a, b = _curvatures(data, base.size)
        lr, steps = _work.learning_rate(task.config, self.lr), self.steps(len(data), task.config)
        rule = self.rule if self.exact_prox else _work.tuned(self.rule, task.config)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.exact_prox:
                delta = _proximal(a, b, base, _work.strength(task.config, self.exact_prox))
            else:
                delta = _descend(a, b, base, rule, rule.begin(model, state), steps, lr) - base
            groups, state = rule.end(model, state, delta, steps, lr)
        tensors = Tensors(model.layout, delta, _work.payload_groups(groups))
        return Payload(tensors, len(data), steps), state

    def evaluate(self, model: Tensors, data: Examples) -> Metrics:
        """The mean loss, and "x" itself if it is a number."""
        x: Array = model.dense
        a, b = _curvatures(data, x.size)
        away = x - b
        loss = float(np.einsum("ni,nij,nj->", away, a, away)) / (2 * len(data))
        return {"loss": loss, "x": float(x[0])} if model["x"].ndim == 0 else {"loss": loss}


def _curvatures(data: Examples, size: int) -> tuple[Array, Array]:
    n = len(data)
    a, b = np.asarray(data.x, np.float64), np.asarray(data.y, np.float64)
    if n == 0 or a.size != n * size * size or b.size != n * size:
        raise DataError(
            f"curvatures of shape {a.shape} and optima of shape {b.shape} for a model of {size}: "
            "expected (n,) and (n,), or (n, d, d) and (n, d)"
        )
    return a.reshape(n, size, size), b.reshape(n, size)


def _descend(
    a: Array, b: Array, base: Array, rule: StepRule[Any], constants: Any, steps: int, lr: float
) -> Array:
    local = base
    for _ in range(steps):
        grad = np.einsum("nij,nj->i", a, local - b) / len(a)
        local = local - lr * rule.gradient(grad, local, base, constants)
    return local


def _proximal(a: Array, b: Array, base: Array, mu: float) -> Array:
    matrix = a.mean(0) + mu * np.eye(base.size)
    pull: Array = np.einsum("nij,nj->i", a, b - base) / len(a)
    return np.linalg.solve(matrix, pull)
