"""Amounts as people write them: "5GB", "10 GiB", "400 MB", "90 s", "15m"."""

import re
from math import isfinite

from shoal.errors import ConfigError

_BYTES = {
    "": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
    "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40,
}  # fmt: skip
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_AMOUNT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(text: str, field: str = "bytes") -> float:
    """Bytes; "GB" is 1e9 of them and "GiB" is 2**30.

    Raises:
        ConfigError: if it is not a positive number with such a unit.
    """
    return _parsed(text, field, _BYTES, "5GB, 400 MB or 2GiB")


def parse_seconds(text: str, field: str = "seconds") -> float:
    """Seconds.

    Raises:
        ConfigError: if it is not a positive number with a unit of time.
    """
    return _parsed(text, field, _SECONDS, "90s, 15 min or 2h")


def parse_count(text: str, field: str = "count") -> int:
    """A whole number, at least 1; "1000", "1,000" or "1e5".

    Raises:
        ConfigError: if it is none.
    """
    value = _parsed(text.replace(",", "").replace("_", ""), field, {"": 1.0}, "1000 or 1e5")
    if value != int(value):
        raise ConfigError(field, f"{text!r} is not a whole number")
    return int(value)


def bytes_text(value: float) -> str:
    """Three digits and a decimal unit, e.g. "5 GB"."""
    unit = "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


def _parsed(text: str, field: str, units: dict[str, float], example: str) -> float:
    found = _AMOUNT.fullmatch(text)
    value = float(found[1]) * units.get(found[2].lower(), 0.0) if found else 0.0
    if not (value > 0 and isfinite(value)):
        raise ConfigError(field, f"{text!r} is not an amount; write it as {example}")
    return value
