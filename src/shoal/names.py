"""What a name in a configuration stands for: the literal dictionaries of the packages, or
`package.module:Name`, or `path/to/file.py:name` for the user's own."""

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from shoal.aggregators import AGGREGATORS
from shoal.algorithms import ALGORITHMS, COORDINATORS
from shoal.core import Aggregator, Algorithm, Chain, Coordinator, StepRule, Trainer, Transform
from shoal.data import DATASETS, DRIFTS, PARTITIONS, Dataset, Drift, Partition
from shoal.errors import ConfigError, MissingExtra, ShoalError, nearest
from shoal.pipelines import Auto
from shoal.rules import RULES
from shoal.schedules import SCHEDULES, Schedule
from shoal.simulation import (
    AVAILABILITY,
    DISTRIBUTIONS,
    PATTERNS,
    Availability,
    Distribution,
    Pattern,
)
from shoal.staleness import STALENESS, Staleness
from shoal.trainers import TRAINERS
from shoal.transforms import TRANSFORMS

SCOPES: Mapping[Any, Mapping[str, Any]] = {
    Aggregator: AGGREGATORS,
    Availability: AVAILABILITY,
    Coordinator: COORDINATORS,
    Dataset: DATASETS,
    Distribution: DISTRIBUTIONS,
    Drift: DRIFTS,
    Partition: PARTITIONS,
    Pattern: PATTERNS,
    Schedule: SCHEDULES,
    Staleness: STALENESS,
    StepRule: RULES,
    Trainer: TRAINERS,
    Transform: {**TRANSFORMS, "Auto": Auto, "chain": Chain},
    Algorithm: {**ALGORITHMS, "algorithm": Algorithm},
}  # which dictionary a field of that type looks into
# Packages whose classes are parts: methods are made of more of them than the dictionaries name.
PARTS = (
    "aggregators", "algorithms", "combinators", "rules", "schedules", "staleness", "trainers",
    "transforms",
)  # fmt: skip
FILES: dict[str, str] = {}  # module name -> the file that it was loaded from by `resolve`
# What may be named beside the dictionaries: everything, or the packages and files listed.
_TRUSTED: ContextVar[tuple[str, ...] | None] = ContextVar("trusted", default=None)


@contextmanager
def trusting(sources: Sequence[str]) -> Iterator[None]:
    """While this lasts, names reach Shoal's own parts and these packages and files alone.

    For descriptions from elsewhere, which must not choose what is called here. A file goes by its
    name, so that it may lie in another directory than where the description was made.
    """
    token = _TRUSTED.set(tuple(sources))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def scope(hint: Any) -> Mapping[str, Any]:
    """The dictionary for a field of this type; empty if it has none."""
    kinds = [k for k in get_args(hint) if _makes(k)] if _is_union(hint) else [hint]
    return SCOPES.get(get_origin(kinds[0]) or kinds[0], {}) if len(kinds) == 1 else {}


def _makes(hint: Any) -> bool:
    return hint is not type(None) and get_origin(hint) is not Literal


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def resolve(name: str, path: str = "", hint: Any = Any) -> Any:
    """The class, factory or function of a name, for a field of type `hint`.

    Raises:
        ConfigError: naming `path` and the nearest known names.
    """
    known = scope(hint)
    if name in known:
        found = known[name]
        return _known(found, path) if isinstance(found, str) else found
    if ":" not in name:
        raise ConfigError(path or "kind", f"unknown name {name!r}; {nearest(name, list(known))}")
    where, _, attribute = name.rpartition(":")
    trusted = _TRUSTED.get()
    if trusted is None:
        return _attribute(where, attribute, name, path)
    if _is_part(where, attribute):
        return _part(where, attribute, name, path)
    own = _source(where, attribute, name, path, trusted)
    found = _attribute(own, attribute, name, path)
    made = getattr(found, "__module__", "")
    file = getattr(sys.modules.get(made), "__file__", None)
    if made != own and not made.startswith(f"{own}.") and file != str(Path(own).resolve()):
        raise ConfigError(path or name, f"{name!r} is not made by {own}, but by {made or '?'}")
    return found


