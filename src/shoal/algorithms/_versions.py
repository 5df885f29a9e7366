"""A trainer that says which version an update started from, and in how many steps it was made."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from shoal.core import Trainer
from shoal.errors import ConfigError
from shoal.messages import Config, Metrics, Payload, Task
from shoal.tensors import Tensors

COUNTER, VERSION, STEPS = "counter/", "version", "steps"


def counters(version: int, steps: int = 0) -> Tensors:
    """The group that rides with a model and with an update."""
    values = {COUNTER + STEPS: np.int64(steps), COUNTER + VERSION: np.int64(version)}
    return Tensors.of(values).groups[COUNTER]


def read(group: Tensors) -> tuple[int, int]:
    """(version, steps)."""
    version, steps = (int(np.max(group[name], initial=0)) for name in (VERSION, STEPS))
    return version, steps


@dataclass(frozen=True)
class Versioned:
    """Local work of another trainer, told of together with where it began.

    Attributes:
        trainer: of the local work.
        model: the function that makes the module, which the server was given too.
    """

    trainer: Trainer[Any]
    model: Callable[[], Any]

    def bind(self, model: Callable[[], Any] | None) -> Self:
        """The same, bound to the module.

        Raises:
            ConfigError: if it is another one than the server's.
        """
        if model is not None and model is not self.model:
            raise ConfigError("model", "clients train another module than the server inverts")
        return replace(self, trainer=self.trainer.bind(self.model))

    def initial(self, seed: int) -> Tensors:
        """A fresh model of version 0."""
        return self.trainer.initial(seed).with_group(COUNTER, counters(0))

    def init(self, model: Tensors) -> Any:
        """The trainer's state."""
        return self.trainer.init(model)

    def steps(self, num_examples: int, config: Config) -> int:
        """The trainer's steps."""
        return self.trainer.steps(num_examples, config)

    def train(
        self, model: Tensors, data: Any, state: Any, task: Task, rng: np.random.Generator
    ) -> tuple[Payload, Any]:
        """Train, and add version and steps."""
        version, _ = read(model.groups[COUNTER])
        plain = model.with_group(COUNTER, None)
        payload, state = self.trainer.train(plain, data, state, task, rng)
        told = payload.tensors.with_group(COUNTER, counters(version, payload.steps))
        return replace(payload, tensors=told), state

    def evaluate(self, model: Tensors, data: Any) -> Metrics:
        """The trainer's metrics."""
        return self.trainer.evaluate(model.with_group(COUNTER, None), data)
