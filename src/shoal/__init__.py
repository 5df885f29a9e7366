"""Shoal: a federated-learning engine.

One experiment runs unchanged in a virtual-time simulator, behind a server, and on a cluster.
`import shoal` needs NumPy alone; a name is imported from its module when it is first used. Type
checkers read `__init__.pyi`, which lists the same names.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "data": "shoal.data",
    "flower": "shoal.flower",
    "numpy": "shoal.trainers.numpy",
    "sklearn": "shoal.trainers.sklearn",
    "testing": "shoal.testing",
    "torch": "shoal.trainers.torch",
}
_NAMES = {
    "shoal.aggregators": "GeometricMedian Krum MajorityVote Mean Median Routed Sum TrimmedMean",
    "shoal.algorithms": (
        "afa_cd afa_cs backup cellm curriculum econtrol ef21 ef21w f3ast fedadagrad fedadam fedadv "
        "fedamd fedasync fedat fedau fedavg fedavg_m fedavgm fedbuff fedcompass feddyn "
        "fedfix fedkseed fednova fedprox fedref fedsgd fedshampoo fedspeed fedvarp fedyogi "
        "fetchsgd fzoos "
        "global_momentum_fusion gradient_coding gradient_inversion homomorphic importance "
        "jit_deadlines just_one_byte masha1 masha2 mezo mifa moon oort Pacing papaya partial_work "
        "power_of_choice scafcom scaffold scaffold_m scallion scheduled tifl wary wireless_afl"
    ),
    "shoal.combinators": "evaluate_every relay until",
    "shoal.core": (
        "Aggregator Algorithm Chain Context Coordinator Examples StepRule Trainer Transform View "
        "chain"
    ),
    "shoal.errors": "ConfigError ShoalError",
    "shoal.experiment": "Experiment Relays from_toml to_toml",
    "shoal.messages": (
        "Abandon Action Aggregate Cancel Commit Discard Dispatch Evaluate Payload Send Stop Task "
        "Timer Update"
    ),
    "shoal.pipelines": "Auto",
    "shoal.net.client": "Client",
    "shoal.rules": "Blended ControlVariate Dynamic Normalized Proximal",
    "shoal.runner": "execute replay resume simulate",
    "shoal.schedules": "Cosine Decay Flat Stages Warmup",
    "shoal.simulation": (
        "Connectivity Constant Devices Distribution Exponential LogNormal Normal OnOff Retries "
        "Trace TraceAvailability Uniform"
    ),
    "shoal.tensors": "Tensors",
    "shoal.transforms": (
        "Accumulate Adagrad Adam Clip CountSketch DGC EControl EF21 Entropy ErrorFeedback FedZip "
        "Ferret "
        "FixedPoint Half Homomorphic KMeansCodebook LGreCo LSH Momentum Noise On PerTensor "
        "PowerSGD QSGD Quantize RandK Scale Sign TopK Yogi"
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*_MODULES, *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name in _MODULES:
        value: Any = import_module(_MODULES[name])
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
