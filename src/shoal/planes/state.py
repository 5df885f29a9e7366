"""What every plane shares: its state as plain data, what it refuses, and how a model advances."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from shoal import kernels
from shoal.aggregators import Mean, Routed
from shoal.aggregators.buffers import Tops
from shoal.aggregators.routed import Split
from shoal.core import NOTHING, Transform
from shoal.encoded import Array, Encoded
from shoal.errors import ConfigError, ProtocolError, UpdateError
from shoal.members import Members
from shoal.messages import Payload
from shoal.parts import ranges
from shoal.sums import SMALL, WeightedSum
from shoal.tensors import Layout, Tensors, difference
from shoal.transforms import Scale

VALUES = ("buffer/", "counter/")  # groups that are sent as values and replace the model's


@dataclass(frozen=True)
class Snapshot:
    """A plane's complete state, whatever the plane: later folds do not change it."""

    model: Tensors
    version: int
    folded: int
    accumulator: Any
    optimizer: Any
    held: dict[int, Payload]


def check_weight(update: int, weight: float, client: str) -> None:
    """Raise `ProtocolError` unless a weight is finite and at least 0."""
    if not (isfinite(weight) and weight >= 0):
        raise ProtocolError(
            f"update {update} of client {client!r} has the weight {weight!r}: weights must be "
            "finite and at least 0"
        )


def check_sum(aggregator: Routed, accumulator: Any, folded: int) -> None:
    """Raise `ProtocolError` if a mean would divide by weights that sum to zero."""
    main = accumulator.parts[0]
    if isinstance(aggregator.default, Mean) and isinstance(main, WeightedSum):
        covered = main.coverage is not None and bool(np.any(main.coverage))
        if not main.weight and not covered:
            fixed = "" if main.bits is None else f", in steps of 2**-{main.bits}"
            raise ProtocolError(
                f"the weights of the {folded} updates folded sum to {main.weight!r}{fixed}: a mean "
                "needs a positive sum"
            )


def check_layout(update: int, payload: Payload, model: Tensors) -> None:
    """Raise `UpdateError` unless names, shapes and groups are the model's, or a part of them."""
    value = payload.tensors
    _check_part(update, "", value.layout, model.layout)
    for prefix, group in value.groups.items():
        if prefix not in model.groups or prefix == "private/":
            raise UpdateError(f"update {update} has {prefix!r}, which the model has not")
        _check_part(update, prefix, group.layout, model.groups[prefix].layout)


def remembers(accumulator: Split) -> bool:
    """Whether it may hold something after a commit."""
    return any(not isinstance(part, WeightedSum | Tops | Members) for part in accumulator.parts)


def check_forgets(aggregator: Routed, model: Tensors) -> None:
    """Raise `ConfigError` if a rule needs more from a commit to the next than workers keep."""
    if remembers(aggregator.init(model)):
        raise ConfigError(
            "aggregator",
            f"{type(aggregator.default).__name__} may remember updates over commits, and workers "
            "keep nothing: use the local plane, or functions",
        )


def delta_of(payload: Payload, model: Tensors) -> Tensors:
    """What is folded of a payload: its values relative to the current model."""
    value = payload.tensors
    if payload.kind == "model":
        return difference(value, model.select(value.layout.names))
    return value


def advance(model: Tensors, step: Tensors) -> Tensors:
    """The model with a step added; buffers and counters take the step's place."""
    if not step.groups:
        return model.with_flat(_added(model.dense, step.dense))
    groups = dict(model.groups)
    for prefix, group in step.groups.items():
        old = model.groups[prefix]
        groups[prefix] = group if prefix in VALUES else old.with_flat(old.dense + group.dense)
    return Tensors(model.layout, _added(model.dense, step.dense), groups)


def _added(a: Array, b: Array) -> Array:
    if a.size <= SMALL or a.dtype != b.dtype:
        return np.asarray(a + b)
    return np.add(a, b, out=kernels.empty(a.size, a.dtype))


def in_one_pass(
    aggregator: Routed, accumulator: Any, optimizer: Transform[Any], model: Tensors
) -> bool:
    """Whether a commit adds a plain mean, or a multiple of one, to a model without groups."""
    main = accumulator.parts[0]
    plain = isinstance(aggregator.default, Mean) and isinstance(main, WeightedSum)
    constant = optimizer == NOTHING or isinstance(optimizer, Scale)
    return (
        plain
        and main.coverage is None
        and constant
        and not accumulator.prefixes
        and model.layout.dtype.itemsize >= 4
    )


def moved(
    accumulator: Any,
    optimizer: Transform[Any],
    model: Tensors,
    values: Sequence[Tensors],
    weights: Sequence[float],
    fresh: bool,
) -> Tensors:
    """The next model of such a commit, in the accumulator's memory: only `renewed` may follow.

    Args:
        values: of updates that are folded last.
        weights: one for each.
        fresh: whether the accumulator is one of `renewed`.
    """
    lr = optimizer.factor if isinstance(optimizer, Scale) else 1.0
    return model.with_flat(accumulator.parts[0].moved(model.dense, lr, values, weights, fresh))


def renewed(accumulator: Any) -> Any:
    """An empty accumulator after such a commit, often in the memory of the model before it.

    That memory is not zero yet: only the aggregator's `clear` or a fresh `moved` may follow.
    """
    return replace(accumulator, parts=(accumulator.parts[0].renewed(),))


def has_sets(value: Any) -> bool:
    """Whether an accumulator keeps whole updates."""
    if isinstance(value, tuple):
        return any(map(has_sets, value))
    if is_dataclass(value) and not isinstance(value, type | Members):
        return any(has_sets(getattr(value, field.name)) for field in fields(value))
    return isinstance(value, Members)


def over_sets(value: Any, change: Callable[[Members], Members]) -> Any:
    """An accumulator with the sets of updates in it changed."""
    if isinstance(value, Members):
        return change(value)
    if isinstance(value, tuple):
        return tuple(over_sets(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        changed = {name: over_sets(item, change) for name, item in inner.items()}
        if any(changed[name] is not inner[name] for name in inner):
            return replace(value, **changed)
    return value


def _check_part(update: int, prefix: str, part: Layout, whole: Layout) -> None:
    if part is whole or part == whole:
        return
    try:
        ranges(whole, part)
    except UpdateError as error:
        raise UpdateError(f"update {update}: {prefix}{error}") from error
    if part.dtype != whole.dtype:
        raise UpdateError(
            f"update {update}: {prefix}* has dtype {part.dtype} where the model has {whole.dtype}"
        )


def aggregate_bytes(model: Tensors) -> int:
    """Bytes of the aggregate for a model; half precision is finished in single."""
    parts = [model, *(group for prefix, group in model.groups.items() if prefix != "private/")]
    sizes = ((part.layout.size, part.layout.dtype.itemsize) for part in parts)
    return sum(size * (width if width >= 4 else width + 4) for size, width in sizes)


def freeze(value: Any) -> None:
    """Make arrays read-only, so that the next fold copies what a snapshot refers to."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif isinstance(value, Tensors | Encoded | Members):
        return  # immutable as they are
    elif isinstance(value, Mapping):
        for item in value.values():
            freeze(item)
    elif isinstance(value, tuple | list):
        for item in value:
            freeze(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            freeze(getattr(value, field.name))
