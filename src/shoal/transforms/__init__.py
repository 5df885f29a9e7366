"""Steps of upload pipelines and server optimizers: one file each."""

from typing import Any

from shoal.core import Transform
from shoal.transforms.accumulate import Accumulate
from shoal.transforms.adagrad import Adagrad
from shoal.transforms.adam import Adam
from shoal.transforms.clip import Clip
from shoal.transforms.count_sketch import CountSketch
from shoal.transforms.dgc import DGC
from shoal.transforms.econtrol import EControl
from shoal.transforms.ef21 import EF21
from shoal.transforms.entropy import Entropy
from shoal.transforms.error_feedback import ErrorFeedback
from shoal.transforms.fedzip import FedZip
from shoal.transforms.ferret import Ferret
from shoal.transforms.fixed_point import FixedPoint
from shoal.transforms.half import Half
from shoal.transforms.homomorphic import Homomorphic
from shoal.transforms.kmeans import KMeansCodebook
from shoal.transforms.lgreco import LGreCo
from shoal.transforms.lsh import LSH
from shoal.transforms.momentum import Momentum
from shoal.transforms.noise import Noise
from shoal.transforms.on import On
from shoal.transforms.per_tensor import PerTensor
from shoal.transforms.power_sgd import PowerSGD
from shoal.transforms.qsgd import QSGD
from shoal.transforms.quantize import Quantize
from shoal.transforms.rand_k import RandK
from shoal.transforms.scale import Scale
from shoal.transforms.sign import Sign
from shoal.transforms.top_k import TopK
from shoal.transforms.yogi import Yogi

TRANSFORMS: dict[str, type[Transform[Any]]] = {
    "Clip": Clip,
    "Noise": Noise,
    "Scale": Scale,
    "TopK": TopK,
    "Quantize": Quantize,
    "RandK": RandK,
    "QSGD": QSGD,
    "Sign": Sign,
    "KMeansCodebook": KMeansCodebook,
    "PowerSGD": PowerSGD,
    "LSH": LSH,
    "Half": Half,
    "PerTensor": PerTensor,
    "Entropy": Entropy,
    "ErrorFeedback": ErrorFeedback,
    "Momentum": Momentum,
    "Adam": Adam,
    "Yogi": Yogi,
    "Adagrad": Adagrad,
    "EF21": EF21,
    "EControl": EControl,
    "DGC": DGC,
    "LGreCo": LGreCo,
    "FedZip": FedZip,
    "Ferret": Ferret,
    "Homomorphic": Homomorphic,
    "FixedPoint": FixedPoint,
    "CountSketch": CountSketch,
    "Accumulate": Accumulate,
    "On": On,
}

__all__ = [
    "DGC",
    "EF21",
    "LSH",
    "QSGD",
    "TRANSFORMS",
    "Accumulate",
    "Adagrad",
    "Adam",
    "Clip",
    "CountSketch",
    "EControl",
    "Entropy",
    "ErrorFeedback",
    "FedZip",
    "Ferret",
    "FixedPoint",
    "Half",
    "Homomorphic",
    "KMeansCodebook",
    "LGreCo",
    "Momentum",
    "Noise",
    "On",
    "PerTensor",
    "PowerSGD",
    "Quantize",
    "RandK",
    "Scale",
    "Sign",
    "TopK",
    "Yogi",
]
