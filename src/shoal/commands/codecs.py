"""`shoal show codecs [REF]`: ratio, error and speed of every codec on an update of one's own."""

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal import counter, wire
from shoal.commands.refs import experiments
from shoal.core import Context, Transform, chain
from shoal.errors import ConfigError
from shoal.messages import Task
from shoal.seeds import rng
from shoal.sums import accumulate
from shoal.tensors import Layout, Tensors
from shoal.transforms import (
    LSH,
    QSGD,
    CountSketch,
    Entropy,
    FedZip,
    Ferret,
    FixedPoint,
    Half,
    KMeansCodebook,
    LGreCo,
    PerTensor,
    PowerSGD,
    Quantize,
    RandK,
    Sign,
    TopK,
)  # fmt: skip

SAMPLE = 1_000_000  # normal values, where there is no experiment
REPEATS = 3
CODECS: dict[str, Transform[Any]] = {
    "Half()": Half(),
    "chain(Half(), Entropy())": chain(Half(), Entropy()),
    "Quantize(8)": Quantize(8),
    "Quantize(4)": Quantize(4),
    "chain(Quantize(4), Entropy())": chain(Quantize(4), Entropy()),
    "Quantize(2)": Quantize(2),
    "Quantize(1)": Quantize(1),
    "chain(QSGD(7), Entropy())": chain(QSGD(7), Entropy()),
    'Sign("mean")': Sign("mean"),
    "KMeansCodebook(15)": KMeansCodebook(15),
    "TopK(0.1)": TopK(0.1),
    "TopK(0.01)": TopK(0.01),
    "TopK(0.01, sampled=True)": TopK(0.01, sampled=True),
    "PerTensor(TopK(0.01))": PerTensor(TopK(0.01)),
    "RandK(0.01)": RandK(0.01),
    "chain(TopK(0.01), Quantize(8), Entropy())": chain(TopK(0.01), Quantize(8), Entropy()),
    "chain(TopK(0.001), Quantize(8), Entropy())": chain(TopK(0.001), Quantize(8), Entropy()),
    "PowerSGD(2)": PowerSGD(2),
    "LSH(8, 1)": LSH(8, 1),
    "FedZip(0.01)": FedZip(0.01),
    "LGreCo((TopK(0.001), TopK(0.01), TopK(0.1)))": LGreCo((TopK(0.001), TopK(0.01), TopK(0.1))),
    "Ferret(16)": Ferret(16),
    "FixedPoint(1.0)": FixedPoint(1.0),
    "CountSketch(1000)": CountSketch(1000),
}


@dataclass(frozen=True)
class Measured:
    """What a codec does to an update.

    Attributes:
        nbytes: on the wire.
        ratio: bytes without it, over those.
        error: norm of what is lost, over the update's.
        encode, decode: megabytes of the update a second; decoding is from bytes into a sum.
    """

    name: str
    nbytes: int
    ratio: float
    error: float
    encode: float
    decode: float


def show_codecs(chosen: argparse.Namespace, rest: list[str]) -> None:
    """Print the table for an experiment's first update, or for normal values."""
    if len(rest) > 1:
        raise ConfigError("show codecs", "give one experiment, e.g. file.py:function, or none")
    value = update(rest[0], chosen.settings) if rest else normal()
    names = len(value.layout.names)
    print(
        f"an update of {value.layout.size:,} values in {names} tensors, {wire.size(value):,} bytes"
    )
    print(f"{'upload':44}{'bytes':>12}{'ratio':>9}{'error':>8}{'encode':>9}{'decode':>9}")
    for name, codec in CODECS.items():
        m = measure(name, codec, value)
        speeds = f"{m.encode:>9,.0f}{m.decode:>9,.0f}"
        print(f"{name:44}{m.nbytes:>12,}{m.ratio:>9.2f}{m.error:>8.3f}{speeds}")
    print("error: norm of what is lost over the update's; speeds in MB/s of the update")


def measure(name: str, codec: Transform[Any], value: Tensors) -> Measured:
    """A codec on the trainable values of an update; times are the best of a few."""
    plain = Tensors(value.layout, value.dense)
    state = codec.init(plain)
    whole, length = wire.size(plain), float(np.linalg.norm(plain.dense.astype(np.float64)))
    began = times = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        data = wire.dump(codec.apply(plain, state, Context())[0])
        times = min(times, time.perf_counter() - began)
    encode, times = times, float("inf")
    total = np.zeros(plain.layout.size, plain.layout.dtype)
    for _ in range(REPEATS):
        began = time.perf_counter()
        back = wire.load(data)[0]
        accumulate(total, back.flat, 1.0)
        times = min(times, time.perf_counter() - began)
    lost = float(np.linalg.norm((back.dense - plain.dense).astype(np.float64)))
    mega = plain.nbytes / 1e6
    error = lost / length if length else 0.0
    return Measured(name, len(data), whole / len(data), error, mega / encode, mega / times)


def update(ref: str, settings: list[str]) -> Tensors:
    """What the first client of an experiment would send after its first task, uncompressed."""
    experiment = experiments(ref, settings)[0][0]
    federation = experiment.data.load(experiment.seed)
    trainer = experiment.algorithm.trainer.bind(experiment.model)
    model, client = trainer.initial(experiment.seed), federation.clients[0]
    draws = rng(experiment.seed, "train", client, 0)
    payload, _ = trainer.train(
        model, federation[client], trainer.init(model), Task(0, client, 0), draws
    )
    sent: Tensors = payload.tensors
    return sent


def normal() -> Tensors:
    """A square matrix of standard normal values."""
    side = int(SAMPLE**0.5)
    layout = Layout(("normal",), ((side, side),), np.dtype(np.float32))
    return Tensors(layout, counter.normals(0, 0, side * side))
