"""Minibatch gradient descent on any PyTorch module.

    g <- clip(grad loss(y)) + weight_decay y;    d <- rule(g)
    m <- momentum m + d;    y <- y - lr m        (as torch.optim.SGD)

All trainable values of the module are views into one flat buffer, so a model is loaded, stepped and
subtracted as one array. What travels is float32, or float64 if a trainable parameter is; parameters
of another type (bfloat16, float16) are trained through a master copy in that type. Persistent
buffers travel as values, "buffer/" if floating and "counter/" if integer. Parameters that need no
gradient do not travel: they stay as the model function makes them, under a fixed torch seed.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from shoal.core import Examples, Job, StepRule
from shoal.errors import ConfigError, DataError, MissingExtra, ModelError, nearest, positive
from shoal.messages import Config, Metrics, Payload, Task, Value
from shoal.rules import PLAIN, ControlVariate
from shoal.tensors import Tensors, all_finite
from shoal.trainers import _work

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtra("torch", "torch") from error

from shoal.trainers._cohorts import BACKENDS, Cohorts
from shoal.trainers._optimizers import check_options, made
from shoal.trainers._replica import Replica, batches, channels_last, limited, seeded
from shoal.trainers._structure import loss_function

FROZEN_SEED = 0  # parameters that do not travel must be the same on every machine
EVALUATION_ROWS = 2048


class _PerThread(threading.local):
    """A trainer's module in each thread; a copy of the trainer starts with none."""

    replica: Replica | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _PerThread, ()