def _known(name: str, path: str) -> Any:
    where, _, attribute = name.rpartition(":")
    return _attribute(where, attribute, name, path)


def _is_part(where: str, attribute: str) -> bool:
    """Whether a name can be that of a part of Shoal's own."""
    package, _, rest = where.partition(".")
    own = package == "shoal" and rest.partition(".")[0] in PARTS
    return own and attribute.isidentifier() and not attribute.startswith("_")


def _part(where: str, attribute: str, name: str, path: str) -> Any:
    """A part of Shoal's own: a dataclass of that module, so that nothing but plain data is made."""
    found = _attribute(where, attribute, name, path)
    made = isinstance(found, type) and dataclasses.is_dataclass(found)
    if not made or found.__module__ != where:
        raise ConfigError(path or name, f"{name!r} is no part that others may name")
    return found


def _source(where: str, attribute: str, name: str, path: str, trusted: tuple[str, ...]) -> str:
    """Where a name from elsewhere may be looked up here."""
    for source in trusted:
        same = Path(source).name == Path(where).name if source.endswith(".py") else (
            where == source or where.startswith(f"{source}.")
        )  # fmt: skip
        if same and attribute.isidentifier() and not attribute.startswith("_"):
            return source if source.endswith(".py") else where
    raise ConfigError(path or name, f"{name!r} is not trusted here: add --trust {where}")


def _attribute(where: str, attribute: str, name: str, path: str) -> Any:
    module = _module(where, path)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            functions = [n for n in vars(module) if not n.startswith("_")]
            problem = f"{where} has no {attribute!r}; {nearest(attribute, functions)}"
            raise ConfigError(path or name, problem)
        found = getattr(found, part)
    return found


def name_of(value: Callable[..., Any], hint: Any = Any) -> str:
    """The name under which `resolve` finds a class or function again.

    Raises:
        ConfigError: for a lambda or a function made inside another one.
    """
    module, attribute = value.__module__, value.__qualname__
    for name, known in scope(hint).items():
        if known is value or known == f"{module}:{attribute}":
            return name
    if "<" in attribute:
        raise ConfigError(attribute, "has no importable name: make it a function of its module")
    return f"{_file(module)}:{attribute}"


def _file(module: str) -> str:
    """How to find a module again: by name, or by file if it is a file of the user's."""
    path = getattr(sys.modules[module], "__file__", None)
    mine = module == "__main__" or module in FILES
    beside = path and any(Path(path).parent == Path(file).parent for file in FILES.values())
    if path is None or not (mine or beside):
        return module
    try:
        return Path(path).resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return Path(path).resolve().as_posix()


def _module(where: str, path: str) -> ModuleType:
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except MissingExtra:
            raise
        except ImportError as error:
            raise ConfigError(path or where, f"cannot import {where!r}: {error}") from error
    file = Path(where).resolve()
    if not file.is_file():
        raise ConfigError(path or where, f"there is no file {where}")
    for loaded in list(sys.modules.values()):
        if getattr(loaded, "__file__", None) == str(file):
            return loaded
    name = "shoal_user_" + "_".join(file.with_suffix("").parts[1:])
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ConfigError(path or where, f"cannot load {where}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        FILES[name] = str(file)
        sys.path.insert(0, str(file.parent))
        try:
            spec.loader.exec_module(module)
        except (ShoalError, KeyboardInterrupt, SystemExit):
            del sys.modules[name]
            raise
        except BaseException as error:  # whatever the user's code raises
            del sys.modules[name]
            problem = f"cannot be loaded: {type(error).__name__}: {error}"
            raise ConfigError(where, problem) from error
        finally:
            sys.path.remove(str(file.parent))
    return sys.modules[name]
