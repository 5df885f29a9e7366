"""Steps of upload pipelines and server optimizers: one file each."""

from typing import Any

from shoal.core import Transform
from shoal.transforms.adagrad import Adagrad
from shoal.transforms.adam import Adam
from shoal.transforms.clip import Clip
from shoal.transforms.error_feedback import ErrorFeedback
from shoal.transforms.momentum import Momentum
from shoal.transforms.noise import Noise
from shoal.transforms.on import On
from shoal.transforms.quantize import Quantize
from shoal.transforms.scale import Scale
from shoal.transforms.top_k import TopK
from shoal.transforms.yogi import Yogi

TRANSFORMS: dict[str, type[Transform[Any]]] = {
    "Clip": Clip,
    "Noise": Noise,
    "Scale": Scale,
    "TopK": TopK,
    "Quantize": Quantize,
    "ErrorFeedback": ErrorFeedback,
    "Momentum": Momentum,
    "Adam": Adam,
    "Yogi": Yogi,
    "Adagrad": Adagrad,
    "On": On,
}

__all__ = [
    "TRANSFORMS",
    "Adagrad",
    "Adam",
    "Clip",
    "ErrorFeedback",
    "Momentum",
    "Noise",
    "On",
    "Quantize",
    "Scale",
    "TopK",
    "Yogi",
]
