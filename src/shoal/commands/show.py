"""`shoal show`: runs, or one of the kinds in `KINDS`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from shoal.commands.algorithms import show_algorithms
from shoal.commands.codecs import show_codecs
from shoal.commands.costs import show_cost
from shoal.commands.guard import audit, keys, token
from shoal.commands.present import present
from shoal.commands.refs import experiments
from shoal.errors import ConfigError, DataError

PLAN_FLAGS = {
    "model-bytes": "size of an update, e.g. 5GB",
    "clients": "updates in a round",
    "memory": "ceiling of one worker, e.g. 10GB",
    "deadline": "from the first arrival to the commit, e.g. 10min",
    "spread": "from the first arrival to the last, e.g. 60s",
}


def show(chosen: argparse.Namespace) -> int:
    """Print what is asked for: a kind of thing, or else runs."""
    kind, *rest = chosen.what
    for flag, value in _planned(chosen).items():
        if value is not None and kind != "plan":
            raise ConfigError(f"--{flag}", "belongs to `shoal show plan`")
    if kind in KINDS:
        KINDS[kind](chosen, rest)
        return 0
    runs = [run for path in chosen.what for run in _runs(Path(path))]
    return present(runs, chosen.out or Path(kind) / "report.html")


def _planned(chosen: argparse.Namespace) -> dict[str, str | None]:
    return {flag: getattr(chosen, flag.replace("-", "_")) for flag in PLAN_FLAGS}


def _runs(path: Path) -> list[Path]:
    if (path / "run.json").exists():
        return [path]
    found = sorted(p.parent for p in path.glob("*/run.json"))
    if not found:
        raise DataError(f"{path} holds no runs: there is no run.json")
    return found


def _one(kind: str, rest: list[str]) -> str:
    if len(rest) != 1:
        raise ConfigError(f"show {kind}", "give one experiment, e.g. file.py:function")
    return rest[0]


def _algorithms(chosen: argparse.Namespace, rest: list[str]) -> None:
    show_algorithms(rest)


def _toml(chosen: argparse.Namespace, rest: list[str]) -> None:
    from shoal.experiment import to_toml

    found, _ = experiments(_one("toml", rest), chosen.settings)
    print("\n".join(to_toml(experiment) for experiment in found), end="")


def _data(chosen: argparse.Namespace, rest: list[str]) -> None:
    from shoal.data.describe import labels, plot, table
    from shoal.tracking.tables import partition_table, show

    found, name = experiments(_one("data", rest), chosen.settings)
    path = chosen.out or Path(f"{name}-data.svg")
    federation = found[0].data.load(found[0].seed)
    show(partition_table(labels(federation), table(federation)))
    path.write_text(plot(federation), "utf-8")
    print(f"plot: {path}")


def _plan(chosen: argparse.Namespace, rest: list[str]) -> None:
    from shoal.tracking.plan_view import show_plan, workload

    show_plan(workload(*_planned(chosen).values()), chosen.out or Path("plan.svg"))


def _weights(chosen: argparse.Namespace, rest: list[str]) -> None:
    from shoal.rehearsal import lines

    found, _ = experiments(_one("weights", rest), chosen.settings)
    for experiment in found:
        print(f"{experiment.title}:")
        print("\n".join(lines(experiment)))


def _clients(chosen: argparse.Namespace, rest: list[str]) -> None:
    from shoal.detection import lines
    from shoal.tracking import read

    if len(rest) != 1:
        raise ConfigError("show clients", "give one run's directory")
    for path in _runs(Path(rest[0])):
        run = read(path)
        print(f"{run.meta.name}:")
        print("\n".join(lines(run.records)))


# What `shoal show KIND ...` prints instead of runs.
KINDS: dict[str, Callable[[argparse.Namespace, list[str]], None]] = {
    "algorithms": _algorithms,
    "audit": audit,
    "clients": _clients,
    "codecs": show_codecs,
    "cost": show_cost,
    "data": _data,
    "keys": keys,
    "plan": _plan,
    "token": token,
    "toml": _toml,
    "weights": _weights,
}
