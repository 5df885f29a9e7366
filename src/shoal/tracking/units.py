"""Numbers as people read them: 12 m 05 s, 1.3 MB, 31 %, 20,000, and a sparkline."""

import math
from collections.abc import Sequence

NONE = "–"
_BLOCKS = "▁▂▃▄▅▆▇█"


def seconds(value: float | None) -> str:
    """A duration: "830 ms", "45.2 s", "12 m 05 s", "3 h 05 m", "2 d 04 h"."""
    if value is None or not math.isfinite(value):
        return NONE
    if 0 < value < 0.9995:
        return f"{value * 1e3:.0f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"
    if round(value, 1) < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    minutes = round(value / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} m"
    hours = round(value / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def size(value: float) -> str:
    """An amount of bytes in decimal units: "830 B", "1.3 MB", "212 GB"."""
    if not math.isfinite(value):
        return NONE
    unit = "B"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if unit == "PB" or round(value) < 1000:
            break
        value /= 1000
    digits = 0 if unit == "B" or round(value, 1) >= 100 else 1
    return f"{value:.{digits}f} {unit}"


def count(value: float) -> str:
    """A whole number with separators: "20,000"."""
    return f"{value:,.0f}" if math.isfinite(value) else NONE


def share(value: float) -> str:
    """A part of one: "31 %"; "0.4 %" below one percent."""
    if not math.isfinite(value):
        return NONE
    return f"{value * 100:.1f} %" if 0 < value < 0.01 else f"{value * 100:.0f} %"


def metric(value: float) -> str:
    """A metric: three digits after the point below ten, else four significant digits."""
    if not math.isfinite(value):
        return NONE
    return f"{value:.3f}" if 5e-4 <= abs(value) < 10 or value == 0 else f"{value:.4g}"


def decimal(value: float) -> str:
    """A mean of counts: one digit after the point."""
    return f"{value:,.1f}" if math.isfinite(value) else NONE


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The last `width` finite values as block characters, from their lowest to their highest."""
    shown = [v for v in values if math.isfinite(v)][-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] for v in shown)
