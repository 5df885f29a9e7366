"""Shoal: a federated-learning engine.

One experiment runs unchanged in a virtual-time simulator, behind a server, and on a cluster.
`import shoal` needs NumPy alone; a name is imported from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal import data, testing
    from shoal.aggregators import GeometricMedian, Krum, Mean, Median, Routed, Sum, TrimmedMean
    from shoal.algorithms import (
        afa_cd,
        afa_cs,
        fedadagrad,
        fedadam,
        fedasync,
        fedavg,
        fedavgm,
        fedbuff,
        fedcompass,
        fedfix,
        fedprox,
        fedsgd,
        fedyogi,
        scaffold,
    )
    from shoal.combinators import evaluate_every, relay, until
    from shoal.core import (
        Aggregator,
        Algorithm,
        Chain,
        Context,
        Coordinator,
        Examples,
        StepRule,
        Trainer,
        Transform,
        View,
        chain,
    )
    from shoal.errors import ConfigError, ShoalError
    from shoal.experiment import Experiment, Relays, from_toml, to_toml
    from shoal.messages import (
        Abandon,
        Action,
        Aggregate,
        Cancel,
        Commit,
        Discard,
        Dispatch,
        Evaluate,
        Payload,
        Send,
        Stop,
        Task,
        Timer,
        Update,
    )
    from shoal.rules import ControlVariate, Proximal
    from shoal.runner import execute, replay, resume, simulate
    from shoal.simulation import (
        Constant,
        Devices,
        Exponential,
        LogNormal,
        Normal,
        OnOff,
        Trace,
        TraceAvailability,
        Uniform,
    )
    from shoal.tensors import Tensors
    from shoal.trainers import numpy, sklearn, torch
    from shoal.transforms import (
        Adagrad,
        Adam,
        Clip,
        ErrorFeedback,
        Momentum,
        Noise,
        On,
        Quantize,
        Scale,
        TopK,
        Yogi,
    )

__version__ = "0.1.0"

_MODULES = {
    "data": "shoal.data",
    "numpy": "shoal.trainers.numpy",
    "sklearn": "shoal.trainers.sklearn",
    "testing": "shoal.testing",
    "torch": "shoal.trainers.torch",
}
_NAMES = {
    "shoal.aggregators": "GeometricMedian Krum Mean Median Routed Sum TrimmedMean",
    "shoal.algorithms": (
        "afa_cd afa_cs fedadagrad fedadam fedasync fedavg fedavgm fedbuff fedcompass fedfix "
        "fedprox fedsgd fedyogi scaffold"
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
    "shoal.rules": "ControlVariate Proximal",
    "shoal.runner": "execute replay resume simulate",
    "shoal.simulation": (
        "Constant Devices Exponential LogNormal Normal OnOff Trace TraceAvailability Uniform"
    ),
    "shoal.tensors": "Tensors",
    "shoal.transforms": (
        "Adagrad Adam Clip ErrorFeedback Momentum Noise On Quantize Scale TopK Yogi"
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*_MODULES, *_HOMES]  # noqa: PLE0604 - one list, not two


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
