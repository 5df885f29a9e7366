"""Count sketches: sums are sketches of sums, estimates have no bias; large values are found."""

import numpy as np
import pytest

from shoal.algorithms.fetchsgd import Unsketch, fetchsgd
from shoal.codecs import Sketch
from shoal.codecs.sketch import estimates, sketched
from shoal.core import Context
from shoal.errors import ConfigError, UpdateError
from shoal.tensors import Tensors
from shoal.trainers.numpy import Softmax
from shoal.transforms import CountSketch, TopK

RNG = np.random.default_rng(5)
SIZE = 3000
MODEL = Tensors.of({"w": np.zeros(SIZE, np.float32)})
CODEC = CountSketch(400, 5, 2.0**-16)
VALUES = [RNG.standard_normal(SIZE).astype(np.float32) for _ in range(4)]


def sent(values: np.ndarray, number: int = 0) -> Tensors:
    return CODEC.apply(MODEL.with_flat(values), None, Context(client=str(number), number=number))[0]


def test_the_sum_of_sketches_is_the_sketch_of_the_sum_masked_or_not() -> None:
    leaves = [sent(v, i).flat for i, v in enumerate(VALUES)]
    whole = np.sum([np.rint(v * 2.0**16) for v in VALUES], axis=0).astype(np.int32)
    key = leaves[0].key  # the same for all
    expected = sketched(whole, np.arange(SIZE), 5, 400, key)
    masks = RNG.integers(-(2**31), 2**31, (4, expected.size)).astype(np.int32)
    masks[3] = -(masks[0] + masks[1] + masks[2])
    for extra in (np.zeros_like(masks), masks):
        total = sum(leaf.cells + m for leaf, m in zip(leaves, extra, strict=True))
        assert np.array_equal(total, expected)
    assert len({leaf.key for leaf in leaves}) == 1


def test_a_row_estimates_without_bias_and_a_median_finds_the_large_ones() -> None:
    values = (np.arange(60) - 30).astype(np.int32)
    found = [estimates(sketched(values, np.arange(60), 1, 20, key), 60, 1, key)
             for key in range(1500)]  # fmt: skip
    deviation = np.linalg.norm(values) / np.sqrt(20) / np.sqrt(1500)
    assert np.abs(np.mean(found, axis=0) - values).max() < 5 * deviation
    large = np.zeros(SIZE, np.float32)
    large[::300] = 50.0
    leaf = sent(large + 0.1 * VALUES[0]).flat
    assert isinstance(leaf, Sketch)
    estimate = leaf.dense()
    assert set(np.argsort(-estimate)[:10].tolist()) == set(range(0, SIZE, 300))
    np.testing.assert_allclose(estimate[::300], 50.0, atol=2.0)


def test_what_is_left_out_comes_later() -> None:
    rule = Unsketch(CODEC, 20, beta=0.0)
    acc, done = rule.init(MODEL), np.zeros(SIZE)
    wanted = np.where(RNG.random(SIZE) < 0.02, 10 * VALUES[1], 0).astype(np.float32)
    for number in range(12):
        acc = rule.fold(acc, sent(wanted if number == 0 else 0 * wanted), 1.0, "a")
        step, acc = rule.finish(acc)
        assert np.count_nonzero(step.dense) <= 20
        done += step.dense
    assert np.linalg.norm(done - wanted) < 0.05 * np.linalg.norm(wanted)


def test_sums_may_be_merged_and_abandoned() -> None:
    rule = Unsketch(CODEC, 20)
    halves = [rule.init(MODEL), rule.init(MODEL)]
    whole = rule.init(MODEL)
    for i, v in enumerate(VALUES):
        halves[i % 2] = rule.fold(halves[i % 2], sent(v, i), 1.0, str(i))
        whole = rule.fold(whole, sent(v, i), 1.0, str(i))
    a, left = rule.finish(whole)
    b, _ = rule.finish(rule.merge(*halves))
    assert a.dense.tobytes() == b.dense.tobytes()
    cleared = rule.clear(rule.fold(left, sent(VALUES[0]), 1.0, "a"))
    assert np.array_equal(cleared.error, left.error) and not cleared.count
    nothing, same = rule.finish(cleared)
    assert not nothing.dense.any() and np.array_equal(same.error, left.error)


def test_what_cannot_be_added_is_refused() -> None:
    rule = Unsketch(CODEC, 20)
    acc = rule.fold(rule.init(MODEL), sent(VALUES[0]), 1.0, "a")
    for bad in (MODEL, CountSketch(401).apply(MODEL, None, Context())[0],
                CountSketch(400, 5, 0.5).apply(MODEL, None, Context())[0],
                CODEC.apply(MODEL, None, Context(seed=9))[0]):  # fmt: skip
        with pytest.raises(UpdateError):
            rule.fold(acc, bad, 1.0, "b")
    for wrong in ({"width": 0}, {"width": 4, "rows": 2}, {"width": 4, "step": 0.0}):
        with pytest.raises(ConfigError):
            CountSketch(**wrong)
    with pytest.raises(ConfigError, match="step"):
        CountSketch(5, 1, 1e-12).apply(MODEL.with_flat(VALUES[0]), None, Context())
    with pytest.raises(ConfigError, match="count"):
        fetchsgd(codec=CODEC, count=500, trainer=Softmax(lr=0.1, features=4, classes=2))


def test_it_learns_digits_from_sketches() -> None:
    import shoal

    trainer = Softmax(lr=0.02, features=64, classes=10, local_steps=5)
    made = shoal.Experiment(
        model=None, data=shoal.data.digits(clients=4),
        algorithm=fetchsgd(codec=CountSketch(200, 5, 1e-5), count=60, beta=0.5, trainer=trainer),
        commits=40, evaluate_every=40,
    )  # fmt: skip
    assert list(shoal.simulate(made))[-1].metrics["accuracy"] > 0.7
    assert TopK(0.1) != made.algorithm.upload
