"""Which way of training several clients suits a model and a machine: measured once, remembered.

Dense networks need no measurement: whole rounds in compiled code are faster than anything else on a
CPU. For other models the ways that are possible take a few steps of real tasks, and the fastest is
kept in memory and in `backends.json` of the cache folder, under all that it may depend on.
"""

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shoal.caches import cache_dir
from shoal.core import Job
from shoal.kernels.threads import COUNT
from shoal.seeds import rng
from shoal.trainers._replica import Replica

SAMPLE, STEPS = 8, 2  # clients and steps of a measurement
GAINS = {
    "native": 1.1,
    "threads": 1.1,
    "vmap": 1.3,
}  # at least so many times faster than one by one
FILE = "backends.json"
Train = Callable[[Sequence[Job]], list[Any]]


@dataclass(frozen=True)
class Choice:
    """A way of training, and why."""

    backend: str
    reason: str


_known: dict[str, Choice] = {}


def key(replica: Replica, settings: str) -> str:
    """What a measurement depends on."""
    device = replica.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    parts = (
        repr(replica.module), repr(replica.layout), settings, device.type, name, platform.node(),
        platform.machine(), str(COUNT), torch.__version__,
    )  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def remembered(at: str) -> Choice | None:
    """An earlier choice, of this process or another."""
    if at not in _known and at in (stored := _read(cache_dir() / FILE)):
        backend, reason = stored[at]
        _known[at] = Choice(backend, f"{reason}; measured before")
    return _known.get(at)


def remember(at: str, choice: Choice) -> None:
    """Keep a choice; only in this process if the cache cannot be written."""
    _known[at] = choice
    path = cache_dir() / FILE
    stored = {**_read(path), at: [choice.backend, choice.reason]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(stored, file, indent=1)
        os.replace(draft, path)
    except OSError:
        return  # a read-only home: measured again by the next process


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # none yet, or damaged: measured anew
    return found if isinstance(found, dict) else {}


def sample(jobs: Sequence[Job]) -> list[Job]:
    """Small jobs like the given ones, with draws of their own."""
    return [
        job._replace(
            task=replace(job.task, config={**_without(job), "steps": STEPS}),
            rng=rng(0, "measurement", i),
        )
        for i, job in enumerate(jobs[:SAMPLE])
    ]


def _without(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job.task.config.items() if name != "epochs"}


def measure(ways: dict[str, Train], jobs: Sequence[Job]) -> Choice:
    """The fastest way, where it gains enough over training one by one."""
    # Renewed each time: a generator that has been used draws something else.
    seconds = {name: _seconds(train, jobs) for name, train in ways.items()}
    best, text = "sequential", f"{seconds['sequential'] * 1e3:.3g} ms one by one"
    for name, least in GAINS.items():
        if name in seconds:
            text += f", {seconds[name] * 1e3:.3g} ms {name}"
            if seconds["sequential"] > least * seconds[name] < least * seconds[best]:
                best = name
    return Choice(best, f"{STEPS} steps of a client took {text}")


def _seconds(train: Train, jobs: Sequence[Job]) -> float:
    best = float("inf")
    for _ in range(3):  # the first also warms up
        fresh = sample(jobs)
        began = time.perf_counter()
        train(fresh)
        best = min(best, (time.perf_counter() - began) / len(fresh))
    return best


def differs(train: Train, one: Callable[[Job], Any], jobs: Sequence[Job]) -> str:
    """Why a vectorized way cannot be taken for these jobs; "" if it gives what `train` gives."""
    few = sample(jobs[:2])
    try:
        found = train(few)
    except (RuntimeError, TypeError, ValueError) as error:  # what torch.func cannot map
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    for (payload, _), job in zip(found, sample(jobs[:2]), strict=True):
        wanted = one(job)[0].tensors.dense
        scale = float(np.abs(wanted).max())
        if not np.allclose(payload.tensors.dense, wanted, rtol=1e-2, atol=1e-3 * scale + 1e-7):
            return "vectorized clients get other results than single ones"
    return ""
