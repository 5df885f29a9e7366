"""Participation, days, batteries and outages: pure functions of seed, client and time."""

import itertools
import statistics
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal import config
from shoal.errors import ConfigError
from shoal.experiment import Experiment, build, from_toml, to_toml
from shoal.simulation import (
    All,
    Availability,
    Bernoulli,
    ByLabels,
    Charging,
    Constant,
    Cyclic,
    Devices,
    Diurnal,
    Exponential,
    Markov,
    OnOff,
    Outages,
    Participation,
)

HOUR, DAY = 3600.0, 86400.0
PROCESSES = [
    Participation(Bernoulli(), 0.3, 60.0),
    Participation(Markov(0.2), 0.3, 60.0),
    Participation(Cyclic(20), 0.3, 60.0),
    Participation(Bernoulli(), 0.3, 0.1),
    Diurnal(),
    Diurnal(hours=3.0, zones=24.0, daily=0.5),
    Charging(),
    Charging(least=0.1),
    Outages(regions=3, every=HOUR, seconds=600.0),
    All((Diurnal(), Outages(regions=3, every=HOUR, seconds=600.0))),
    OnOff(Exponential(600.0), Exponential(300.0)),
]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PROCESSES), st.integers(0, 99), st.floats(0, 3 * DAY))
def test_spans_and_switches_say_the_same(process: Availability, number: int, time: float) -> None:
    client = f"c{number}"
    on, until = process.span(1, client, time)
    assert until > time
    between = time + (until - time) * 0.999
    if between < until < inf:  # not so where floats have nothing between them
        assert process.span(1, client, between) == (on, until)
        assert process.span(1, client, until)[0] is not on
    now, state = 0.0, process.online(1, client)
    for k in range(30):
        found = process.next_switch(1, client, k, now)
        if found is None:
            break
        when, online = found
        assert when > now and online is not state
        assert process.span(1, client, when)[0] is online
        now, state = found


def share(process: Availability, clients: int, days: float = 3.0, seed: int = 0) -> float:
    grid = np.linspace(0, days * DAY, 97)
    return statistics.fmean(
        process.span(seed, f"c{i}", float(t))[0] for i in range(clients) for t in grid
    )


@pytest.mark.parametrize("pattern", [Bernoulli(), Markov(), Cyclic()])
def test_each_pattern_has_its_probability(pattern: object) -> None:
    process = Participation(pattern, 0.3, 60.0)  # type: ignore[arg-type]
    assert share(process, 60) == pytest.approx(0.3, abs=0.035)


def runs(process: Participation, clients: int, slots: int) -> list[tuple[bool, int]]:
    """Lengths in slots of staying there and away, whole ones only."""
    found = []
    for i in range(clients):
        states = [process.span(0, f"c{i}", float(s))[0] for s in range(slots)]
        lengths = [(on, len(list(group))) for on, group in itertools.groupby(states)]
        found += lengths[1:-1]
    return found


def test_a_chain_stays_as_long_as_its_chances_say() -> None:
    found = runs(Participation(Markov(0.05), 0.2, 1.0), 6, 1000)
    there = statistics.fmean(n for on, n in found if on)
    away = statistics.fmean(n for on, n in found if not on)
    assert away == pytest.approx(1 / 0.05, rel=0.3)  # the chance to come back is 0.05
    assert there == pytest.approx(1 / (0.05 * 0.8 / 0.2), rel=0.3)  # go = come (1 - p) / p


def test_cycles_are_in_one_piece_and_apart() -> None:
    process = Participation(Cyclic(20), 0.3, 1.0)
    assert set(runs(process, 30, 100)) == {(True, 6), (False, 14)}
    starts = {process.span(0, f"c{i}", 0.0) for i in range(50)}
    assert len(starts) > 10


def test_the_edges_of_probability_never_change() -> None:
    assert Participation(probability=0.0).span(0, "a", 5.0) == (False, inf)
    assert Participation(probability=1.0).span(0, "a", 5.0) == (True, inf)
    assert Participation(probability=1.0).next_switch(0, "a", 0, 0.0) is None


