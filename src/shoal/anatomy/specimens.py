"""One small instance of a method, made by the names of the parameters that it cannot do without.

A new method needs no row here unless it asks for something that none before has asked for.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from shoal.algorithms._codes import GradientCode, share
from shoal.algorithms._pacing import Pacing
from shoal.core import Algorithm, Examples, Transform
from shoal.errors import ConfigError, MissingExtra
from shoal.trainers.numpy import MLP
from shoal.trainers.quadratic import Quadratic
from shoal.transforms import CountSketch, TopK

FEATURES, CLASSES, HIDDEN = 48, 4, 12
SIZES = {"c0": 6, "c1": 4, "c2": 8, "c3": 10, "c4": 4, "c5": 12}
SECONDS = {"c0": 1.0, "c1": 1.3, "c2": 1.7, "c3": 2.9, "c4": 4.1, "c5": 7.9}
NAMES = tuple(SIZES)
PAIRS = tuple((NAMES[i], NAMES[i + 1]) for i in range(0, len(NAMES), 2))
CODE = GradientCode(NAMES, tuple(SIZES.values()), 1)
LINE = 64  # values of a quadratic


def _module() -> Any:
    from torch import nn

    hidden = nn.Linear(FEATURES, HIDDEN)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


# What parameters without a default get.
VALUES: Mapping[str, Any] = {
    "alpha": 0.5,
    "beta": 0.5,
    "candidates": 4,
    "cells": 400,
    "clients": len(NAMES),
    "codec": TopK(0.1),
    "concurrency": 4,
    "deadline": 1000.0,
    "eta": 0.1,
    "examples": SIZES,
    "inputs": (FEATURES,),
    "lr": 0.01,
    "max_steps": 4,
    "model": _module,
    "pacing": Pacing(9),
    "population": len(NAMES),
    "replicas": PAIRS,
    "shape": CODE,
    "smoothness": dict.fromkeys(NAMES, 4.0),
    "stride": 0.2,
    "tau": 0.5,
    "tiers": PAIRS,
    "window": 5.0,
}
# Likewise by type, where a method takes one kind of thing alone.
KINDS: Mapping[Any, Any] = {CountSketch: CountSketch(128)}
# What makes an instance small and quick; sizes that follow from them are not the method's own.
SMALL: Mapping[str, Any] = {
    "examples": 2, "features": 64, "history": 20, "iterations": 2, "queries": 2, "starts": 1,
}  # fmt: skip
# What a parameter says about the federation that its method must be told.
TOLD: Mapping[str, str] = {
    "clients": "how many clients there are",
    "deadline": "seconds that a round may take",
    "examples": "every client's number of examples",
    "inputs": "the shape of an input",
    "model": "the module, at the server",
    "population": "how many clients there are",
    "replicas": "which clients hold the same data",
    "shape": "which clients hold which parts of the data",
    "smoothness": "the smoothness of every client's loss",
    "stride": "learning rate times local steps",
    "tiers": "clients by speed",
    "window": "seconds between commits",
}
COHORT = 4  # of methods that take one


@dataclass(frozen=True)
class Specimen:
    """An instance of a method, the data that it trains on, and what it was made with.

    Attributes:
        trainer: kinds of trainers that the method takes, the first of which it has.
        parameters: names of all parameters of its factory.
        needed: of those without a default.
        arguments: what it was made with, but for the trainer.
        remade: another instance with more arguments.
    """

    algorithm: Algorithm
    clients: Mapping[str, Examples]
    trainers: tuple[str, ...]
    parameters: tuple[str, ...]
    needed: tuple[str, ...]
    arguments: Mapping[str, Any]
    remade: Callable[[Mapping[str, Any]], Algorithm]


def specimen(factory: Callable[..., Algorithm], every: bool = False) -> Specimen:
    """A method's instance with the first trainer that it takes.

    Args:
        every: try all kinds of trainers, not only until one fits.

    Raises:
        ConfigError: if it needs a parameter that is not in `VALUES`, or takes none of the trainers.
    """
    signature = inspect.signature(factory)
    required = [p for p in signature.parameters.values() if p.default is inspect.Parameter.empty]
    needed = [parameter.name for parameter in required]
    arguments: dict[str, Any] = {
        p.name: _value(p, factory) for p in required if p.name != "trainer"
    }
    given = {**SMALL, "cohort": COHORT}
    for name, parameter in signature.parameters.items():
        small = given.get(name)  # of the same kind: names mean other things elsewhere
        if small is not None and isinstance(parameter.default, int | None):
            arguments[name] = small
    found: dict[str, Algorithm] = {}
    problem = ""
    for kind, make in TRAINERS.items():
        if found and not every:
            break
        try:
            found[kind] = make(partial(factory, **arguments))
        except (ConfigError, MissingExtra) as error:
            problem = problem or f"{kind}: {error}"
    if not found:
        raise ConfigError(factory.__name__, f"takes none of the trainers: {problem}")
    first, algorithm = next(iter(found.items()))
    data = _line() if first == "quadratic" else _classes()
    if "shape" in needed:
        data = share([data[name] for name in NAMES], CODE)

    def remade(more: Mapping[str, Any]) -> Algorithm:
        return TRAINERS[first](partial(factory, **arguments, **more))

    kinds, parameters = tuple(found), tuple(signature.parameters)
    return Specimen(
        algorithm, data, kinds, parameters, tuple(needed), arguments, remade
    )  # fmt: skip


def _value(parameter: inspect.Parameter, factory: Callable[..., Algorithm]) -> Any:
    """What a parameter gets, by its type or by its name."""
    kind = parameter.annotation
    if parameter.name in VALUES and kind not in KINDS:
        return VALUES[parameter.name]
    found = {int: COHORT, float: 0.5, Transform[Any]: TopK(0.1), **KINDS}
    if kind not in found:
        problem = f"no value for {parameter.name!r}: add one to VALUES"
        raise ConfigError(getattr(factory, "__name__", "method"), problem)
    return found[kind]


def _made(factory: Callable[..., Algorithm], trainer: Any, model: Any) -> Algorithm:
    """An algorithm bound to a model, which it can make a fresh one of."""
    algorithm = factory(trainer=trainer)
    bound = replace(algorithm, trainer=algorithm.trainer.bind(model))
    bound.trainer.initial(0)
    return bound


def _torch(factory: Callable[..., Algorithm]) -> Algorithm:
    from shoal.trainers.torch import SGD

    return _made(factory, SGD(lr=0.1, local_steps=2, batch=0, backend="sequential"), _module)


def _mlp(factory: Callable[..., Algorithm]) -> Algorithm:
    trainer = MLP(0.1, local_steps=2, batch=0, hidden=(HIDDEN,), backend="sequential")
    return _made(factory, trainer, lambda: (FEATURES, CLASSES))


def _quadratic(factory: Callable[..., Algorithm]) -> Algorithm:
    return _made(factory, Quadratic(0.1, 2, start=(0.0,) * LINE), None)


TRAINERS: dict[str, Callable[[Callable[..., Algorithm]], Algorithm]] = {
    "mlp": _mlp,
    "quadratic": _quadratic,
    "torch": _torch,
}


def _classes() -> dict[str, Examples]:
    """Examples of classes, each client's its own."""
    rng, data = np.random.default_rng(0), {}
    for name, count in SIZES.items():
        x = rng.standard_normal((count, FEATURES)).astype(np.float32)
        data[name] = Examples(x, rng.integers(0, CLASSES, count))
    return data


def _line() -> dict[str, Examples]:
    rng = np.random.default_rng(0)
    return {
        name: Examples(np.ones(count), rng.standard_normal((count, LINE)))
        for name, count in SIZES.items()
    }
