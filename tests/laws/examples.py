"""One instance of every algorithm, small enough to run often."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shoal import algorithms as al
from shoal.algorithms._codes import GradientCode
from shoal.algorithms._pacing import Pacing
from shoal.algorithms.measured import Measured
from shoal.algorithms.tifl import ByTier
from shoal.core import Algorithm, Examples
from shoal.messages import Payload, Task
from shoal.tensors import Tensors
from shoal.trainers.numpy import Softmax
from shoal.trainers.quadratic import Quadratic
from shoal.transforms import CountSketch, RandK, TopK

TRAINER = Quadratic(lr=0.1, local_steps=5)
TIERS = (("c0", "c1"), ("c2", "c3"), ("c4", "c5"))
EXAMPLES = {"c0": 5, "c1": 3, "c2": 2, "c3": 4, "c4": 1, "c5": 6}


@dataclass(frozen=True)
class Classified:
    """Two classes of what are targets on a line, for trainers of classifiers."""

    trainer: Any

    def initial(self, seed: int) -> Tensors:
        return self.trainer.initial(seed)

    def init(self, model: Tensors) -> Any:
        return self.trainer.init(model)

    def steps(self, num_examples: int, config: Any) -> int:
        return self.trainer.steps(num_examples, config)

    def train(
        self, model: Tensors, data: Any, state: Any, task: Task, rng: Any
    ) -> tuple[Payload, Any]:
        return self.trainer.train(model, _classes(data), state, task, rng)

    def evaluate(self, model: Tensors, data: Any) -> Any:
        return self.trainer.evaluate(model, _classes(data))


def _classes(data: Examples) -> Examples:
    return Examples(data.x.astype(np.float32), (np.asarray(data.y) > 0.5).astype(np.int64))


def _line() -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2))


def torch_trainer() -> Any:
    from shoal.trainers.torch import SGD

    return SGD(lr=0.1, local_steps=1, batch=0)


def classified(algorithm: Algorithm) -> Algorithm:
    return replace(algorithm, trainer=Classified(algorithm.trainer.bind(_line)))


def counted(algorithm: Algorithm) -> Algorithm:
    return replace(algorithm, trainer=Classified(algorithm.trainer))


TOP, SOFTMAX = TopK(count=1), Softmax(lr=0.1, features=1, classes=2)
ALGORITHM_EXAMPLES: dict[str, Callable[[], Algorithm]] = {
    "fedavg": lambda: al.fedavg(3, over_selection=1.4, deadline=60.0, quorum=2, trainer=TRAINER),
    "fedsgd": lambda: al.fedsgd(4, trainer=TRAINER),
    "fedprox": lambda: al.fedprox(0.1, cohort=4, trainer=TRAINER),
    "scaffold": lambda: al.scaffold(4, population=6, trainer=TRAINER),
    "ef21": lambda: al.ef21(4, codec=TOP, population=6, trainer=TRAINER),
    "ef21w": lambda: al.ef21w(
        4, codec=TOP, smoothness=dict.fromkeys(EXAMPLES, 4.0), trainer=TRAINER
    ),
    "econtrol": lambda: al.econtrol(4, codec=TOP, eta=0.1, population=6, trainer=TRAINER),
    "scallion": lambda: al.scallion(
        4, codec=RandK(count=1), alpha=0.5, population=6, stride=0.5, trainer=TRAINER
    ),
    "scafcom": lambda: al.scafcom(
        4, codec=TOP, beta=0.5, population=6, stride=0.5, trainer=TRAINER
    ),
    "homomorphic": lambda: counted(al.homomorphic(4, codec=TOP, cells=60, trainer=SOFTMAX)),
    "cellm": lambda: al.cellm(4, density=1.0, trainer=TRAINER),
    "fetchsgd": lambda: counted(al.fetchsgd(4, codec=CountSketch(40, 3), count=2, trainer=SOFTMAX)),
    "global_momentum_fusion": lambda: al.global_momentum_fusion(4, trainer=TRAINER, every=1),
    "masha1": lambda: al.masha1(codec=RandK(count=1), tau=0.5, trainer=TRAINER),
    "masha2": lambda: al.masha2(codec=TOP, tau=0.5, trainer=TRAINER),
    "mezo": lambda: counted(al.mezo(4, trainer=SOFTMAX, lr=0.1, local_steps=3)),
    "fedkseed": lambda: counted(
        al.fedkseed(4, trainer=SOFTMAX, lr=0.1, seeds=16, local_steps=3, pro=True)
    ),
    "just_one_byte": lambda: counted(
        al.just_one_byte(4, trainer=SOFTMAX, lr=0.1, samples=3, batch=0)
    ),
    "fedavgm": lambda: al.fedavgm(4, trainer=TRAINER),
    "fednova": lambda: al.fednova(4, trainer=TRAINER),
    "feddyn": lambda: al.feddyn(4, population=6, alpha=1.0, trainer=TRAINER),
    "fedshampoo": lambda: classified(al.fedshampoo(2, trainer=torch_trainer())),
    "fedspeed": lambda: al.fedspeed(
        4, population=6, prox=1.0, trainer=Quadratic(lr=0.1, local_steps=2)
    ),
    "fedavg_m": lambda: al.fedavg_m(4, beta=0.3, trainer=TRAINER),
    "scaffold_m": lambda: al.scaffold_m(
        4, population=6, beta=0.3, variance_reduced=True, trainer=Quadratic(lr=0.1, local_steps=2)
    ),
    "fedref": lambda: al.fedref(4, trainer=TRAINER),
    "curriculum": lambda: al.curriculum(3, pacing=Pacing(9), clients=True, trainer=TRAINER),
    "fzoos": lambda: al.fzoos(2, features=8, history=6, queries=1, trainer=Quadratic(lr=0.1)),
    "moon": lambda: classified(al.moon(2, trainer=torch_trainer())),
    "fedadv": lambda: classified(al.fedadv(2, steps_up=1, trainer=torch_trainer())),
    "fedadam": lambda: al.fedadam(4, trainer=TRAINER),
    "fedyogi": lambda: al.fedyogi(4, trainer=TRAINER),
    "fedadagrad": lambda: al.fedadagrad(4, trainer=TRAINER),
    "fedasync": lambda: al.fedasync(trainer=TRAINER),
    "fedbuff": lambda: al.fedbuff(3, concurrency=4, trainer=TRAINER),
    "fedcompass": lambda: al.fedcompass(trainer=TRAINER),
    "fedfix": lambda: al.fedfix(15.0, trainer=TRAINER),
    "afa_cd": lambda: al.afa_cd(3, trainer=TRAINER),
    "afa_cs": lambda: al.afa_cs(3, clients=6, trainer=TRAINER),
    "papaya": lambda: al.papaya(2, concurrency=4, tau_max=2, timeout=90.0, trainer=TRAINER),
    "fedat": lambda: al.fedat(TIERS, cohort=2, trainer=TRAINER),
    "fedau": lambda: al.fedau(4, population=6, cutoff=5, trainer=TRAINER),
    "mifa": lambda: al.mifa(3, clients=6, lr=0.5, trainer=TRAINER),
    "fedvarp": lambda: al.fedvarp(3, clients=6, lr=0.5, trainer=TRAINER),
    "fedamd": lambda: al.fedamd(3, population=6, trainer=TRAINER),
    "importance": lambda: al.importance(
        3, examples=EXAMPLES, by="loss", lr=0.5, trainer=Measured(TRAINER)
    ),
    "f3ast": lambda: al.f3ast(3, examples=EXAMPLES, lr=0.5, trainer=TRAINER),
    "power_of_choice": lambda: al.power_of_choice(2, candidates=4, trainer=TRAINER),
    "oort": lambda: al.oort(3, trainer=Measured(TRAINER)),
    "wireless_afl": lambda: al.wireless_afl(20.0, trainer=TRAINER),
    "gradient_inversion": lambda: classified(
        al.gradient_inversion(
            1,
            trainer=torch_trainer(),
            model=_line,
            inputs=(1,),
            concurrency=3,
            examples=1,
            iterations=1,
            starts=1,
            history=1,
        )
    ),
    "tifl": lambda: al.tifl(2, tier=ByTier(3, adapt_every=3, credits=5), trainer=Measured(TRAINER)),
    "partial_work": lambda: al.partial_work(20.0, max_steps=9, cohort=4, mu=0.1, trainer=TRAINER),
    "jit_deadlines": lambda: al.jit_deadlines(4, deadline=60.0, trainer=TRAINER),
    "backup": lambda: al.backup(
        (("c0", "c3"), ("c1", "c4", "c5"), ("c2",)), quantile=0.3, trainer=TRAINER
    ),
    "gradient_coding": lambda: al.gradient_coding(
        GradientCode(tuple(EXAMPLES), tuple(EXAMPLES.values()), 0), lr=0.1, trainer=TRAINER
    ),
}
