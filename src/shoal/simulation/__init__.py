"""Models of devices for the simulator: how fast clients are, and when they are there."""

from typing import Any

from shoal.simulation.availability import Availability, OnOff, TraceAvailability
from shoal.simulation.devices import Devices
from shoal.simulation.distributions import (
    Constant,
    Distribution,
    Exponential,
    LogNormal,
    Normal,
    Trace,
    Uniform,
)

DISTRIBUTIONS: dict[str, type[Any]] = {
    "constant": Constant,
    "normal": Normal,
    "lognormal": LogNormal,
    "exponential": Exponential,
    "uniform": Uniform,
    "trace": Trace,
}
AVAILABILITY: dict[str, type[Any]] = {"on_off": OnOff, "trace": TraceAvailability}
DEVICES: dict[str, type[Any]] = {"devices": Devices}

__all__ = [
    "AVAILABILITY",
    "DEVICES",
    "DISTRIBUTIONS",
    "Availability",
    "Constant",
    "Devices",
    "Distribution",
    "Exponential",
    "LogNormal",
    "Normal",
    "OnOff",
    "Trace",
    "TraceAvailability",
    "Uniform",
]
