"""Whole local rounds on plain networks as one compiled program, for a cohort in one call.

    z = h W' + b;  h = act(z);  loss = mean cross entropy of softmax(z)
    d = shrink grad + decay y + mu (y - x) + c;  m = momentum m + d;  y -= lr m

A small model's step is bound by the cost of dispatching its operations; here a task's steps run in
C, its weights in the cache of one core, and several tasks at once on several cores. Plain steps add
their gradient to the weights without ever storing it. Convolutions may come before dense layers:
behind a pooling and an activation most of their gradient is zero, and only the rest is worked on.
The bits depend on the processor's kind, and neither on the cohort nor on the number of threads.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shoal.core import Examples, Job, StepRule
from shoal.errors import DataError
from shoal.kernels import threads
from shoal.messages import Config, Payload
from shoal.rules import ControlVariate, Plain, Proximal
from shoal.tensors import Tensors
from shoal.trainers import _work

VERSION = 2  # of the compiled module

try:
    import shoal.trainers._native as _native
except ImportError as error:
    MISSING = f"the compiled module is not there ({error})"
else:
    # A build in a source tree stays behind when its sources change.
    old = getattr(_native, "VERSION", None) != VERSION
    MISSING = "the compiled module is of another version: install again" if old else ""

COHORT = 64  # more in one call gain nothing, and may be computed in vain
RELU, TANH, SIGMOID = range(3)
RULES = (Plain, Proximal, ControlVariate)
LAYERS = 16
Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


class Conv(NamedTuple):
    """A convolution with stride 1, the activation, and the largest of each window of pixels.

    Attributes:
        channels: of its input.
        out: channels of its output.
        kernel: rows and columns.
        border: of zeros, on each side.
        pool: rows and columns of a window; 1 for none.
        biased: whether it has a bias.
    """

    channels: int
    out: int
    kernel: int
    border: int = 0
    pool: int = 1
    biased: bool = True


@dataclass(frozen=True)
class Net:
    """Dense layers that end in softmax, with convolutions before them or without.

    Attributes:
        widths: of the dense layers' input, the hidden layers and the output.
        biased: whether each dense layer has a bias.
        activation: behind every layer but the last: RELU, TANH or SIGMOID.
        convs: the convolutions, first to last.
        shape: of an example where there are convolutions: (channels, height, width).
    """

    widths: tuple[int, ...]
    biased: tuple[bool, ...]
    activation: int = RELU
    convs: tuple[Conv, ...] = ()
    shape: tuple[int, int, int] = (0, 0, 0)

    @property
    def size(self) -> int:
        """Trainable values."""
        pairs = zip(self.widths, self.widths[1:], self.biased, strict=False)
        dense = sum((i + biased) * o for i, o, biased in pairs)
        return dense + sum((c.channels * c.kernel**2 + c.biased) * c.out for c in self.convs)

    @property
    def work(self) -> int:
        """Products of one example and one step, about."""
        done, (_, height, width) = self.size, self.shape
        for c in self.convs:
            height, width = (n + 2 * c.border - c.kernel + 1 for n in (height, width))
            done += height * width * c.channels * c.kernel**2 * c.out
            height, width = height // c.pool, width // c.pool
        return done


class Local(Protocol):
    """What a trainer says about local work."""

    @property
    def lr(self) -> float:
        """Learning rate."""

    @property
    def batch(self) -> int:
        """Examples per step."""

    @property
    def rule(self) -> StepRule[Any]:
        """The step rule."""

    def steps(self, num_examples: int, config: Config) -> int:
        """Steps of a task."""


@dataclass(frozen=True)
class Extras:
    """Parts of the local step beside the rule; zero for none."""

    clip: float = 0.0
    decay: float = 0.0
    momentum: float = 0.0
    seeded: bool = False  # the trainer draws one integer before it draws the order


def known(rule: StepRule[Any]) -> bool:
    """Whether the compiled step has this rule."""
    return type(rule) in RULES


def possible(net: Net) -> bool:
    """Whether the layers fit each other, and what they need can be counted."""
    try:
        _prepared(net, [])
    except ValueError:
        return False
    return True


def _prepared(net: Net, tasks: list[tuple[Any, ...]], extras: Extras = Extras()) -> _native.Job:
    return _native.prepare(
        net.widths, net.biased, net.convs, *net.shape[1:], net.activation, extras.clip,
        extras.decay, extras.momentum, tasks,
    )  # fmt: skip


def train_many(
    trainer: Local, net: Net, jobs: Sequence[Job], extras: Extras = Extras()
) -> list[tuple[Payload, Any]]:
    """What the trainer's `train` gives for each job, up to rounding.

    Raises:
        DataError: for a client without data, or whose data do not fit the network.
    """
    tasks, rules, examples = [], [], 0
    usual: dict[int, tuple[int, int]] = {}  # by number of examples, for tasks that say nothing
    for job in jobs:
        rule, lr, n = trainer.rule, trainer.lr, len(job.data)
        config = job.task.config
        if config:
            rule, lr = _work.tuned(rule, config), _work.learning_rate(config, lr)
            amount = _amount(trainer, n, config)
        else:
            found = usual.get(n)
            amount = usual[n] = _amount(trainer, n, config) if found is None else found
        task = _task(net, job, rule, lr, *amount, extras.seeded)
        tasks.append(task)
        rules.append(rule)
        examples += len(task[3])
    compiled = _prepared(net, tasks, extras)
    # A thread is worth its waking from about two million operations on.
    threads.share(_native.run, compiled, examples * net.work // 2)
    results = []
    for job, rule, task, (loss, bad) in zip(
        jobs, rules, tasks, _native.results(compiled), strict=True
    ):
        if bad >= 0:
            problem = f"target {task[2][bad]} of example {bad}"
            raise DataError(f"{job.task.client!r}: {problem}; classes are 0..{net.widths[-1] - 1}")
        results.append(_result(job, rule, task, loss))
    return results


def _amount(trainer: Local, n: int, config: Config) -> tuple[int, int]:
    return trainer.steps(n, config), min(n, _work.batch_size(n, config, trainer.batch))


def _task(
    net: Net, job: Job, rule: StepRule[Any], lr: float, steps: int, batch: int, seeded: bool
) -> tuple[Any, ...]:
    model, data, state, task, rng = job
    _work.require_examples(data, task.client)
    x, y = _arrays(data, net, task.client)
    if seeded:
        rng.integers(2**63)
    epochs = list(_work.order(len(data), batch, steps, rng))
    order = epochs[0] if len(epochs) == 1 else np.concatenate(epochs)
    constants = rule.begin(model, state)
    mu = rule.mu if isinstance(rule, Proximal) else 0.0
    base = model.dense
    return (
        base, x, y, order, np.empty_like(base), constants[0] if constants else None, len(data),
        batch, steps, lr, mu,
    )  # fmt: skip


def _result(
    job: Job, rule: StepRule[Any], task: tuple[Any, ...], loss: float
) -> tuple[Payload, Any]:
    delta, n, steps, lr = task[4], task[6], task[8], task[9]
    groups, state = rule.end(job.model, job.state, delta, steps, lr)
    tensors = Tensors(job.model.layout, delta, _work.payload_groups(groups) if groups else None)
    return Payload(tensors, n, steps, metrics={"loss": loss / steps}), state


_kept: weakref.WeakKeyDictionary[Examples, Batch] = weakref.WeakKeyDictionary()


def _arrays(data: Examples, net: Net, client: str) -> Batch:
    """Inputs as float32 rows and targets as int64; kept while the examples are, where copied."""
    found = _kept.get(data)
    if found is None:
        if data.y.ndim != 1 or data.y.dtype.kind not in "iu":
            raise DataError(f"{client!r}: targets must be class numbers, one for each example")
        x = np.ascontiguousarray(data.x, np.float32).reshape(len(data), -1)
        found = x, np.ascontiguousarray(data.y, np.int64)
        _kept[data] = found
    if net.convs and data.x.shape[1:] != net.shape:
        problem = f"inputs of shape {data.x.shape[1:]} where others have {net.shape}"
        raise DataError(f"{client!r}: {problem}")
    if not net.convs and found[0].shape[1] != net.widths[0]:
        problem = f"inputs of {found[0].shape[1]} values for a model of {net.widths[0]}"
        raise DataError(f"{client!r}: {problem}")
    return found
