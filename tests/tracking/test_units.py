import math

import pytest

from shoal.tracking import units
from shoal.tracking.axes import axis


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0 s"),
        (0.00025, "250 µs"),
        (0.83, "830 ms"),
        (0.9996, "1.0 s"),
        (45.24, "45.2 s"),
        (59.97, "1 m 00 s"),
        (725.0, "12 m 05 s"),
        (3599.7, "1 h 00 m"),
        (11100.0, "3 h 05 m"),
        (86399.0, "1 d 00 h"),
        (187200.0, "2 d 04 h"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_seconds(value, text):
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (1_300_000, "1.3 MB"),
        (2.12e11, "212 GB"),
        (3e18, "3000 PB"),
    ],
)
def test_size(value, text):
    assert units.size(value) == text


def test_counts_shares_and_metrics():
    assert units.count(20000) == "20,000"
    assert (units.share(0.314), units.share(0.004), units.share(0)) == ("31 %", "0.4 %", "0 %")
    assert (units.metric(0.9), units.metric(123.45), units.metric(1e-5)) == (
        *("0.900", "123.5"),
        "1e-05",
    )
    assert units.decimal(1234.56) == "1,234.6"


def test_a_sparkline_goes_from_lowest_to_highest():
    assert units.sparkline([0, 7]) == "▁█"
    assert units.sparkline([math.nan, 1, 1]) == "▁▁"
    assert units.sparkline(range(100), width=8) == "▁▂▃▄▅▆▇█"
    assert units.sparkline([]) == ""


@pytest.mark.parametrize(
    ("values", "kind", "ends", "labels"),
    [
        ((0, 1180), "time", (0, 1200), ("0", "5 m", "10 m", "15 m", "20 m")),
        ((0.12, 0.93), "number", (0.0, 1.0), ("0.0", "0.2", "0.4", "0.6", "0.8", "1.0")),
        ((0, 3.4e6), "bytes", (0, 4e6), ("0", "1 MB", "2 MB", "3 MB", "4 MB")),
        ((0, 3), "count", (0, 3), ("0", "1", "2", "3")),
        ((0, 40000), "count", (0, 40000), ("0", "10,000", "20,000", "30,000", "40,000")),
    ],
)
def test_axes_end_on_round_numbers(values, kind, ends, labels):
    made = axis("x", values, kind, ticks=4)
    assert (made.low, made.high) == pytest.approx(ends)
    assert made.labels == labels


@pytest.mark.parametrize("values", [(), (5.0,), (0.0, 0.0), (math.nan, 2.0), (-3.0, -3.0)])
def test_an_axis_is_never_empty(values):
    made = axis("x", values)
    assert made.high > made.low and len(made.ticks) >= 2


@pytest.mark.parametrize("span", [1e-5, 0.3, 7.0, 90.0, 4e3, 9e4, 3e6, 4e9])
def test_ticks_are_few_ascending_and_told_apart(span):
    for kind in ("time", "number", "bytes", "count"):
        made = axis("x", (0, span), kind, zero=True)
        assert 2 <= len(made.ticks) <= 14
        assert list(made.ticks) == sorted(made.ticks)
        if kind != "bytes" or span > 10:
            assert len(set(made.labels)) == len(made.labels)
