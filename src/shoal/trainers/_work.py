"""What trainers share: how much work a task is, in which order, and by which rule."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.core import Examples, StepRule
from shoal.errors import ConfigError, DataError, positive
from shoal.messages import Config
from shoal.tensors import Tensors


def check_work(epochs: int, local_steps: int | None, batch: int) -> None:
    """Raise `ConfigError` for hyperparameters that say no amount of work."""
    _at_least("epochs", epochs, 1)
    if local_steps is not None:
        _at_least("local_steps", local_steps, 1)
    _at_least("batch", batch, 0)


def batch_size(num_examples: int, config: Config, batch: int) -> int:
    """Examples per step; a batch of 0 is all of them."""
    return _count(config, "batch", batch, least=0) or max(num_examples, 1)


def count_steps(
    num_examples: int, config: Config, epochs: int, local_steps: int | None, batch: int
) -> int:
    """Local steps of a task. The task's word goes first, then steps go before epochs."""
    size = batch_size(num_examples, config, batch)
    if "steps" in config or (local_steps is not None and "epochs" not in config):
        return _count(config, "steps", local_steps or 1)
    return _count(config, "epochs", epochs) * -(-num_examples // size)


def learning_rate(config: Config, lr: float) -> float:
    """The task's learning rate, or the trainer's.

    Raises:
        ConfigError: if the task's is not a positive number.
    """
    value = _number(config, "lr", lr)
    positive("task.config.lr", value)
    return value


def tuned(rule: StepRule[Any], config: Config) -> StepRule[Any]:
    """The rule with the task's strength `mu`, if the task names one.

    Raises:
        ConfigError: if the rule has no `mu`.
    """
    if "mu" not in config:
        return rule
    if not (dataclasses.is_dataclass(rule) and hasattr(rule, "mu")):
        name = type(rule).__name__
        raise ConfigError("task.config.mu", f"the trainer's rule {name} has none; use Proximal")
    changed: StepRule[Any] = dataclasses.replace(rule, mu=strength(config, 0.0))
    return changed


def strength(config: Config, mu: float) -> float:
    """The task's proximal strength, or the given one."""
    value = _number(config, "mu", mu)
    positive("task.config.mu", value, zero=True)
    return value


def order(
    num_examples: int, batch: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Each epoch's examples, shuffled anew; to be cut into batches, the last of them ragged.

    The last epoch ends early where `steps` batches in all are reached.
    """
    per_epoch = -(-num_examples // batch)
    while steps > 0:
        yield rng.permutation(num_examples)[: steps * batch]
        steps -= per_epoch


def require_examples(data: Examples, client: str) -> None:
    """Raise `DataError` for a client without data."""
    if len(data) == 0:
        raise DataError(f"client {client!r} has no data: leave it out of the partition")


def payload_groups(*parts: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Groups from several sources as one mapping, in the order that `Tensors` keeps."""
    return dict(sorted({p: g for part in parts for p, g in part.items()}.items()))


def _count(config: Config, key: str, default: int, least: int = 1) -> int:
    return _at_least(f"task.config.{key}", config.get(key, default), least)


def _at_least(field: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(field, f"must be a whole number, at least {least}, got {value!r}")
    return value


def _number(config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool | str):
        raise ConfigError(f"task.config.{key}", f"must be a number, got {value!r}")
    return float(value)
