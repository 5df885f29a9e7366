"""Radio links: the closed form against draws of fading channels, and what waiting for one costs."""

from dataclasses import replace

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.seeds import rng
from shoal.simulation import Connectivity, Devices, Participation, Retries
from shoal.simulation.connectivity import LEAST

NAMES = [f"c{i}" for i in range(300)]
SOME = Connectivity(stations=6, interferers=3, side=3000.0, threshold=-3.0, activity=0.7)


def drawn(model: Connectivity, client: str, seed: int, n: int = 40_000) -> float:
    """The share of fading channels on which the upload gets through."""
    place = rng(seed, "connectivity", "client", client).uniform(0, model.side, 2)
    draws = rng(seed, "connectivity", "field")
    grounds = draws.uniform(0, model.side, (model.stations, 2))
    others = draws.uniform(0, model.side, (model.interferers, 2))
    ground = min(grounds.tolist(), key=lambda g: float(np.hypot(*(np.array(g) - place))))

    def power(at: np.ndarray) -> float:
        return float(np.hypot(np.hypot(*(at - ground)), model.altitude) ** -model.exponent)

    channels = np.random.default_rng(7)
    signal = channels.exponential(size=n) * power(place)
    noise = np.zeros(n)
    for other in others:
        sends = channels.random(n) < model.activity
        noise += sends * channels.exponential(size=n) * power(other)
    return float(np.mean(signal > 10 ** (model.threshold / 10) * noise))


@pytest.mark.parametrize("client", ["c0", "c1", "c2"])
def test_the_closed_form_is_what_fading_channels_give(client: str) -> None:
    assert SOME.probability(3, client) == pytest.approx(drawn(SOME, client, 3), abs=0.01)


def test_limits() -> None:
    assert replace(SOME, interferers=0).probability(0, "c0") == 1.0
    assert replace(SOME, activity=0.0).probability(0, "c0") == 1.0
    assert replace(SOME, threshold=-200.0).probability(0, "c0") == pytest.approx(1.0)
    assert replace(SOME, threshold=200.0, activity=1.0).probability(0, "c0") == LEAST


@pytest.mark.parametrize(
    ("field", "more"), [("threshold", 5.0), ("activity", 1.0), ("interferers", 12)]
)
def test_more_of_it_makes_links_worse(field: str, more: float) -> None:
    def mean(model: Connectivity) -> float:
        return float(np.mean([model.probability(0, name) for name in NAMES]))

    assert mean(replace(SOME, **{field: more})) < mean(SOME) - 0.01


def test_more_stations_make_links_better() -> None:
    near = [replace(SOME, stations=60).probability(0, name) for name in NAMES]
    far = [SOME.probability(0, name) for name in NAMES]
    assert np.mean(near) > np.mean(far)


def test_retries_take_the_slots_of_a_geometric_law() -> None:
    retries = Retries(SOME, every=2.0)
    p = SOME.probability(0, "c1")
    assert 0.05 < p < 0.95
    waits = np.array([retries.seconds(0, "c1", number) for number in range(4000)])
    assert np.array_equal(waits % 2.0, np.zeros(4000)) and waits.min() == 0
    assert waits.mean() == pytest.approx(2.0 * (1 - p) / p, rel=0.1)
    assert np.mean(waits == 0) == pytest.approx(p, abs=0.03)
    assert Retries(replace(SOME, interferers=0)).seconds(0, "c1", 5) == 0.0


def test_devices_wait_beyond_their_work() -> None:
    plain, radio = Devices(jitter=0.2), Devices(jitter=0.2, retries=Retries(SOME, every=2.0))
    for number in range(20):
        wait = radio.compute_seconds(0, "c1", number, 3) - plain.compute_seconds(0, "c1", number, 3)
        assert wait == pytest.approx(Retries(SOME, every=2.0).seconds(0, "c1", number))


def test_it_says_who_takes_part_in_a_slot() -> None:
    taking = Participation(probability=SOME, every=1.0)
    for client in ("c1", "c2"):
        there = [taking.span(0, client, t + 0.5)[0] for t in range(3000)]
        assert np.mean(there) == pytest.approx(SOME.probability(0, client), abs=0.03)


def test_numbers_out_of_range_are_refused() -> None:
    bad = {"stations": 0, "side": 0.0, "altitude": -1.0, "activity": 1.5, "threshold": 300.0,
           "interferers": -1, "exponent": 0.0}  # fmt: skip
    for name, value in bad.items():
        with pytest.raises(ConfigError, match=name):
            Connectivity(**{name: value})
    with pytest.raises(ConfigError, match="every"):
        Retries(every=0.0)
