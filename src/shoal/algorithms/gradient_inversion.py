"""Unlimited staleness by gradient inversion: a stale update becomes what it would be if fresh.

Wang and Gao, Tackling intertwined data and device heterogeneities in federated learning with
unlimited staleness, 2023, arXiv 2309.13536; the authors' code was read.
    D = argmin |W(x_old; D) - delta_i|;   x <- x + lr / K sum over K arrivals of W(x_now; D_i)

**Privacy.** To find D is to attack the client: D may resemble its data. D lives in the server's
memory for one fold, is never stored, logged or sent, and no other method of this library makes one;
still, whoever runs this server could look. Tell the clients, or do not use it. It needs every
update in the clear: no secure aggregation, and noise for privacy takes away what it works with.

An update does not determine the data behind it, so several searches are averaged; of models with
few values, e.g. linear ones, the estimate may be no better than the stale update: try it out.

Deviations: the search is L-BFGS on the relative squared distance (theirs: Adam on L1, of which
they keep the top few percent); it does not ask whether an update is distinct; what D explains worse
than `accept`, or is older than `history`, counts as it came, by FedBuff's weight. The schedule is
FedBuff's. Clients send version and steps along, 16 bytes.
"""

from collections.abc import Callable
from typing import Any

from shoal.algorithms._inverting import Inverting
from shoal.algorithms._versions import Versioned
from shoal.algorithms.fedbuff import FedBuff
from shoal.core import Algorithm, Trainer
from shoal.errors import ConfigError, fraction, positive
from shoal.rules import PLAIN
from shoal.staleness import Constant

LOSSES = ("cross_entropy", "mse_loss")
OFF = {"momentum": 0.0, "weight_decay": 0.0, "clip": None, "optimizer": "", "rule": PLAIN}


def gradient_inversion(
    buffer: int = 10, *, trainer: Trainer[Any], model: Callable[[], Any], inputs: tuple[int, ...],
    concurrency: int | None = None, lr: float = 1.0, examples: int = 16, iterations: int = 60,
    starts: int = 3, history: int = 100, accept: float = 0.1,
) -> Algorithm:  # fmt: skip
    """FedBuff whose stale updates are converted; read about privacy above first.

    Args:
        buffer: K, updates of a commit.
        trainer: a plain `shoal.torch.SGD`, with the loss cross_entropy or mse_loss.
        model: the function that makes the module, as in the experiment.
        inputs: shape of one input, e.g. (1, 28, 28).
        concurrency: clients that work at once; None for everyone.
        lr: server learning rate.
        examples, iterations, starts, history, accept: see `Inverting`.

    Raises:
        ConfigError: for numbers out of range, steps that are not plain, another loss.
    """
    counts = {"lr": lr, "examples": examples, "iterations": iterations, "starts": starts}
    for name, number in {**counts, "history": history}.items():
        positive(name, number)
    fraction("accept", accept)
    loss = getattr(trainer, "loss", "")
    if loss not in LOSSES:
        raise ConfigError("trainer", f"must be a torch.SGD with a loss of {' or '.join(LOSSES)}")
    odd = [name for name, plain in OFF.items() if getattr(trainer, name, plain) != plain]
    if odd:
        raise ConfigError(f"trainer.{odd[0]}", "steps must be plain: leave it out to invert them")
    rate = float(trainer.lr)  # type: ignore[attr-defined]
    rule_of = Inverting(
        model, tuple(inputs), loss, rate, lr, examples, iterations, starts, history, accept
    )
    coordinator = FedBuff(buffer, concurrency, Constant())
    return Algorithm(coordinator, Versioned(trainer, model), rule_of, name="gradient_inversion")
