import math
import statistics

import pytest

from shoal import plain
from shoal.errors import ConfigError
from shoal.simulation import (
    DEVICES,
    Constant,
    Devices,
    Exponential,
    LogNormal,
    Normal,
    OnOff,
)

CLIENTS = [f"c{i:02d}" for i in range(20)]
HARMONIC = {5: 2.283, 10: 2.929, 20: 3.598}
NORMAL = {5: 1.348, 10: 1.462, 20: 1.561}


@pytest.mark.parametrize("m", [5, 10, 20])
@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (Constant(2.0), dict.fromkeys(HARMONIC, 1.0)),
        (Normal(2.0, 0.6), NORMAL),
        (Exponential(2.0), HARMONIC),
    ],
    ids=["equal", "normal", "exponential"],
)
def test_synchronous_rounds_take_the_slowest_clients_time(speed, expected, m):
    # A round of Q steps ends with the slowest of m clients: Q * mu * E[max of m draws] / mu.
    devices, steps = Devices(speed), 100
    rounds = [
        max(devices.compute_seconds(seed, c, 0, steps) for c in CLIENTS[:m]) for seed in range(8000)
    ]
    assert statistics.fmean(rounds) / (steps * 2.0) == pytest.approx(expected[m], rel=0.02)


def test_a_client_keeps_its_speed_and_its_links():
    devices = Devices(LogNormal(1.0, 1.0), down=Exponential(1e6), up=Exponential(1e5))
    assert devices.compute_seconds(3, "a", 0, 10) == 10 * devices.step_seconds(3, "a")
    assert devices.compute_seconds(3, "a", 7, 10) == devices.compute_seconds(3, "a", 0, 10)
    assert devices.step_seconds(3, "a") != devices.step_seconds(3, "b")
    assert devices.step_seconds(3, "a") != devices.step_seconds(4, "a")
    one = devices.download_seconds(3, "a", 1000)
    assert one > 0 and devices.download_seconds(3, "a", 5000) == pytest.approx(5 * one)
    assert devices.upload_seconds(3, "a", 1000) != one


def test_units_and_defaults():
    devices = Devices(Constant(0.5), down=Constant(1e6), up=Constant(2.5e5))
    assert devices.compute_seconds(0, "a", 0, 20) == 10.0
    assert devices.download_seconds(0, "a", 3_000_000) == 3.0
    assert devices.upload_seconds(0, "a", 3_000_000) == 12.0
    ideal = Devices()
    assert ideal.compute_seconds(0, "a", 0, 20) == 20.0
    assert ideal.download_seconds(0, "a", 10**9) == ideal.upload_seconds(0, "a", 10**9) == 0.0
    assert ideal.drops(0, "a", 0) is None
    assert ideal.online(0, "a") and ideal.next_switch(0, "a", 0, 0.0) is None


def test_named_speeds_replace_the_draw():
    devices = Devices(Exponential(1.0), speeds={"c0": 1.0, "c1": 1.25})
    assert devices.compute_seconds(9, "c1", 3, 60) == 75.0
    assert devices.step_seconds(9, "c2") == Devices(Exponential(1.0)).step_seconds(9, "c2")


def test_jitter_is_per_task_and_keeps_the_mean():
    devices = Devices(Constant(2.0), jitter=0.4)
    tasks = [devices.compute_seconds(0, "a", k, 10) for k in range(20000)]
    assert len(set(tasks)) == 20000
    assert statistics.fmean(tasks) == pytest.approx(20.0, rel=0.01)
    assert statistics.pstdev(map(math.log, tasks)) == pytest.approx(0.4, rel=0.03)
    assert tasks[5] == devices.compute_seconds(0, "a", 5, 10)


def test_dropout_has_its_rate_and_a_uniform_moment():
    devices = Devices(dropout=0.3)
    found = [devices.drops(1, "a", k) for k in range(20000)]
    lost = [x for x in found if x is not None]
    assert len(lost) / len(found) == pytest.approx(0.3, abs=0.015)
    assert all(0 < x < 1 for x in lost)
    assert statistics.fmean(lost) == pytest.approx(0.5, abs=0.015)
    assert statistics.pstdev(lost) == pytest.approx(1 / math.sqrt(12), abs=0.01)
    assert found[:50] == [devices.drops(1, "a", k) for k in range(50)]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Devices(dropout=1.0), "dropout"),
        (lambda: Devices(dropout=-0.1), "dropout"),
        (lambda: Devices(jitter=-1.0), "jitter"),
        (lambda: Devices(speeds={"a": 0.0}), "speeds['a']"),
    ],
)
def test_bad_fields_are_named(make, field):
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.field == field


def test_devices_are_plain_data():
    devices = DEVICES["devices"](
        speed=LogNormal(1.0, 0.5),
        availability=OnOff(Exponential(100.0), Exponential(50.0), 0.5),
        speeds={"c0": 2.0},
    )
    assert plain.encode(devices) == {
        "speed": {"median": 1.0, "sigma": 0.5},
        "down": None,
        "up": None,
        "availability": {"on": {"mean": 100.0}, "off": {"mean": 50.0}, "start_online": 0.5},
        "dropout": 0.0,
        "jitter": 0.0,
        "speeds": {"c0": 2.0},
        "retries": None,
    }
