"""Optimizers of torch, and of libraries like it, named by text with plain options."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from shoal.errors import ConfigError, MissingExtra, nearest
from shoal.messages import Value
from shoal.trainers._replica import Replica

BETAS = ("beta1", "beta2")  # in place of `betas`
EXTRAS = {"pytorch_optimizer": "optim"}  # packages that an extra of shoal brings


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """What a name stands for: "Adam" of torch.optim, or "package.module:Name".

    Raises:
        ConfigError: if there is no such optimizer.
        MissingExtra: if its package belongs to an extra that is not installed.
    """
    module, _, attribute = name.rpartition(":")
    try:
        home = importlib.import_module(module or "torch.optim")
    except ImportError as error:
        package = module.partition(".")[0]
        if package in EXTRAS:
            raise MissingExtra(package, EXTRAS[package]) from error
        raise ConfigError("optimizer", f"{name!r}: {error}") from error
    found = getattr(home, attribute, None)
    if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)):
        known = [n for n, v in vars(home).items() if inspect.isclass(v) and n[:1].isupper()]
        raise ConfigError("optimizer", f"no {attribute!r} in {home.__name__}; "
                          f"{nearest(attribute, known)}")  # fmt: skip
    return found


def made(
    name: str, options: Mapping[str, Value], replica: Replica, lr: float
) -> torch.optim.Optimizer:
    """A fresh optimizer of a replica's parameters, which it changes in place.

    Raises:
        ConfigError: if it does not take the options, or the parameters have master copies.
    """
    if replica.narrow[0]:
        raise ConfigError("optimizer", "steps parameters of one type: leave it out for mixed ones")
    kind: Any = optimizer_class(name)
    settings: dict[str, Any] = {k: v for k, v in options.items() if k not in BETAS}
    if len(settings) < len(options):  # plain data has no pairs of numbers
        default = inspect.signature(kind).parameters["betas"].default
        settings["betas"] = tuple(options.get(b, v) for b, v in zip(BETAS, default, strict=True))
    try:
        optimizer: torch.optim.Optimizer = kind(replica.params, lr=lr, **settings)
    except (TypeError, ValueError) as error:
        raise ConfigError("options", f"{name}: {error}") from error
    return optimizer


def check_options(name: str, options: Mapping[str, Value]) -> None:
    """Raise `ConfigError` unless there is such an optimizer, and it takes these options."""
    names = list(inspect.signature(optimizer_class(name)).parameters)
    names += BETAS if "betas" in names else ()
    for option in options:
        if option not in names or option in ("params", "lr", "betas"):
            raise ConfigError(f"options.{option}", f"{name} has none; {nearest(option, names)}")
