import math
import os
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import plain
from shoal.errors import ConfigError, DataError
from shoal.simulation import (
    DISTRIBUTIONS,
    Constant,
    Exponential,
    LogNormal,
    Normal,
    Trace,
    Uniform,
)

ALL = [
    Constant(2.0),
    Normal(2.0, 0.6),
    Normal(1.0, 50.0),
    LogNormal(2.0, 1.0),
    Exponential(2.0),
    Uniform(0.0, 2.0),
    Uniform(1.0, 3.0),
    Trace((1.0, 2.0, 6.0)),
]


def sample(distribution, n=20000):
    return [distribution.draw(7, "test", i) for i in range(n)]


@pytest.mark.parametrize("distribution", ALL, ids=repr)
@given(st.integers(0, 2**63), st.text(), st.integers(0, 2**40))
def test_positive_finite_and_the_same_again(distribution, seed, name, number):
    value = distribution.draw(seed, name, number)
    assert 0 < value < math.inf
    assert value == distribution.draw(seed, name, number)


@pytest.mark.parametrize(
    ("distribution", "mean", "std"),
    [
        (Constant(2.0), 2.0, 0.0),
        (Normal(2.0, 0.6), 2.0, 0.6),
        (LogNormal(2.0, 0.5), 2.0 * math.exp(0.125), 2 * math.exp(0.125) * 0.5329),
        (Exponential(2.0), 2.0, 2.0),
        (Uniform(1.0, 3.0), 2.0, 2 / math.sqrt(12)),
        (Trace((1.0, 2.0, 6.0)), 3.0, math.sqrt(14 / 3)),
    ],
    ids=repr,
)
def test_moments(distribution, mean, std):
    values = sample(distribution)
    assert statistics.fmean(values) == pytest.approx(mean, rel=0.03)
    assert statistics.pstdev(values) == pytest.approx(std, rel=0.05)


def test_median_of_the_log_normal():
    assert statistics.median(sample(LogNormal(3.0, 1.5))) == pytest.approx(3.0, rel=0.05)


def test_normal_is_lifted_to_a_hundredth_of_its_mean():
    assert min(sample(Normal(1.0, 50.0), 100)) == 0.01


def test_draws_of_different_purposes_differ():
    speeds = {Exponential(1.0).draw(0, "speed", f"c{i}") for i in range(100)}
    assert len(speeds) == 100
    assert Exponential(1.0).draw(0, "up", "a") != Exponential(1.0).draw(0, "down", "a")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Constant(0.0), "value"),
        (lambda: Normal(-1.0, 1.0), "mean"),
        (lambda: Normal(1.0, -1.0), "std"),
        (lambda: LogNormal(0.0, 1.0), "median"),
        (lambda: LogNormal(1.0, math.inf), "sigma"),
        (lambda: Exponential(math.nan), "mean"),
        (lambda: Uniform(-1.0, 1.0), "low"),
        (lambda: Uniform(2.0, 2.0), "high"),
        (lambda: Trace(), "values"),
        (lambda: Trace((1.0,), "a.csv", "b"), "values"),
        (lambda: Trace((1.0, -2.0)), "values"),
        (lambda: Trace(path="a.csv"), "column"),
        (lambda: Trace((1.0,), scale=0.0), "scale"),
    ],
)
def test_bad_fields_are_named(make, field):
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.field == field


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_plain_round_trip(distribution):
    assert plain.decode(type(distribution), plain.encode(distribution)) == distribution
    assert type(distribution) in DISTRIBUTIONS.values()


def test_trace_from_a_file(tmp_path):
    path = tmp_path / "speeds.csv"
    path.write_text("device,score\na,100\nb,\nc,400\n")
    trace = Trace(path=str(path), column="score", scale=1000.0, invert=True)
    assert trace.measured == (10.0, 2.5)
    assert {trace.draw(0, i) for i in range(50)} == {10.0, 2.5}
    assert trace == Trace(path=str(path), column="score", scale=1000.0, invert=True)
    with pytest.raises(DataError, match="no column 'scor'; did you mean score"):
        _ = Trace(path=str(path), column="scor").measured
    with pytest.raises(DataError, match="'a' is not a number"):
        _ = Trace(path=str(path), column="device").measured
    with pytest.raises(DataError, match="gone"):
        _ = Trace(path=str(tmp_path / "gone.csv"), column="x").measured
    path.write_text("score\n1\n0\n")
    with pytest.raises(DataError, match="positive"):
        _ = Trace(path=str(path), column="score").measured


def test_real_phones_are_unequal():
    root = Path(__file__).resolve().parents[2].parent
    folder = Path(os.environ.get("SHOAL_DATA", root / "shared" / "data"))
    path = folder / "ai_benchmark_phones_2019.csv.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    trace = Trace(path=str(path), column="ai_score", scale=1000.0, invert=True)
    assert len(trace.measured) == 333
    assert max(trace.measured) / min(trace.measured) == pytest.approx(76206 / 212)
