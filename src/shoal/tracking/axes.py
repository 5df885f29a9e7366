"""Axes: ranges that end on round numbers, and ticks that read well as times, bytes or counts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.tracking import units

_TIME_STEPS = (
    *(m * 10.0**e for e in range(-6, 1) for m in (1, 2, 5)),
    *(10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0),
    *(3600.0 * h for h in (1, 2, 3, 6, 12, 24, 48, 96, 168)),
)
_TIME_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s"), (1e-3, "ms"))


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis.

    Attributes:
        label: what it shows, in words.
        low, high: its ends.
        ticks: where its ticks are, within its ends.
        labels: what they say, one for each tick.
        kind: "time" (seconds), "bytes", "count" or "number".
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    kind: str

    def at(self, value: float, start: float, length: float) -> float:
        """The place of a value along `length` pixels from `start`."""
        return start + (value - self.low) / (self.high - self.low) * length


def axis(
    label: str,
    values: Iterable[float],
    kind: str = "number",
    *,
    zero: bool = False,
    round_ends: bool = True,
    ticks: int = 6,
) -> Axis:
    """An axis around finite values.

    Args:
        zero: begin at 0.
        round_ends: widen the range to whole ticks; else it ends where the values do.
        ticks: about how many ticks.
    """
    finite = [v for v in values if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if zero:
        low = min(0.0, low)
    if high <= low:
        high = low + (abs(low) * 0.1 or 1.0)
    step = _step(high - low, ticks, kind)
    # A hair of slack, so that 0.30000000000000004 does not open another tick.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if round_ends:
        low, high = first * step, last * step
    places = [i * step for i in range(first, last + 1)]
    shown = tuple(p for p in places if low - step * 1e-6 <= p <= high + step * 1e-6)
    return Axis(label, low, high, shown, tick_labels(shown, step, kind), kind)


def tick_labels(places: Sequence[float], step: float, kind: str) -> tuple[str, ...]:
    """Labels in one unit with one number of digits, e.g. ("0", "5 m", "10 m")."""
    top = max((abs(p) for p in places), default=0.0)
    if kind == "time":
        unit, name = next(
            ((u, n) for u, n in _TIME_UNITS if top >= u and _whole(step / u)),
            next(((u, n) for u, n in _TIME_UNITS if top >= u), (1e-3, "ms")),
        )
        return _scaled(places, step, unit, name)
    if kind == "bytes":
        power = min(5, max(0, int(math.log10(top) // 3))) if top >= 1 else 0
        return _scaled(places, step, 1000.0**power, ("B", "kB", "MB", "GB", "TB", "PB")[power])
    if kind == "count":
        return tuple(units.count(p) for p in places)
    return tuple(f"{p:,.{_digits(step)}f}" for p in places)


def _step(span: float, ticks: int, kind: str) -> float:
    raw = span / max(1, ticks)
    if kind == "time":
        fitting = (s for s in _TIME_STEPS if s >= raw * 0.75)
        return next(fitting, _round_step(raw / 86400) * 86400)
    step = _round_step(raw)
    return max(1.0, step) if kind == "count" else step


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))


def _scaled(places: Sequence[float], step: float, unit: float, name: str) -> tuple[str, ...]:
    digits = _digits(step / unit)
    return tuple("0" if p == 0 else f"{p / unit:,.{digits}f} {name}" for p in places)


def _whole(value: float) -> bool:
    return value >= 0.5 and abs(value * 2 - round(value * 2)) < 1e-9


def _digits(step: float) -> int:
    """Digits after the point that tell two neighboring ticks apart."""
    digits = 0
    while digits < 6 and abs(step * 10**digits - round(step * 10**digits)) > 1e-6:
        digits += 1
    return digits
