"""Weights by age: closed forms, limits, and that they help where links are unreliable."""

from dataclasses import replace
from math import exp

import pytest

import shoal
from shoal.algorithms.fedasync import FedAsync
from shoal.algorithms.wireless_afl import Aging, wireless_afl
from shoal.errors import ConfigError
from shoal.experiment import from_toml, to_toml
from shoal.simulation import Connectivity, Devices, Participation, Retries
from shoal.staleness import Constant
from shoal.trainers.quadratic import Quadratic
from support import Q3_A, Q3_B, play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
SPEEDS = Devices(speeds={"c0": 1.0, "c1": 1.7, "c2": 4.1})


def test_weights_are_the_closed_form() -> None:
    played = play(wireless_afl(10.0, trainer=TRAINER), q3(), 9, devices=SPEEDS)
    for task in played.tasks:
        if task.outcome == "aggregated":
            age = task.arrived - task.started
            assert task.weight == pytest.approx((0.5 + exp(-age / 10.0)) / 3)
    ages = {t.client: t.arrived - t.started for t in played.tasks if t.outcome == "aggregated"}
    assert ages == pytest.approx({"c0": 5.0, "c1": 8.5, "c2": 20.5})


def test_every_arrival_mixes_models() -> None:
    played = play(wireless_afl(10.0, trainer=TRAINER), q3(), 12, devices=SPEEDS)
    done = [task for task in played.tasks if task.outcome == "aggregated"]
    x = [10.0]
    for task in done:
        i = int(task.client[1])
        base = x[task.version]
        local = Q3_B[i] + (1 - 0.1 * Q3_A[i]) ** 5 * (base - Q3_B[i])
        x.append(x[-1] + task.weight * (local - x[-1]))
    assert played.xs == pytest.approx(x)


def test_without_age_it_is_fedasync() -> None:
    """A scale of nothing leaves the offset: alpha = offset / N, whatever the age."""
    aged = play(wireless_afl(1e-9, trainer=TRAINER), q3(), 20, devices=SPEEDS)
    plain = shoal.fedasync(0.5 / 3, staleness=Constant(), trainer=TRAINER)
    assert aged.xs == pytest.approx(play(plain, q3(), 20, devices=SPEEDS).xs)
    free = play(wireless_afl(1e12, trainer=TRAINER), q3(), 20, devices=SPEEDS)
    baseline = shoal.fedasync(1.5 / 3, staleness=Constant(), trainer=TRAINER)  # the paper's
    assert free.xs == pytest.approx(play(baseline, q3(), 20, devices=SPEEDS).xs)


def test_one_client_alone_and_fresh_is_local_steps() -> None:
    client = {"c0": q3()["c0"]}
    played = play(wireless_afl(1e12, offset=0.0, trainer=TRAINER), client, 4)
    assert played.xs == pytest.approx([10.0 * 0.9 ** (5 * k) for k in range(5)])


def test_weights_never_exceed_one() -> None:
    aging = Aging(FedAsync(1.0, Constant()), scale=1.0, offset=0.5)
    assert aging.weight(0.0, 1) == 1.0
    assert aging.weight(1.0, 10) == pytest.approx((0.5 + exp(-1)) / 10)


def test_age_weights_lean_to_those_who_are_well_connected() -> None:
    """Who waits long for a link counts less per upload than with constant weights."""
    radio = Devices(retries=Retries(Connectivity(interferers=3, threshold=0.0), every=5.0))

    def means(scale: float) -> dict[str, float]:
        played = play(wireless_afl(scale, trainer=TRAINER), q3(), 150, devices=radio)
        found: dict[str, list[float]] = {}
        for task in played.tasks:
            if task.outcome == "aggregated":
                found.setdefault(task.client, []).append(task.weight)
        return {client: sum(w) / len(w) for client, w in found.items()}

    counts, flat = means(10.0), means(1e12)
    assert list(flat.values()) == pytest.approx([0.5] * 3)
    link = radio.retries.link
    by_link = sorted(counts, key=lambda client: link.probability(0, client))
    assert counts[by_link[0]] < counts[by_link[-1]] < 0.5


def test_participation_by_connectivity_of_one_is_everyone() -> None:
    perfect = Devices(availability=Participation(probability=Connectivity(interferers=0)))
    one = play(wireless_afl(10.0, trainer=TRAINER), q3(), 10)
    two = play(wireless_afl(10.0, trainer=TRAINER), q3(), 10, devices=perfect)
    assert one.xs == two.xs


def test_a_slot_method_under_perfect_links_and_equal_speeds_is_fedavg() -> None:
    perfect = Devices(retries=Retries(Connectivity(interferers=0)))
    slots = play(shoal.fedfix(5.0, calibrate=False, trainer=TRAINER), q3(), 6, devices=perfect)
    rounds = play(shoal.fedavg(trainer=TRAINER), q3(), 6)
    assert slots.xs == pytest.approx(rounds.xs)


def test_bad_numbers_are_refused_and_toml_goes_round() -> None:
    for bad in ({"scale": 0.0}, {"offset": -1.0}, {"population": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            wireless_afl(**bad, trainer=TRAINER)
    experiment = shoal.Experiment(
        model=None, data=shoal.data.digits(clients=3), commits=3,
        algorithm=wireless_afl(5.0, trainer=shoal.numpy.Softmax(lr=0.1, features=64, classes=10)),
        devices=Devices(
            retries=Retries(Connectivity(stations=4)),
            availability=Participation(probability=Connectivity()),
        ),
    )  # fmt: skip
    assert from_toml(to_toml(experiment)) == experiment
    assert replace(experiment, commits=1) != experiment