@dataclass(frozen=True)
class SGD:
    """Minibatch gradient descent, with momentum and weight decay as in `torch.optim.SGD`.

    Bind it last, to a function that makes the module. Momentum starts anew with every task. The
    same inputs give the same bits on the same machine; torch's own generators (dropout) are seeded
    from the task's and put back afterwards. They are global: with dropout, clients that train in
    threads at the same time share their masks' stream.

    Attributes:
        lr: learning rate.
        epochs: passes over the client's data per task.
        local_steps: minibatch steps per task, in place of epochs.
        batch: examples per step, the last of an epoch may be fewer; 0 for all. Batch norm over
            vectors needs more than one in each.
        momentum: in [0, 1).
        weight_decay: L2 strength.
        loss: function of (outputs, targets) to their mean loss: a name in `torch.nn.functional`,
            or "package.module:function".
        rule: the step rule.
        device: a torch device; "auto" is CUDA where there is one, else the CPU.
        clip: largest norm of the loss gradient; None for any.
        threads: of torch, while training on the CPU: the bits depend on it, and small models are
            fastest with one.
        backend: how several clients of a simulation are trained: "sequential", one after another;
            "native", dense networks in one compiled call; "vmap", stacked by torch.func; "threads",
            one on each core, with the bits of "sequential". What a model does not allow is trained
            one by one, and said so. "auto" is native where it can be, else what a short measurement
            finds; the measurement is remembered, so that a run repeats its bits on this machine.
        optimizer: steps by this one in place of plain steps: "AdamW" of torch.optim, or
            "package.module:Name". It begins anew with every task, and takes no step rule.
        options: of it, beside the learning rate, e.g. {"weight_decay": 0.01, "beta2": 0.95}.
    """

    lr: float
    epochs: int = 1
    local_steps: int | None = None
    batch: int = 10
    momentum: float = 0.0
    weight_decay: float = 0.0
    loss: str = "cross_entropy"
    rule: StepRule[Any] = PLAIN
    device: str = "auto"
    clip: float | None = None
    threads: int = 1
    backend: Literal["auto", "sequential", "native", "vmap", "threads"] = "auto"
    optimizer: str = ""
    options: Mapping[str, Value] = field(default_factory=dict, hash=False)
    model: Callable[[], nn.Module] | None = field(
        default=None, init=False, compare=False, repr=False
    )
    _local: _PerThread = field(default_factory=_PerThread, init=False, compare=False, repr=False)
    _cohorts: Cohorts = field(default_factory=Cohorts, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        positive("lr", self.lr)
        _work.check_work(self.epochs, self.local_steps, self.batch)
        positive("weight_decay", self.weight_decay, zero=True)
        if not 0 <= self.momentum < 1:
            raise ConfigError("momentum", f"must lie in [0, 1), got {self.momentum!r}")
        if self.momentum and isinstance(self.rule, ControlVariate):
            raise ConfigError("momentum", "must be 0 with ControlVariate")
        if self.clip is not None:
            positive("clip", self.clip)
        positive("threads", self.threads)
        if ":" not in self.loss:  # others are looked up when they are needed
            loss_function(self.loss)
        _device(self.device)
        if self.backend not in BACKENDS:
            raise ConfigError("backend", f"{self.backend!r}; {nearest(self.backend, BACKENDS)}")
        if self.optimizer:
            check_options(self.optimizer, self.options)
            if self.rule != PLAIN or self.momentum or self.weight_decay:
                problem = "makes its own steps: leave out rule, momentum and weight_decay"
                raise ConfigError("optimizer", f"{self.optimizer} {problem}")

    def bind(self, model: Callable[[], nn.Module] | None) -> Self:
        """The same trainer for the module that the function makes."""
        bound = replace(self)
        object.__setattr__(bound, "model", model)
        return bound

    def initial(self, seed: int) -> Tensors:
        """The module as it is made under this torch seed, with what the rule carries.

        Raises:
            ModelError: naming a parameter or buffer that holds NaN or infinity.
        """
        model = Replica(self._make(), torch.device("cpu"), seed).tensors()
        for name, value in model.items():
            if not all_finite(value.ravel()):
                raise ModelError(f"{name} holds NaN or infinity in the fresh model")
        groups = _work.payload_groups(model.groups, self.rule.groups(model))
        return Tensors(model.layout, model.flat, groups)

    def init(self, model: Tensors) -> Any:
        """The rule's state."""
        return self.rule.init(model)

    def steps(self, num_examples: int, config: Config) -> int:
        """Minibatch steps of a task."""
        return _work.count_steps(num_examples, config, self.epochs, self.local_steps, self.batch)

    def train(
        self, model: Tensors, data: Examples, state: Any, task: Task, rng: np.random.Generator
    ) -> tuple[Payload, Any]:
        """Take the steps, in an order drawn from `rng`; the metric "loss" is their mean loss.

        Values that become NaN or infinite are sent as they are; the server rejects them.

        Raises:
            DataError: if there is no data, or the module or loss refuses it.
            ModelError: if the model's names, shapes or type are not the module's.
        """
        _work.require_examples(data, task.client)
        n, lr = len(data), _work.learning_rate(task.config, self.lr)
        steps, batch = self.steps(n, task.config), _work.batch_size(n, task.config, self.batch)
        rule = _work.tuned(self.rule, task.config)
        replica = self._replica()
        replica.load(model)
        step = _Step(self, rule, lr, replica, rule.begin(model, state))
        loss, total = loss_function(self.loss), torch.zeros((), device=replica.device)
        replica.module.train()
        with limited(self.threads), seeded(replica.device, int(rng.integers(2**63))):
            examples = replica.examples(data)
            last = replica.channels_last(examples[0])
            for x, y in batches(examples, _work.order(n, batch, steps, rng), batch, last):
                try:
                    value = loss(replica.module(x), y)
                except (ValueError, IndexError) as error:  # such as a target out of range
                    raise DataError(f"client {task.client!r}: {error}") from error
                value.backward()  # type: ignore[no-untyped-call]
                step.take()
                total += value.detach()
        delta = step.delta()
        groups, state = rule.end(model, state, delta, steps, lr)
        tensors = Tensors(model.layout, delta, _work.payload_groups(replica.buffers(), groups))
        return Payload(tensors, n, steps, metrics={"loss": float(total) / steps}), state

    @property
    def cohort(self) -> int:
        """How many clients are worth one call."""
        return 1 if self.optimizer else self._cohorts.size(self.backend)

    def train_many(self, jobs: Sequence[Job]) -> list[tuple[Payload, Any]]:
        """What `train` gives for each job: its bits one by one and in threads, else rounded."""
        if self.optimizer:
            return [self.train(*job) for job in jobs]
        return self._cohorts.train(self, self._replica(), jobs)

    def evaluate(self, model: Tensors, data: Examples) -> Metrics:
        """The mean "loss", and "accuracy" if the targets are class numbers."""
        if len(data) == 0:
            raise DataError("no examples to evaluate on")
        replica = self._replica()
        replica.load(model)
        replica.module.eval()
        loss, total, right, targets = loss_function(self.loss), 0.0, 0, 0
        x, y = replica.examples(data)
        last = replica.channels_last(x)
        with limited(self.threads), torch.inference_mode():
            for at in range(0, len(x), EVALUATION_ROWS):
                rows, wanted = x[at : at + EVALUATION_ROWS], y[at : at + EVALUATION_ROWS]
                rows = rows.clone()  # the same memory alignment every time
                out = replica.module(channels_last(rows) if last else rows)
                total += float(loss(out, wanted)) * len(wanted)
                if not wanted.is_floating_point() and out.ndim == wanted.ndim + 1:
                    right += int((out.argmax(1) == wanted).sum())
                    targets += wanted.numel()
        metrics = {"loss": total / len(data)}
        return {**metrics, "accuracy": right / targets} if targets else metrics

    def _make(self) -> Callable[[], nn.Module]:
        if self.model is None:
            raise ConfigError("model", "bind() the trainer to a function that makes the module")
        return self.model

    def _replica(self) -> Replica:
        if self._local.replica is None:
            device = _device(self.device)
            if device.type == "cuda" and not torch.cuda.is_available():
                raise ConfigError("device", f"{self.device!r}, but there is no CUDA device here")
            self._local.replica = Replica(self._make(), device, FROZEN_SEED)
        return self._local.replica


class _Step:
    """One local step after another on a replica, for one task."""

    def __init__(
        self, sgd: SGD, rule: StepRule[Any], lr: float, on: Replica, constants: Sequence[Any]
    ) -> None:
        self.sgd, self.rule, self.lr, self.on = sgd, rule, lr, on
        self.base = on.flat.clone()
        self.constants = [torch.from_numpy(np.array(c)).to(on.device, on.dtype) for c in constants]
        self.optimizer = made(sgd.optimizer, sgd.options, on, lr) if sgd.optimizer else None
        plain = rule == PLAIN and sgd.clip is None and self.optimizer is None
        self.simple = plain and not (sgd.momentum or sgd.weight_decay)
        self.grad = on.flat.new_empty(0 if self.simple else on.flat.numel())
        self.velocity: Tensor | None = None

    def take(self) -> None:
        """Step along the gradients that `backward` left in the parameters, and remove them."""
        on = self.on
        if self.optimizer is not None:
            if self.sgd.clip is not None:
                torch.nn.utils.clip_grad_norm_(on.params, self.sgd.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in on.params]
        if self.simple:
            torch._foreach_add_(on.views, grads, alpha=-self.lr)
        else:
            torch.cat([grad.reshape(-1) for grad in grads], out=self.grad)
            on.flat.add_(self._direction(), alpha=-self.lr)
        on.refresh()
        for p in on.params:
            p.grad = None

    def _direction(self) -> Tensor:
        sgd, grad, local = self.sgd, self.grad, self.on.flat
        if sgd.clip is not None:
            grad.mul_((sgd.clip / (torch.linalg.vector_norm(grad) + 1e-6)).clamp(max=1.0))
        if sgd.weight_decay:
            grad.add_(local, alpha=sgd.weight_decay)
        direction: Tensor = self.rule.gradient(grad, local, self.base, self.constants)
        if not sgd.momentum:
            return direction
        if self.velocity is None:
            self.velocity = direction.clone()
        else:
            self.velocity.mul_(sgd.momentum).add_(direction)
        return self.velocity

    def delta(self) -> NDArray[Any]:
        """Local minus base, flat."""
        values: NDArray[Any] = (self.on.flat - self.base).cpu().numpy()
        return values


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", str(error).splitlines()[0]) from error
