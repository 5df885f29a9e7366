"""Typed errors. Each names the field, file or client at fault and says what to do about it."""

from collections.abc import Iterable
from math import isfinite
from numbers import Real


class ShoalError(Exception):
    """Base of every error that Shoal raises on purpose."""


class ConfigError(ShoalError):
    """A hyperparameter, experiment field or TOML key is wrong.

    Attributes:
        field: its path, e.g. "algorithm.coordinator.cohort".
        problem: what is wrong with it.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)  # both are kept, so that it crosses processes
        self.field, self.problem = field, problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class DataError(ShoalError):
    """A data set, file or partition cannot be used; names it."""


class ModelError(ShoalError):
    """A model cannot be used as it is (names, shapes, dtypes, non-finite values)."""


class UpdateError(ShoalError):
    """A client's update does not fit the model that it was given; the run goes on without it."""


class CheckpointError(ShoalError):
    """A checkpoint or log cannot be written or read; names the file."""


class ProtocolError(ShoalError):
    """A coordinator broke a rule of the engine: a leaked, double or unknown task or update."""


class Stalled(ProtocolError):
    """Nothing is in flight, no timer is set and the coordinator has not stopped."""


class MissingExtra(ShoalError, ImportError):
    """An optional dependency is not installed; names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)
        self.package, self.extra = package, extra

    def __str__(self) -> str:
        return (
            f"{self.package} is not installed. Install it with: pip install 'shoal[{self.extra}]'"
        )


def positive(field: str, value: float, *, zero: bool = False) -> None:
    """Raise `ConfigError` unless value is a finite number above 0 (or at 0 with `zero`)."""
    _number(field, value)
    good = value >= 0 if zero else value > 0
    if not (good and isfinite(value)):
        bound = "at least 0" if zero else "above 0"
        raise ConfigError(field, f"must be finite and {bound}, got {value!r}")


def fraction(field: str, value: float, *, one: bool = True) -> None:
    """Raise `ConfigError` unless 0 <= value <= 1 (below 1 if not `one`)."""
    _number(field, value)
    if not (0 <= value <= 1 if one else 0 <= value < 1):
        raise ConfigError(field, f"must lie in [0, 1{']' if one else ')'}, got {value!r}")


def _number(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(field, f"must be a number, got {type(value).__name__} {value!r}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint with the known names closest to a misspelt one, for error messages."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(names) or 'none'}"
