"""The library of methods: one file for each paper, found under its name."""

from collections.abc import Callable
from typing import Any

from shoal.algorithms.anarchic import Anarchic, afa_cd, afa_cs
from shoal.algorithms.fedasync import FedAsync, fedasync
from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.algorithms.fedavgm import fedavgm
from shoal.algorithms.fedbuff import FedBuff, fedbuff
from shoal.algorithms.fedcompass import FedCompass, fedcompass
from shoal.algorithms.fedfix import FedFix, fedfix
from shoal.algorithms.fedopt import fedadagrad, fedadam, fedyogi
from shoal.algorithms.fedprox import fedprox
from shoal.algorithms.fedsgd import fedsgd
from shoal.algorithms.scaffold import scaffold
from shoal.core import Algorithm, Coordinator

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "afa_cd": afa_cd,
    "afa_cs": afa_cs,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedasync": fedasync,
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedbuff": fedbuff,
    "fedcompass": fedcompass,
    "fedfix": fedfix,
    "fedprox": fedprox,
    "fedsgd": fedsgd,
    "fedyogi": fedyogi,
    "scaffold": scaffold,
}
COORDINATORS: dict[str, type[Coordinator[Any]]] = {
    "Anarchic": Anarchic,
    "FedAsync": FedAsync,
    "FedAvg": FedAvg,
    "FedBuff": FedBuff,
    "FedCompass": FedCompass,
    "FedFix": FedFix,
}

__all__ = [
    "ALGORITHMS",
    "COORDINATORS",
    "Anarchic",
    "FedAsync",
    "FedAvg",
    "FedBuff",
    "FedCompass",
    "FedFix",
    "afa_cd",
    "afa_cs",
    "fedadagrad",
    "fedadam",
    "fedasync",
    "fedavg",
    "fedavgm",
    "fedbuff",
    "fedcompass",
    "fedfix",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "scaffold",
]
