"""Models of devices for the simulator: how fast clients are, and when they are there."""

from typing import Any

from shoal.simulation.availability import Availability, OnOff, TraceAvailability
from shoal.simulation.connectivity import Connectivity, Retries
from shoal.simulation.daily import All, Charging, Diurnal, Outages
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
from shoal.simulation.measured import LinkSpeed, PhoneSpeed
from shoal.simulation.participation import (
    Bernoulli,
    ByLabels,
    Cyclic,
    Markov,
    Participation,
    Pattern,
)
from shoal.simulation.worlds import phones, spot

DISTRIBUTIONS: dict[str, type[Any]] = {
    "constant": Constant,
    "normal": Normal,
    "lognormal": LogNormal,
    "exponential": Exponential,
    "uniform": Uniform,
    "trace": Trace,
    "phone_speed": PhoneSpeed,
    "link_speed": LinkSpeed,
}
AVAILABILITY: dict[str, type[Any]] = {
    "on_off": OnOff,
    "trace": TraceAvailability,
    "diurnal": Diurnal,
    "charging": Charging,
    "outages": Outages,
    "all": All,
    "participation": Participation,
}
PATTERNS: dict[str, type[Any]] = {"bernoulli": Bernoulli, "markov": Markov, "cyclic": Cyclic}
DEVICES: dict[str, type[Any]] = {"devices": Devices}

__all__ = [
    "AVAILABILITY",
    "DEVICES",
    "DISTRIBUTIONS",
    "PATTERNS",
    "All",
    "Availability",
    "Bernoulli",
    "ByLabels",
    "Charging",
    "Connectivity",
    "Constant",
    "Cyclic",
    "Devices",
    "Distribution",
    "Diurnal",
    "Exponential",
    "LinkSpeed",
    "LogNormal",
    "Markov",
    "Normal",
    "OnOff",
    "Outages",
    "Participation",
    "Pattern",
    "PhoneSpeed",
    "Retries",
    "Trace",
    "TraceAvailability",
    "Uniform",
    "phones",
    "spot",
]
