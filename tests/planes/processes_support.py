"""What the tests of the process plane share: updates of every form, and how to drive a plane."""

from functools import lru_cache
from typing import Any

import numpy as np

from shoal.core import NOTHING, Aggregator
from shoal.encoded import Quantized, Sparse
from shoal.messages import Payload
from shoal.planes.processes import Processes
from shoal.planes.processes_pool import Pool
from shoal.tensors import Tensors

LARGE = 140_000  # coordinates: two shards


def model(size: int) -> Tensors:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(size + 7).astype(np.float32)
    return Tensors.of(
        {
            "a": values[: size // 3], "none": values[:0], "b": values[size // 3 : size],
            "buffer/mean": np.arange(5, dtype=np.float32), "buffer/var": np.float32(1.0),
            "control/a": values[-7:], "counter/n": np.array([3, 4]),
        }
    )  # fmt: skip


def update(like: Tensors, seed: int, form: str = "dense") -> Payload:
    """One of ten updates of each form for `model`."""
    return _update(like.layout.size, seed % 10, form)


@lru_cache(maxsize=200)
def _update(size: int, seed: int, form: str) -> Payload:
    rng, like = np.random.default_rng(seed), model(size)
    groups = {
        prefix: group.with_flat((10 * rng.random(group.layout.size)).astype(group.layout.dtype))
        for prefix, group in like.groups.items()
    }
    flat = rng.standard_normal(like.layout.size).astype(np.float32)
    value = Tensors(like.layout, flat, groups)
    if form == "sparse":
        chosen = np.flatnonzero(rng.random(flat.size) < 0.1)
        value = value.with_flat(Sparse(flat.size, chosen, flat[chosen]))
    elif form == "quantized":
        codes = rng.integers(-127, 128, flat.size, np.int8)
        scales = rng.random(-(-flat.size // 100)).astype(np.float32)
        value = value.with_flat(Quantized(codes, scales, 100))
    elif form == "part":
        value = value.select(["b"])
    elif form == "bare":
        value = Tensors(like.layout, flat)
    return Payload(value, 1, 1, "model" if form == "model" else "delta")


def on(pool: Pool, rule: Aggregator[Any], optimizer: Any = NOTHING, **other: Any) -> Processes:
    """A plane on a pool that outlives it."""
    plane = Processes(rule, optimizer, **other)
    plane.pool = pool
    return plane


def drive(plane: Any, first: int, count: int, forms: tuple[str, ...] = ("dense",)) -> None:
    """Put and fold some updates of clients in turn, with unequal weights."""
    for i in range(first, first + count):
        plane.put(i, update(plane.model, i, forms[i % len(forms)]))
        plane.fold(i, 0.3 + i % 5, f"c{i}")


FORMS = ("dense", "sparse", "model", "quantized", "part", "bare", "dense")
WHOLE = ("dense", "sparse", "model", "quantized", "bare")
