"""One instance of every algorithm, small enough to run often."""

from collections.abc import Callable

from shoal import algorithms as al
from shoal.core import Algorithm
from shoal.trainers.quadratic import Quadratic

TRAINER = Quadratic(lr=0.1, local_steps=5)

ALGORITHM_EXAMPLES: dict[str, Callable[[], Algorithm]] = {
    "fedavg": lambda: al.fedavg(3, over_selection=1.4, deadline=60.0, quorum=2, trainer=TRAINER),
    "fedsgd": lambda: al.fedsgd(4, trainer=TRAINER),
    "fedprox": lambda: al.fedprox(0.1, cohort=4, trainer=TRAINER),
    "scaffold": lambda: al.scaffold(4, population=6, trainer=TRAINER),
    "fedavgm": lambda: al.fedavgm(4, trainer=TRAINER),
    "fedadam": lambda: al.fedadam(4, trainer=TRAINER),
    "fedyogi": lambda: al.fedyogi(4, trainer=TRAINER),
    "fedadagrad": lambda: al.fedadagrad(4, trainer=TRAINER),
    "fedasync": lambda: al.fedasync(trainer=TRAINER),
    "fedbuff": lambda: al.fedbuff(3, concurrency=4, trainer=TRAINER),
    "fedcompass": lambda: al.fedcompass(trainer=TRAINER),
    "fedfix": lambda: al.fedfix(15.0, trainer=TRAINER),
    "afa_cd": lambda: al.afa_cd(3, trainer=TRAINER),
    "afa_cs": lambda: al.afa_cs(3, clients=6, trainer=TRAINER),
}
