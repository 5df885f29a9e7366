"""Laws of every transform that encodes: its constant, mass that error feedback keeps, bad values.

A new transform joins by a row in `PROMISES`, or in `OTHERS` if it encodes nothing by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from shoal.core import Context, Transform, chain
from shoal.errors import ConfigError
from shoal.tensors import Tensors
from shoal.transforms import (
    EF21,
    LSH,
    QSGD,
    TRANSFORMS,
    Accumulate,
    CountSketch,
    EControl,
    Entropy,
    ErrorFeedback,
    FedZip,
    Ferret,
    FixedPoint,
    Half,
    Homomorphic,
    KMeansCodebook,
    LGreCo,
    PerTensor,
    PowerSGD,
    Quantize,
    RandK,
    Sign,
    TopK,
)

RNG = np.random.default_rng(11)
D = 64
VECTORS = {
    "normal": RNG.standard_normal(D), "heavy": RNG.standard_cauchy(D), "one": np.eye(D)[5],
    "zero": np.zeros(D), "equal": np.full(D, -0.3),
}  # fmt: skip


@dataclass(frozen=True)
class Promise:
    """What E |C(u) - u|^2 is at most, over |u|^2 and beside it; whether E C(u) = u."""

    codec: Transform[Any]
    relative: float
    unbiased: bool = False
    absolute: float = 0.0


TOP = TopK(count=8)
PROMISES = {
    "TopK": Promise(TOP, 1 - 8 / D),
    "RandK": Promise(RandK(count=8), D / 8 - 1, unbiased=True),
    "Quantize": Promise(Quantize(4, D), D / 4 / 49, unbiased=True),
    "QSGD": Promise(QSGD(4, D), D**0.5 / 4, unbiased=True),
    "Sign": Promise(Sign("mean"), 1 - 1 / D),
    "KMeansCodebook": Promise(KMeansCodebook(4), 1.0),
    "PowerSGD": Promise(PowerSGD(1), 1.0),
    "LSH": Promise(LSH(2, 1), 1.0),
    "Half": Promise(Half(), 2.0**-17),
    "PerTensor": Promise(PerTensor(TOP), 1 - 8 / D),
    "Entropy": Promise(chain(TOP, Entropy()), 1 - 8 / D),
    "LGreCo": Promise(LGreCo((TOP, TopK(count=16)), default=0), 1 - 8 / D),
    "FedZip": Promise(FedZip(0.5), 1.0),
    "Ferret": Promise(Ferret(32), 1.5 * D / 32 + 0.5, unbiased=True),
    "Homomorphic": Promise(chain(TOP, Homomorphic(40, 2.0**-20)), 1 - 8 / D, absolute=1e-9),
    "CountSketch": Promise(CountSketch(32, 1, 2.0**-20), D / 32, unbiased=True, absolute=1e-9),
    "FixedPoint": Promise(
        FixedPoint(500.0), 0.0, unbiased=True, absolute=D * (500 / 32767) ** 2 / 4
    ),
}  # fmt: skip
OTHERS = {
    "Clip", "Noise", "Scale", "Momentum", "Adam", "Yogi", "Adagrad", "Accumulate", "On",
    "ErrorFeedback", "EF21", "EControl", "DGC",
}  # fmt: skip


def sent(codec: Transform[Any], u: np.ndarray, draw: int) -> np.ndarray:
    value = Tensors.of({"a": u.reshape(8, -1).astype(np.float32)})
    ctx = Context(number=draw, version=draw, seed=draw)
    return codec.apply(value, codec.init(value), ctx)[0].dense.astype(np.float64)


def test_every_transform_promises_something_or_encodes_nothing() -> None:
    assert set(PROMISES) | OTHERS == set(TRANSFORMS)
    assert not set(PROMISES) & OTHERS


@pytest.mark.parametrize("name", PROMISES)
@pytest.mark.parametrize("vector", VECTORS)
def test_the_constant_of_every_codec(name: str, vector: str) -> None:
    promise = PROMISES[name]
    u = VECTORS[vector].astype(np.float32).astype(np.float64)
    square, draws = float(u @ u), 250 if promise.unbiased else 2
    found = np.array([sent(promise.codec, u, draw) for draw in range(draws)])
    most = promise.relative * square + promise.absolute
    lost = np.square(found - u).sum(axis=1)
    # Five deviations of the mean beside the bound.
    assert lost.mean() <= most + 5 * lost.std() / draws**0.5 + 1e-6 * square + 1e-12
    if promise.unbiased:
        off = np.linalg.norm(found.mean(axis=0) - u)
        assert off <= 5 * (most / draws) ** 0.5 + 2e-5 * square**0.5


@pytest.mark.parametrize(
    "method", [EF21(TOP), EF21(Quantize(4)), EControl(TOP, 0.05), EControl(QSGD(4), 1.0)], ids=repr
)
def test_the_server_that_adds_up_has_the_estimate_of_the_client_to_the_bit(
    method: Transform[Any],
) -> None:
    value = Tensors.of({"a": np.zeros((8, 8), np.float32)})
    state, adds = method.init(value), Accumulate()
    server = adds.init(value)
    total = np.zeros(D, np.float32)
    for draw in range(20):
        u = value.with_flat(RNG.standard_normal(D).astype(np.float32))
        out, state = method.apply(u, state, Context(number=draw))
        total = total + out.dense
        made, server = adds.apply(out.with_flat(out.dense), server, Context(number=draw))
        assert state.estimate.dense.tobytes() == total.tobytes() == made.dense.tobytes()


@pytest.mark.parametrize("name", [n for n in PROMISES if n not in ("Ferret", "CountSketch")])
def test_error_feedback_around_every_codec_conserves_mass(name: str) -> None:
    feedback = ErrorFeedback(PROMISES[name].codec)
    value = Tensors.of({"a": np.zeros((8, 8), np.float32)})
    state, given, out = feedback.init(value), np.zeros(D), np.zeros(D)
    for draw in range(12):
        u = RNG.standard_normal(D).astype(np.float32)
        made, state = feedback.apply(value.with_flat(u), state, Context(number=draw))
        given, out = given + u, out + made.dense
    scale = np.abs(given).max() + np.abs(state.residual.dense).max() + np.abs(out).max()
    np.testing.assert_allclose(out + state.residual.dense, given, atol=2e-5 * scale)


BAD: dict[str, Callable[[], object]] = {
    "fraction of 0": lambda: TopK(0.0), "fraction above 1": lambda: RandK(1.5),
    "fraction that is NaN": lambda: TopK(float("nan")), "no bits": lambda: Quantize(0),
    "17 bits": lambda: Quantize(17), "bits of half": lambda: FixedPoint(1.0, 17),
    "infinite clip": lambda: FixedPoint(float("inf")),
    "infinite step": lambda: CountSketch(9, 1, float("inf")),
    "no levels": lambda: QSGD(0), "rank 0": lambda: PowerSGD(0),
    "no clusters": lambda: FedZip(0.5, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_numbers_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError):
        BAD[name]()


@pytest.mark.parametrize("name", PROMISES)
def test_empty_zero_and_broken_values(name: str) -> None:
    codec = PROMISES[name].codec
    for size in (0, 1, D):
        zero = Tensors.of({"a": np.zeros(size, np.float32)})
        out, _ = codec.apply(zero, codec.init(zero), Context())
        assert out.dense.shape == (size,) and np.abs(out.dense).max(initial=0) <= 0.02
    for bad in (np.nan, np.inf):
        flat = np.ones(D, np.float32)
        flat[3] = bad
        value = Tensors.of({"a": flat.reshape(8, 8)})
        assert not codec.apply(value, codec.init(value), Context())[0].finite()
