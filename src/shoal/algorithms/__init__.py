"""The library of methods: one file for each paper, found under its name."""

from collections.abc import Callable
from typing import Any

from shoal.algorithms._pacing import Pacing
from shoal.algorithms._selection import Selecting
from shoal.algorithms.anarchic import Anarchic, afa_cd, afa_cs
from shoal.algorithms.backup import Backup, backup
from shoal.algorithms.cellm import cellm
from shoal.algorithms.curriculum import curriculum
from shoal.algorithms.econtrol import econtrol
from shoal.algorithms.ef21 import ef21, ef21w
from shoal.algorithms.f3ast import f3ast
from shoal.algorithms.fedadv import fedadv
from shoal.algorithms.fedamd import fedamd
from shoal.algorithms.fedasync import FedAsync, fedasync
from shoal.algorithms.fedat import FedAT, fedat
from shoal.algorithms.fedau import fedau
from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.algorithms.fedavg_m import fedavg_m
from shoal.algorithms.fedavgm import fedavgm
from shoal.algorithms.fedbuff import FedBuff, fedbuff
from shoal.algorithms.fedcompass import FedCompass, fedcompass
from shoal.algorithms.feddyn import feddyn
from shoal.algorithms.fedfix import FedFix, fedfix
from shoal.algorithms.fedkseed import fedkseed
from shoal.algorithms.fednova import fednova
from shoal.algorithms.fedopt import fedadagrad, fedadam, fedyogi
from shoal.algorithms.fedprox import fedprox
from shoal.algorithms.fedref import fedref
from shoal.algorithms.fedsgd import fedsgd
from shoal.algorithms.fedshampoo import fedshampoo
from shoal.algorithms.fedspeed import fedspeed
from shoal.algorithms.fedvarp import fedvarp
from shoal.algorithms.fetchsgd import fetchsgd
from shoal.algorithms.fzoos import fzoos
from shoal.algorithms.global_momentum_fusion import global_momentum_fusion
from shoal.algorithms.gradient_coding import gradient_coding
from shoal.algorithms.gradient_inversion import gradient_inversion
from shoal.algorithms.homomorphic import homomorphic
from shoal.algorithms.importance import importance
from shoal.algorithms.jit_deadlines import jit_deadlines
from shoal.algorithms.just_one_byte import just_one_byte
from shoal.algorithms.masha import masha1, masha2
from shoal.algorithms.mezo import mezo
from shoal.algorithms.mifa import mifa
from shoal.algorithms.moon import moon
from shoal.algorithms.oort import oort
from shoal.algorithms.papaya import Papaya, papaya
from shoal.algorithms.partial_work import partial_work
from shoal.algorithms.power_of_choice import PowerOfChoice, power_of_choice
from shoal.algorithms.scaffold import scaffold
from shoal.algorithms.scaffold_m import scaffold_m
from shoal.algorithms.scallion import scafcom, scallion
from shoal.algorithms.scheduled import scheduled
from shoal.algorithms.tifl import tifl
from shoal.algorithms.wary import wary
from shoal.algorithms.wireless_afl import Aging, wireless_afl
from shoal.core import Algorithm, Coordinator

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "afa_cd": afa_cd,
    "afa_cs": afa_cs,
    "backup": backup,
    "cellm": cellm,
    "curriculum": curriculum,
    "econtrol": econtrol,
    "ef21": ef21,
    "ef21w": ef21w,
    "f3ast": f3ast,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedadv": fedadv,
    "fedamd": fedamd,
    "fedasync": fedasync,
    "fedat": fedat,
    "fedau": fedau,
    "fedavg": fedavg,
    "fedavg_m": fedavg_m,
    "fedavgm": fedavgm,
    "fedbuff": fedbuff,
    "fedcompass": fedcompass,
    "feddyn": feddyn,
    "fedfix": fedfix,
    "fedkseed": fedkseed,
    "fednova": fednova,
    "fedprox": fedprox,
    "fedref": fedref,
    "fedsgd": fedsgd,
    "fedshampoo": fedshampoo,
    "fedspeed": fedspeed,
    "fedvarp": fedvarp,
    "fedyogi": fedyogi,
    "fetchsgd": fetchsgd,
    "fzoos": fzoos,
    "global_momentum_fusion": global_momentum_fusion,
    "gradient_coding": gradient_coding,
    "gradient_inversion": gradient_inversion,
    "homomorphic": homomorphic,
    "importance": importance,
    "jit_deadlines": jit_deadlines,
    "just_one_byte": just_one_byte,
    "masha1": masha1,
    "masha2": masha2,
    "mezo": mezo,
    "mifa": mifa,
    "moon": moon,
    "oort": oort,
    "papaya": papaya,
    "partial_work": partial_work,
    "power_of_choice": power_of_choice,
    "scafcom": scafcom,
    "scaffold": scaffold,
    "scaffold_m": scaffold_m,
    "scallion": scallion,
    "tifl": tifl,
    "wireless_afl": wireless_afl,
}
COORDINATORS: dict[str, type[Coordinator[Any]]] = {
    "Aging": Aging,
    "Anarchic": Anarchic,
    "Backup": Backup,
    "FedAT": FedAT,
    "FedAsync": FedAsync,
    "FedAvg": FedAvg,
    "FedBuff": FedBuff,
    "FedCompass": FedCompass,
    "FedFix": FedFix,
    "Papaya": Papaya,
    "PowerOfChoice": PowerOfChoice,
    "Selecting": Selecting,
}

__all__ = [
    "ALGORITHMS",
    "COORDINATORS",
    "Aging",
    "Anarchic",
    "Backup",
    "FedAT",
    "FedAsync",
    "FedAvg",
    "FedBuff",
    "FedCompass",
    "FedFix",
    "Pacing",
    "Papaya",
    "PowerOfChoice",
    "Selecting",
    "afa_cd",
    "afa_cs",
    "backup",
    "cellm",
    "curriculum",
    "econtrol",
    "ef21",
    "ef21w",
    "f3ast",
    "fedadagrad",
    "fedadam",
    "fedadv",
    "fedamd",
    "fedasync",
    "fedat",
    "fedau",
    "fedavg",
    "fedavg_m",
    "fedavgm",
    "fedbuff",
    "fedcompass",
    "feddyn",
    "fedfix",
    "fedkseed",
    "fednova",
    "fedprox",
    "fedref",
    "fedsgd",
    "fedshampoo",
    "fedspeed",
    "fedvarp",
    "fedyogi",
    "fetchsgd",
    "fzoos",
    "global_momentum_fusion",
    "gradient_coding",
    "gradient_inversion",
    "homomorphic",
    "importance",
    "jit_deadlines",
    "just_one_byte",
    "masha1",
    "masha2",
    "mezo",
    "mifa",
    "moon",
    "oort",
    "papaya",
    "partial_work",
    "power_of_choice",
    "scafcom",
    "scaffold",
    "scaffold_m",
    "scallion",
    "scheduled",
    "tifl",
    "wary",
    "wireless_afl",
]
