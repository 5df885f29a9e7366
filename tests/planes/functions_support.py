"""What the tests of the functions plane share: updates of every kind, planes, a server of S3."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import plain
from shoal.aggregators import Mean, Median, Sum, TrimmedMean
from shoal.core import NOTHING, Aggregator
from shoal.encoded import Quantized, Sparse
from shoal.messages import Payload
from shoal.planes import Local
from shoal.planes.functions import Functions
from shoal.planes.functions_runner import (
    FunctionError,
    Inline,
)
from shoal.planes.handler import Call
from shoal.planes.objects import ObjectStore
from shoal.tensors import Tensors

EXACT = Mean(exact=True)
RULES = [EXACT, Mean(), Sum(), Sum(exact=True), Median(), TrimmedMean(fraction=0.2)]


def model_of(size: int = 40) -> Tensors:
    rng = np.random.default_rng(3)
    return Tensors.of(
        {
            "a": rng.standard_normal((size // 4, 3)).astype(np.float32),
            "b": rng.standard_normal(size // 4).astype(np.float32),
            "buffer/mean": np.array([1.0, 2.0], np.float32),
            "control/a": rng.standard_normal(7).astype(np.float32),
            "counter/batches": np.array(7),
        }
    )


MODEL = model_of()


def payload(i: int, model: Tensors = MODEL) -> Payload:
    """Dense, sparse, quantized and partial updates, deltas and models, in turn."""
    rng, size = np.random.default_rng(i), model.layout.size
    flat = rng.standard_normal(size).astype(np.float32)
    groups = {}
    for prefix, group in model.groups.items():
        values = np.abs(rng.standard_normal(group.layout.size) * 5)
        groups[prefix] = group.with_flat(values.astype(group.layout.dtype))
    value = Tensors(model.layout, flat, groups if i % 3 else {})
    if i % 5 == 1:
        chosen = np.sort(rng.choice(size, size // 3, replace=False))
        value = value.with_flat(Sparse(size, chosen, flat[chosen]))
    if i % 5 == 2:
        scales = np.full(-(-size // 8), 0.01, np.float32)
        value = value.with_flat(Quantized((flat * 30).astype(np.int8), scales, 8))
    if i % 5 == 3:
        value = value.select(["b"])
    return Payload(value, 10 + i, 2, "model" if i % 4 == 2 else "delta", {"loss": 0.5})


def fill(plane: Any, count: int, model: Tensors = MODEL, order: Any = None) -> Any:
    for i in order or range(count):
        plane.put(i, payload(i, model))
        plane.fold(i, 0.5 + i, f"c{i % 4}")
    return plane


def local(
    rule: Aggregator[Any], count: int, model: Tensors = MODEL, step: Any = NOTHING
) -> Tensors:
    plane = Local(rule, step)
    plane.start(model, 0)
    return fill(plane, count, model).commit()


def a_call(plane: Functions, tmp_path: Path) -> tuple[Call, ObjectStore]:
    """The call that a commit would make first."""
    calls: list[Call] = []

    class Noting(Inline):
        def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
            calls.append(plain.decode(Call, event["call"]))
            raise FunctionError("noted", ())

    plane.runner = Noting()
    plane.start(MODEL, 0)
    fill(plane, 5)
    with pytest.raises(FunctionError):
        plane.commit()
    return calls[0], plane.store
