"""Laws that every transform obeys: join by a row in TRANSFORMS and an example here."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import plain, wire
from shoal.core import Context, Transform, chain
from shoal.encoded import Sparse
from shoal.tensors import Layout, Tensors, equal
from shoal.transforms import (
    DGC,
    EF21,
    LSH,
    QSGD,
    TRANSFORMS,
    Accumulate,
    Adagrad,
    Adam,
    Clip,
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
    Momentum,
    Noise,
    On,
    PerTensor,
    PowerSGD,
    Quantize,
    RandK,
    Scale,
    Sign,
    TopK,
    Yogi,
)

EXAMPLES: dict[str, tuple[Transform[Any], ...]] = {
    "Clip": (Clip(1.0), Clip(1e6)),
    "Noise": (Noise(0.1), Noise(0.0)),
    "Scale": (Scale(0.5), Scale(-2.0)),
    "TopK": (TopK(0.3), TopK(count=2), TopK(1.0), TopK(0.3, sampled=True)),
    "RandK": (RandK(0.3), RandK(count=2, scaled=False, shared=True), RandK(1.0)),
    "Quantize": (Quantize(), Quantize(bits=4, block=3), Quantize(bits=1), Quantize(bits=11)),
    "QSGD": (QSGD(), QSGD(levels=1, bucket=3), QSGD(levels=1000)),
    "Sign": (Sign(), Sign("mean"), Sign("mean", block=4)),
    "KMeansCodebook": (KMeansCodebook(), KMeansCodebook(levels=2, zero=True)),
    "PowerSGD": (PowerSGD(rank=1), PowerSGD(rank=1, warm=False), PowerSGD(rank=2)),
    "LSH": (LSH(width=2, hashes=1), LSH(width=3)),
    "Half": (Half(), Half("f16")),
    "PerTensor": (PerTensor(TopK(0.3)), PerTensor(ErrorFeedback(QSGD()), smallest=3)),
    "Entropy": (Entropy(), Entropy(zstd=True)),
    "ErrorFeedback": (
        ErrorFeedback(TopK(0.3)),
        ErrorFeedback(chain(TopK(0.5), Quantize(block=2))),
        ErrorFeedback(ErrorFeedback(Quantize(bits=2))),
        ErrorFeedback(PowerSGD(rank=1)),
    ),
    "Momentum": (Momentum(), Momentum(beta=0.0)),
    "Adam": (Adam(),),
    "Yogi": (Yogi(),),
    "Adagrad": (Adagrad(), Adagrad(b1=0.0, v0=1.0)),
    "EF21": (EF21(TopK(0.3)), EF21(Quantize(bits=2))),
    "EControl": (EControl(TopK(0.3), 0.05), EControl(chain(TopK(0.5), Quantize()), 1.0)),
    "DGC": (DGC(0.3, clip=1.0, warmup=2), DGC(0.2, nesterov=True, vectors=False), DGC(1.0)),
    "LGreCo": (LGreCo((TopK(0.3), TopK(0.6), Quantize())), LGreCo((TopK(0.5),), every=1)),
    "FedZip": (FedZip(0.5), FedZip(0.3, 2, "huffman"), FedZip(1.0, 1, "positions")),
    "Ferret": (Ferret(2), Ferret(5, legacy=True)),
    "Homomorphic": (Homomorphic(60, 1e-6), Homomorphic(100, 0.25)),
    "CountSketch": (CountSketch(30, 3), CountSketch(5, 1, 0.25)),
    "FixedPoint": (FixedPoint(1.0), FixedPoint(200.0, 4)),
    "Accumulate": (Accumulate(),),
    "On": (On("control/", Noise(0.1)), On("control/", ErrorFeedback(TopK(0.5)))),
}
ALL = [example for examples in EXAMPLES.values() for example in examples]
WHOLE = chain(Clip(1.0), ErrorFeedback(chain(TopK(0.5), Quantize())), Adam(), Noise(0.1))
every = pytest.mark.parametrize("transform", [*ALL, WHOLE], ids=repr)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
CTX = Context(client="a", version=3, seed=7, number=2)


def tensors(flat: Any, dtype: Any = np.float32) -> Tensors:
    """Ten trainable values, three control values, and buffers of both kinds."""
    layout = Layout(("w", "b"), ((2, 4), (2,)), np.dtype(dtype))
    control = Tensors.of({"w": np.array([0.5, -1.0, 2.0], np.float32)})
    buffers = Tensors.of({"mean": np.array([3.0, 4.0], np.float32)})
    counter = Tensors.of({"batches": np.array(9)})
    groups = {"buffer/": buffers, "control/": control, "counter/": counter}
    return Tensors(layout, np.array(flat, dtype), groups)


MODEL = tensors(np.zeros(10))
flats = st.lists(st.floats(-100, 100, width=32), min_size=10, max_size=10)


def bits(value: Any) -> Any:
    """Everything that a value or state is made of."""
    store: plain.Store = {}
    shape = json.dumps(plain.encode(value, store, "value"))
    return shape, {path: wire.dump(one) for path, one in store.items()}


def test_every_entry_has_an_example() -> None:
    assert set(EXAMPLES) == set(TRANSFORMS)
    for name, examples in EXAMPLES.items():
        assert all(type(example) is TRANSFORMS[name] for example in examples)


@every
@dtypes
@given(flat=flats)
def test_names_shapes_dtypes_and_other_groups_stay(
    transform: Transform[Any], dtype: Any, flat: list[float]
) -> None:
    value = tensors(flat, dtype)
    state = transform.init(tensors(np.zeros(10), dtype))
    out, _ = transform.apply(value, state, CTX)
    assert out.layout == value.layout
    assert out.dense.dtype == dtype and out.dense.shape == (10,)
    assert out.finite()
    bound = transform.prefix if isinstance(transform, On) else ""
    assert set(out.groups) == set(value.groups)
    for prefix, group in value.groups.items():
        assert out.groups[prefix].layout == group.layout
        assert equal(out.groups[prefix], group) or prefix == bound
    assert not bound or out.dense.tobytes() == value.dense.tobytes()


@every
@given(flat=flats)
def test_pure_and_repeatable(transform: Transform[Any], flat: list[float]) -> None:
    value, state = tensors(flat), transform.init(MODEL)
    for number in range(3):
        ctx = Context(client="a", number=number)
        before = bits(value), bits(state)
        first, second = transform.apply(value, state, ctx), transform.apply(value, state, ctx)
        assert (bits(value), bits(state)) == before
        assert bits(first) == bits(second)
        state = first[1]


@every
@given(flat=flats)
def test_state_survives_a_checkpoint(transform: Transform[Any], flat: list[float]) -> None:
    value, state = tensors(flat), transform.init(MODEL)
    for _ in range(2):
        _, state = transform.apply(value, state, CTX)
    store: plain.Store = {}
    text = json.dumps(plain.encode(state, store, "state"))
    loaded = {path: wire.load(wire.dump(one))[0] for path, one in store.items()}
    like = transform.init(MODEL)
    restored = plain.decode(Any, json.loads(text), loaded, path="state", like=like)
    assert plain.same(state, restored)
    assert bits(transform.apply(value, restored, CTX)) == bits(transform.apply(value, state, CTX))


@every
def test_an_encoded_value_passes(transform: Transform[Any]) -> None:
    dense = tensors([0, 3, 0, 0, -2, 0, 0, 1, 0, 0])
    chosen = np.flatnonzero(dense.dense)
    sparse = dense.with_flat(Sparse(10, chosen, dense.dense[chosen]))
    out, _ = transform.apply(sparse, transform.init(MODEL), CTX)
    expected, _ = transform.apply(dense, transform.init(MODEL), CTX)
    assert out.layout == dense.layout
    # There draws, signs or centers fall on other values.
    if not any(
        name in repr(transform) for name in ("Quantize", "QSGD", "Sign", "KMeans", "LSH", "Fixed")
    ):
        np.testing.assert_array_equal(out.dense, expected.dense)


@every
def test_what_is_sent_survives_the_wire(transform: Transform[Any]) -> None:
    value = tensors(np.linspace(-3, 4, 10))
    sent, _ = transform.apply(value, transform.init(MODEL), CTX)
    assert equal(wire.load(wire.dump(sent))[0], sent)


@pytest.mark.parametrize("transform", [t for t in ALL if not isinstance(t, On)], ids=repr)
def test_nothing_hides_a_value_that_is_not_finite(transform: Transform[Any]) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        value = tensors([1, 2, bad, 0, 0, 0, 0, 0, 0, 0])
        with np.errstate(invalid="ignore"):
            out, _ = transform.apply(value, transform.init(MODEL), CTX)
        assert not out.finite()


RANDOM = [Noise(0.1), Quantize(), ErrorFeedback(Quantize()), QSGD(), RandK(0.5)]


@pytest.mark.parametrize("transform", RANDOM, ids=repr)
def test_draws_differ_between_clients_tasks_and_seeds(transform: Transform[Any]) -> None:
    layout = Layout(("w",), ((200,),), np.dtype(np.float32))
    value = Tensors(layout, np.linspace(-1, 1, 200, dtype=np.float32))
    contexts = [CTX, Context("b", 3, 1, 7, 2), Context("a", 3, 1, 8, 2), Context("a", 3, 1, 7, 3)]
    seen = {transform.apply(value, transform.init(value), c)[0].dense.tobytes() for c in contexts}
    assert len(seen) == len(contexts)


@pytest.mark.parametrize(
    "codec",
    [
        TopK(0.2),
        TopK(count=1),
        Quantize(bits=3),
        chain(TopK(0.4), Quantize(bits=2)),
        RandK(0.4, scaled=False),
        Sign("mean"),
        KMeansCodebook(levels=2),
        PowerSGD(rank=1),
        PerTensor(TopK(0.3)),
        chain(TopK(0.5), QSGD(), Entropy()),
    ],
    ids=repr,
)
@given(rounds=st.lists(flats, min_size=1, max_size=4))
def test_error_feedback_loses_nothing(codec: Transform[Any], rounds: list[list[float]]) -> None:
    feedback = ErrorFeedback(codec)
    state = feedback.init(MODEL)
    for number, flat in enumerate(rounds):
        value, old = tensors(flat), state.residual.dense
        sent, state = feedback.apply(value, state, Context(number=number))
        left, right = sent.dense + state.residual.dense, value.dense + old
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-5)
        if isinstance(codec, TopK):
            assert np.array_equal(left, right)
