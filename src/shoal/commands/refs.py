"""Experiments by reference: `file.py:function`, `package.module:function` or a TOML file."""

from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, ShoalError


def experiments(ref: str, settings: list[str]) -> tuple[list[Any], str]:
    """The experiments of a reference with settings applied, and a name for them."""
    from shoal.experiment import Experiment, from_toml, with_settings
    from shoal.names import resolve

    if ref.endswith(".toml"):
        path = Path(ref)
        if not path.is_file():
            raise ConfigError("ref", f"there is no file {ref}")
        return [with_settings(from_toml(path.read_text("utf-8"), ref), settings)], path.stem
    if ":" not in ref:
        raise ConfigError("ref", f"{ref!r} is neither file.py:function nor a .toml file")
    made = _called(resolve(ref), ref)
    found = list(made) if isinstance(made, list | tuple) else [made]
    for experiment in found:
        if not isinstance(experiment, Experiment):
            raise ConfigError(ref, f"returns {type(experiment).__name__}, not an Experiment")
    return [with_settings(e, settings) for e in found], ref.rpartition(":")[2]


def _called(function: Any, ref: str) -> Any:
    """What a function of the user's returns."""
    try:
        return function()
    except ShoalError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(ref, f"raised {type(error).__name__}: {error}") from error
