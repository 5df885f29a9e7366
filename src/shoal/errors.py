"""Typed errors. Each names the field, file or client at fault and says what to do about it."""


class ShoalError(Exception):
    """Base of every error that Shoal raises on purpose."""


class ConfigError(ShoalError):
    """A hyperparameter, experiment field or TOML key is wrong; names its path."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


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
        super().__init__(
            f"{package} is not installed. Install it with: pip install 'shoal[{extra}]'"
        )


def positive(field: str, value: float, *, zero: bool = False) -> None:
    """Raise `ConfigError` unless value is a finite number above 0 (or at 0 with `zero`)."""
    good = value >= 0 if zero else value > 0
    if not (good and value < float("inf")):
        bound = "at least 0" if zero else "above 0"
        raise ConfigError(field, f"must be finite and {bound}, got {value!r}")


def fraction(field: str, value: float, *, one: bool = True) -> None:
    """Raise `ConfigError` unless 0 <= value <= 1 (below 1 if not `one`)."""
    if not (0 <= value <= 1 if one else 0 <= value < 1):
        raise ConfigError(field, f"must lie in [0, 1{']' if one else ')'}, got {value!r}")


def nearest(name: str, known: "list[str] | tuple[str, ...] | dict[str, object]") -> str:
    """A hint with the known names closest to a misspelt one, for error messages."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"
