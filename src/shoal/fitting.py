"""What cannot work together in an algorithm, refused before a run starts with what would work.

Nothing here lists methods: each check asks the parts themselves, so a new part is checked too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from shoal.aggregators import AGGREGATORS, Routed
from shoal.core import NOTHING, Aggregator, Algorithm, Transform
from shoal.errors import ConfigError, ShoalError
from shoal.members import Members
from shoal.pipelines import check as check_pipeline
from shoal.pipelines import stages
from shoal.rules import RULES
from shoal.sums import WeightedSum
from shoal.tensors import Tensors, zeros
from shoal.transforms import EF21, Accumulate, EControl, Entropy, ErrorFeedback, Noise

ONE = Tensors.of({"x": np.zeros(1)})
PROBED = 500  # updates of a commit that whole-set rules are probed with


def check(algorithm: Algorithm, model: Tensors, updates: int) -> None:
    """Refuse parts that cannot work together.

    Args:
        model: fresh, with the groups that its trainer gives it.
        updates: at most so many are in a commit.

    Raises:
        ConfigError: naming the part, the reason and the nearest thing that works.
    """
    upload, rule = algorithm.upload, algorithm.aggregator
    check_pipeline(upload, rule)
    _check_estimates(upload, rule, algorithm.optimizer)
    _check_noise(upload)
    _check_number(rule, updates)
    _check_groups(algorithm, model)
    _check_read(algorithm, model)


def check_relays(algorithm: Algorithm, model: Tensors) -> None:
    """Refuse relays where the server reads more off an update than what it moves the model by.

    Raises:
        ConfigError: naming the aggregator.
    """
    if makes(algorithm.aggregator, model):
        raise ConfigError(
            "relays", f"{_name(algorithm.aggregator)} reads more off each client's update "
            'than its step; a relay sends one for all: use wire="two" of scaffold, or no relays',
        )  # fmt: skip


def check_plane(rule: Aggregator[Any], plane: str) -> None:
    """Refuse planes that an aggregator cannot be taken to.

    Raises:
        ConfigError: naming the aggregator.
    """
    main = rule.default if isinstance(rule, Routed) else rule
    place = getattr(main, "place", plane)
    if plane != place:
        raise ConfigError(
            "plane", f"{_name(rule)} folds in the server's process: set it to {place!r}"
        )


def parts(value: Any) -> Iterator[Any]:
    """A value and all that its fields hold, of frozen dataclasses within each other."""
    yield value
    if isinstance(value, tuple):
        for item in value:
            yield from parts(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if field.init:
                yield from parts(getattr(value, field.name))


def additive(rule: Aggregator[Any], model: Tensors = ONE) -> bool:
    """Whether an aggregator only adds up what is sent, so that nobody has to see one update."""
    accumulator = (rule if isinstance(rule, Routed) else Routed(rule)).init(model)
    return all(isinstance(part, WeightedSum) for part in accumulator.parts)


def only_sums(rule: Aggregator[Any], model: Tensors) -> bool:
    """Whether what an aggregator makes of updates depends on nothing but their weighted sum.

    Tried out: what one client sends more and another less must leave no trace, now or later.
    """
    if additive(rule, model):
        return True
    draws = np.random.default_rng(0)
    one, two, three, moved = draws.standard_normal((4, model.layout.size))
    try:
        plain = _outcome(rule, model, [(one, two, three), (three,)])
        shifted = _outcome(rule, model, [(one + moved, two - moved, three), (three,)])
    except ShoalError:  # of who these clients are, or what form updates have
        return False
    scale = max(float(np.abs(values).max(initial=0)) for values in plain) or 1.0
    return all(np.allclose(a, b, atol=1e-4 * scale) for a, b in zip(plain, shifted, strict=True))


def _outcome(rule: Aggregator[Any], model: Tensors, commits: Any) -> list[Any]:
    """The aggregates of some commits, each of updates of clients c0, c1, ..."""
    whole = rule if isinstance(rule, Routed) else Routed(rule)
    acc, found = whole.init(model), []
    for updates in commits:
        for i, update in enumerate(updates):
            value = Tensors(model.layout, update.astype(model.layout.dtype))
            acc = whole.fold(acc, value, 1.0, f"c{i}")
        value, acc = whole.finish(acc)
        found += [value.dense, *(group.dense for group in value.groups.values())]
    return found


def makes(rule: Aggregator[Any], model: Tensors) -> Mapping[str, Tensors]:
    """The groups that an aggregator makes itself, whatever clients send."""
    main = rule.default if isinstance(rule, Routed) else rule
    return main.finish(main.init(model))[0].groups


def _check_estimates(
    upload: Transform[Any], rule: Aggregator[Any], optimizer: Transform[Any]
) -> None:
    """Changes of an estimate mean something only where they are added up."""
    for step in parts(upload):
        if not isinstance(step, EF21 | EControl):
            continue
        name = type(step).__name__
        adds = any(isinstance(part, Accumulate) for part in parts(optimizer))
        if not adds or not additive(rule):
            raise ConfigError(
                "algorithm.upload", f"{name} sends changes of an estimate, which this server does "
                f"not add up: use shoal.{name.lower()}(...), or ErrorFeedback for plain updates",
            )  # fmt: skip


def _check_noise(upload: Transform[Any]) -> None:
    """Error feedback keeps what it left out: noise within it would be taken back next time."""
    for step in parts(upload):
        if not isinstance(step, ErrorFeedback | EF21 | EControl):
            continue
        if any(isinstance(inner, Noise) for inner in parts(step.codec)):
            raise ConfigError(
                "algorithm.upload", f"{type(step).__name__} sends later what its codec took away, "
                "so it takes Noise back and with it the privacy: put Clip and Noise in front, "
                "chain(Clip(...), Noise(...), ErrorFeedback(...))",
            )  # fmt: skip


def _check_number(rule: Aggregator[Any], updates: int) -> None:
    """Rules over whole sets may need more updates than a commit will ever have."""
    main = rule.default if isinstance(rule, Routed) else rule
    if type(main) not in AGGREGATORS.values() or updates > PROBED:
        return
    acc = main.init(ONE)
    if not isinstance(acc, Members):
        return
    for i in range(updates):
        acc = main.fold(acc, ONE.with_flat(np.array([float(i)])), 1.0, f"c{i:03d}")
    try:
        main.finish(acc)
    except ConfigError as error:
        raise ConfigError(
            f"algorithm.aggregator.{error.field}", f"{_name(main)}: {error.problem}; a "
            f"commit has at most {updates} updates here, so a larger cohort or buffer helps too",
        ) from error  # fmt: skip


def _check_groups(algorithm: Algorithm, model: Tensors) -> None:
    """What rides with the model for a step rule must be moved by somebody."""
    main = algorithm.aggregator
    rule: Any = getattr(algorithm.trainer, "rule", None)
    if type(rule) not in RULES.values() or algorithm.optimizer != NOTHING:
        return  # an optimizer may move it
    carried = [prefix for prefix in rule.groups(model) if prefix in model.groups]
    if not carried:
        return
    sent, _ = rule.end(model, rule.init(model), zeros(model.layout).dense, 1, 1.0)
    made = makes(main, model)
    still = [prefix for prefix in carried if prefix not in sent and prefix not in made]
    if still:
        raise ConfigError(
            "algorithm.aggregator", f"{_name(main)} never moves the {still[0]!r} values that "
            f"{type(rule).__name__} gives every model: use the method that the rule belongs to, "
            "e.g. shoal.scaffold or shoal.fedavg_m",
        )  # fmt: skip


def _check_read(algorithm: Algorithm, model: Tensors) -> None:
    """Where the server reads control variates off deltas, a lossy upload would change them too."""
    lossy = [type(s).__name__ for _, s in stages(algorithm.upload) if not isinstance(s, Entropy)]
    if lossy and makes(algorithm.aggregator, model):
        raise ConfigError(
            "algorithm.upload", f"{_name(algorithm.aggregator)} reads more off what clients send "
            f"than their step, and {lossy[0]} changes it on the way: leave it out, or use a form "
            'made for it, as wire="two" of scaffold, or scallion',
        )  # fmt: skip


def _name(rule: Aggregator[Any]) -> str:
    return type(rule.default if isinstance(rule, Routed) else rule).__name__
