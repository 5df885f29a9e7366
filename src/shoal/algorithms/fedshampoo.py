"""FedAvg whose clients take second-order steps: Shampoo, with its matrices in blocks.

Gupta, Koren and Singer, Shampoo: Preconditioned stochastic tensor optimization, 2018, arXiv
1802.09568; blocks and grafting: Anil, Gupta, Koren, Regan and Singer, Scalable second order
optimization for deep learning, 2020, arXiv 2002.09018. Steps: `pytorch_optimizer.ScalableShampoo`.
    L <- d L + (1 - d) G G';  R <- d R + (1 - d) G' G           d the decay, L = R = epsilon I first
    W <- W - lr s L^(-1/4) G R^(-1/4)                           by block of a matrix

With grafting, s gives a layer's step the length that another method's would have; vectors (biases)
take that method's steps, plain ones without. What was learned of the curvature is a client's own
and is forgotten after each task, as momentum is by plain steps: the wire is FedAvg's.
"""

from dataclasses import replace
from typing import Any, Literal

from shoal.aggregators import Mean
from shoal.algorithms._shares import check_choice
from shoal.algorithms.fedavg import FedAvg, schedule
from shoal.core import Aggregator, Algorithm, Chain, Trainer, Transform
from shoal.errors import ConfigError, fraction, positive

Graft = Literal["none", "sgd", "adagrad", "rmsprop"]
GRAFTS: tuple[Graft, ...] = ("none", "sgd", "adagrad", "rmsprop")  # in the library's order
NAME = "pytorch_optimizer:ScalableShampoo"


def fedshampoo(
    cohort: int | None = None, *, trainer: Trainer[Any], block: int = 128, every: int = 1,
    graft: Graft = "none", momentum: float = 0.0, decay: float = 0.999, epsilon: float = 1e-6,
    rounds: FedAvg = FedAvg(), aggregator: Aggregator[Any] = Mean(),
    upload: Transform[Any] = Chain(), optimizer: Transform[Any] = Chain(),
) -> Algorithm:  # fmt: skip
    """FedAvg with Shampoo's local steps.

    Args:
        cohort: clients per round; None for everyone present.
        trainer: `shoal.torch.SGD`, of which learning rate, epochs, batch and loss are kept.
        block: rows and columns of a block at most; a step costs their cube.
        every: steps between roots of the matrices, which are most of the cost.
        graft: whose length a layer's step has; "none" for Shampoo's own.
        momentum: of the steps, in [0, 1).
        decay: of the matrices, in (0, 1); near 1 they add up, as in the first paper.
        epsilon: on their diagonals at first.

    Raises:
        ConfigError: for numbers out of range, or a trainer that takes no optimizer.
        MissingExtra: if pytorch_optimizer is not installed.
    """
    for name, value in (("block", block), ("every", every), ("decay", decay), ("epsilon", epsilon)):
        positive(name, value)
    fraction("momentum", momentum, one=False)
    fraction("decay", decay, one=False)
    check_choice("graft", graft, Graft)
    if not hasattr(trainer, "options"):
        raise ConfigError("trainer", f"{type(trainer).__name__} takes no optimizer: use torch.SGD")
    options = {
        "block_size": block, "preconditioning_compute_steps": every, "matrix_eps": epsilon,
        "graft_type": GRAFTS.index(graft), "start_preconditioning_step": 1, "nesterov": False,
        "shape_interpretation": False,  # which would merge small matrices into vectors
        "beta1": momentum, "beta2": decay,
        "use_svd": True,  # exact, and faster on CPUs than the iteration in its place
    }  # fmt: skip
    local: Any = replace(trainer, optimizer=NAME, options=options)  # type: ignore[type-var]
    return Algorithm(schedule(cohort, rounds), local, aggregator, upload, optimizer, "fedshampoo")