def test_probabilities_go_with_labels_as_defined() -> None:
    rule = ByLabels(mean=0.1, least=0.02, alpha=0.1)
    alone = [rule.probability(0, np.eye(10)[k]) for k in range(10)]
    even = rule.probability(0, np.full(10, 0.1))
    assert even == pytest.approx(0.1)  # the weights of the classes add up to one
    assert min(alone) == 0.02 and max(alone) > 0.2
    federation = shoal.data.digits(clients=30, partition=shoal.data.dirichlet(alpha=0.1)).load(0)
    process = Participation(probability=rule).bound(federation.labels)
    for client in federation.clients:
        assert process.of(0, client) == rule.probability(0, federation.labels(client))
    with pytest.raises(ConfigError, match="run it in an experiment"):
        Participation(probability=rule).online(0, "a")
    with pytest.raises(ConfigError, match="no classes"):
        rule.probability(0, np.zeros(0))


def test_label_probabilities_reach_the_clients_of_a_run() -> None:
    experiment = Experiment(
        model=None,
        data=shoal.data.digits(clients=12, partition=shoal.data.class_partition()),
        algorithm=shoal.fedavg(trainer=shoal.numpy.Softmax(features=64, classes=10, lr=0.1)),
        commits=2,
        devices=Devices(availability=Participation(probability=ByLabels(), every=5.0)),
    )
    assert from_toml(to_toml(experiment)) == experiment
    assert list(shoal.simulate(experiment))[-1].version == 2
    assert build(experiment).transport.world.availability.of(0, "c00") >= 0.02


def test_nights_are_at_night() -> None:
    night = Diurnal(peak=2.0, hours=6.0, spread=0.2, wander=1.0)
    by_hour = [
        statistics.fmean(night.span(0, f"c{i}", 5 * DAY + h * HOUR)[0] for i in range(300))
        for h in range(24)
    ]
    assert by_hour[2] > 0.85
    assert max(by_hour[10:18]) < 0.02
    assert sum(by_hour) == pytest.approx(6.1, abs=0.4)
    spread = Diurnal(peak=2.0, zones=24.0)
    assert share(spread, 60) == pytest.approx(6 * np.exp(0.5**2 / 2) / 24, abs=0.04)
    assert share(Diurnal(daily=0.0), 3) == 0.0


def test_a_battery_lasts_beyond_the_plug() -> None:
    plug = Diurnal(peak=2.0, hours=4.0, spread=0.0, wander=0.0)  # midnight to 4 o'clock
    battery = Charging(plug, lasts=20.0, least=0.9)
    assert battery.span(0, "a", HOUR) == (True, 6 * HOUR)
    assert battery.span(0, "a", 5 * HOUR) == (True, 6 * HOUR)
    assert battery.span(0, "a", 7 * HOUR) == (False, DAY)
    assert battery.level(0, "a", HOUR) == 1.0
    assert battery.level(0, "a", 14 * HOUR) == pytest.approx(0.5)
    assert Charging(plug, lasts=30.0, least=0.0).span(0, "a", HOUR) == (True, inf)


def test_outages_hit_a_region_together_and_no_other() -> None:
    world = Outages(regions=4, every=DAY, probability=0.7, seconds=HOUR)
    clients = [f"c{i}" for i in range(40)]
    states = {c: [world.span(0, c, t * 600.0)[0] for t in range(800)] for c in clients}
    for a, b in itertools.combinations(clients, 2):
        assert (states[a] == states[b]) == (world.region(0, a) == world.region(0, b))
    lost = 1 - statistics.fmean(itertools.chain.from_iterable(states.values()))
    assert lost == pytest.approx(0.7 / 24, abs=0.02)


def test_all_is_both() -> None:
    night, outage = Diurnal(), Outages(regions=2, every=HOUR, seconds=900.0)
    both = All((night, outage))
    for t in range(0, int(2 * DAY), 700):
        expected = night.span(0, "a", t)[0] and outage.span(0, "a", t)[0]
        assert both.span(0, "a", t)[0] == expected


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Participation(probability=1.5), "probability"),
        (lambda: Participation(every=0.0), "every"),
        (lambda: Markov(0.0), "most"),
        (lambda: Cyclic(0), "cycle"),
        (lambda: ByLabels(alpha=0.0), "alpha"),
        (lambda: Diurnal(hours=30.0), "24 hours"),
        (lambda: Diurnal(daily=2.0), "daily"),
        (lambda: Outages(every=10.0, seconds=10.0), "shorter than"),
        (lambda: All(()), "at least one"),
        (lambda: Charging(least=1.2), "least"),
    ],
)
def test_bad_fields_are_named(made: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made()  # type: ignore[operator]


@pytest.mark.parametrize("process", PROCESSES)
def test_toml_round_trips(process: Availability) -> None:
    devices = Devices(speed=Constant(2.0), availability=process)
    assert config.decode(Devices, config.loads(config.dumps(config.encode(devices)))) == devices
