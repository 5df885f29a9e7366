"""The command line: seven verbs, and no flags beyond `--set`, `--out` and what `show plan` asks.

A run is a Python function that returns an `Experiment` (or several, to compare them), or a TOML
file; every field of it is changed by `--set path=value`.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Any

from shoal import __version__
from shoal.errors import ConfigError, DataError, ShoalError

RUNS = Path("runs")
EXAMPLES = """examples:
  shoal new quorum                               an algorithm, its test and an experiment
  shoal run examples/digits.py:hello             simulate an experiment
  shoal run examples/digits.py:hello --set seed=1 --set commits=100
  shoal show runs/hello                          print a finished run; several are compared
  shoal show data examples/digits.py:hello       who has which data
  shoal show plan --model-bytes 5GB --clients 1000 --memory 10GB
  shoal resume runs/hello                        go on after an interruption
  shoal replay runs/hello                        run a logged run again, exactly
"""
PLAN_FLAGS = {
    "model-bytes": "size of an update, e.g. 5GB",
    "clients": "updates in a round",
    "memory": "ceiling of one worker, e.g. 10GB",
    "deadline": "from the first arrival to the commit, e.g. 10min",
    "spread": "from the first arrival to the last, e.g. 60s",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.verb is None:
        parser.print_help()
        return 2
    act: Callable[[argparse.Namespace], int] = chosen.act
    try:
        return act(chosen)
    except ShoalError as error:
        print(f"shoal: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough, e.g. `shoal show data ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shoal",
        description="Federated learning: one experiment for simulator, server and cluster.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shoal {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    def verb(name: str, act: Callable[[argparse.Namespace], int], help: str) -> Any:
        added = verbs.add_parser(name, help=help, description=help)
        added.set_defaults(act=act)
        return added

    new = verb("new", _new, "Write an algorithm file, its test and an experiment that pass.")
    new.add_argument("name", help="a Python name, e.g. quorum; becomes a directory")
    run = verb("run", _run, "Simulate an experiment, or several to compare them.")
    run.add_argument("ref", help="path/to/file.py:function, package.module:function or file.toml")
    _settings(run)
    run.add_argument("--out", type=Path, help="directory for the run (default: runs/<name>)")
    serve = verb("serve", _later, "Run an experiment behind a server.")
    serve.add_argument("ref", nargs="?", help="as of `shoal run`")
    join = verb("join", _later, "Join a server as a client.")
    join.add_argument("url", nargs="?", help="of the server")
    resume = verb("resume", _resume, "Go on with an interrupted run, to the same bits.")
    resume.add_argument("run", type=Path, help="a run directory")
    replay = verb("replay", _replay, "Run a logged run (log=true) again and compare the bits.")
    replay.add_argument("run", type=Path, help="a run directory")
    show = verb(
        "show",
        _show,
        "Print and compare runs, and write an HTML report; `show data REF` shows a partition, "
        "`show algorithms` lists the library, `show toml REF` an experiment, `show plan` plans.",
    )
    show.add_argument("what", nargs="+", help="runs, or: data REF, algorithms, toml REF, plan")
    _settings(show)
    show.add_argument("--out", type=Path, help="file for the report or plot")
    _amounts(show)
    return parser


def _amounts(parser: argparse.ArgumentParser) -> None:
    for flag, help in PLAN_FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"of `show plan`: {help}")


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="PATH=VALUE",
        help="change a field, e.g. algorithm.coordinator.cohort=20; may be repeated",
    )


def _new(chosen: argparse.Namespace) -> int:
    name = chosen.name
    if not name.isidentifier() or name != name.lower():
        raise ConfigError("name", f"{name!r} is not a lower-case Python name, e.g. quorum")
    directory = Path(name)
    if directory.exists():
        raise ConfigError("name", f"{directory} exists: choose another name")
    words = name.split("_")
    fill = {
        "{name}": name,
        "{cls}": "".join(word.capitalize() for word in words),
        "{title}": " ".join(words).capitalize(),
    }
    directory.mkdir()
    for kind, file in (
        ("algorithm", f"{name}.py"),
        ("test", f"test_{name}.py"),
        ("experiment", f"{name}_experiment.py"),
    ):
        text = resources.files("shoal").joinpath("templates", f"{kind}.py.txt").read_text("utf-8")
        for mark, value in fill.items():
            text = text.replace(mark, value)
        (directory / file).write_text(text, "utf-8")
    print(f"wrote {name}/{name}.py, its test and an experiment. Try:")
    print(f"  cd {name} && python -m pytest && shoal run {name}_experiment.py:{name}_digits")
    return 0


def _experiments(ref: str, settings: list[str]) -> tuple[list[Any], str]:
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
    made = resolve(ref)()
    found = list(made) if isinstance(made, list | tuple) else [made]
    for experiment in found:
        if not isinstance(experiment, Experiment):
            raise ConfigError(ref, f"returns {type(experiment).__name__}, not an Experiment")
    return [with_settings(e, settings) for e in found], ref.rpartition(":")[2]


def _free(path: Path) -> Path:
    """The path itself, or numbered if it is taken."""
    number, free = 2, path
    while free.exists():
        free = path.with_name(f"{path.name}-{number}")
        number += 1
    return free


class _Interrupt:
    """Turns the first Ctrl-C into a flag, so that a run stops between two events."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Callable[[], bool]:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return lambda: self.asked

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nshoal: stopping and saving; Ctrl-C again gives up the state", file=sys.stderr)


def _run(chosen: argparse.Namespace) -> int:
    from shoal.runner import execute

    experiments, name = _experiments(chosen.ref, chosen.settings)
    base = _free(chosen.out or RUNS / name)
    several = len(experiments) > 1
    paths = [_free(base / e.title) if several else base for e in experiments]
    outcomes = []
    with _Interrupt() as stop:
        for experiment, path in zip(experiments, paths, strict=True):
            with _sinks(experiment, path) as sinks:
                outcomes.append(execute(experiment, path, sinks, stop))
            if stop():
                return _interrupted(outcomes[-1])
    return _present([o.path for o in outcomes], base / "report.html")


def _resume(chosen: argparse.Namespace) -> int:
    from shoal.runner import read_experiment, resume

    with _Interrupt() as stop, _sinks(read_experiment(chosen.run), chosen.run) as sinks:
        outcome = resume(chosen.run, sinks, stop)
    for note in outcome.notes:
        print(f"shoal: {note}", file=sys.stderr)
    if outcome.status == "interrupted":
        return _interrupted(outcome)
    return _present([outcome.path], outcome.path / "report.html")


def _interrupted(outcome: Any) -> int:
    print(f"interrupted; everything is saved. Go on with: shoal resume {outcome.path}")
    return 130


def _replay(chosen: argparse.Namespace) -> int:
    from shoal.runner import replay

    node = replay(chosen.run)
    print(f"replayed {chosen.run}: version {node.version} at {node.now:.1f} s, the same bits")
    return 0


def _later(chosen: argparse.Namespace) -> int:
    print(
        f"shoal: `{chosen.verb}` comes with the network layer, which this version does not have "
        "yet. `shoal run` simulates the same experiment, unchanged.",
        file=sys.stderr,
    )
    return 2


def _show(chosen: argparse.Namespace) -> int:
    what = chosen.what
    if what[0] == "algorithms" and len(what) == 1:
        return _show_algorithms()
    planned = {flag: getattr(chosen, flag.replace("-", "_")) for flag in PLAN_FLAGS}
    if what == ["plan"]:
        return _show_plan(list(planned.values()), chosen.out or Path("plan.svg"))
    for flag, value in planned.items():
        if value is not None:
            raise ConfigError(f"--{flag}", "belongs to `shoal show plan`")
    if what[0] in ("data", "toml"):
        if len(what) != 2:
            raise ConfigError(f"show {what[0]}", "give one experiment, e.g. file.py:function")
        experiments, name = _experiments(what[1], chosen.settings)
        if what[0] == "data":
            return _show_data(experiments[0], chosen.out or Path(f"{name}-data.svg"))
        return _show_toml(experiments)
    paths = [run for path in what for run in _runs(Path(path))]
    first = Path(what[0])
    return _present(paths, chosen.out or first / "report.html")


def _runs(path: Path) -> list[Path]:
    if (path / "run.json").exists():
        return [path]
    found = sorted(p.parent for p in path.glob("*/run.json"))
    if not found:
        raise DataError(f"{path} holds no runs: there is no run.json")
    return found


def _show_algorithms() -> int:
    from shoal.algorithms import ALGORITHMS

    for name, factory in ALGORITHMS.items():
        module = sys.modules[factory.__module__]
        print(f"{name:12} {(module.__doc__ or '').splitlines()[0]}")
    return 0


def _show_toml(experiments: list[Any]) -> int:
    from shoal.experiment import to_toml

    print("\n".join(to_toml(experiment) for experiment in experiments), end="")
    return 0


def _show_data(experiment: Any, path: Path) -> int:
    from shoal.data.describe import labels, plot, table
    from shoal.tracking.tables import partition_table, show

    federation = experiment.data.load(experiment.seed)
    show(partition_table(labels(federation), table(federation)))
    path.write_text(plot(federation), "utf-8")
    print(f"plot: {path}")
    return 0


def _show_plan(amounts: list[str | None], path: Path) -> int:
    from shoal.tracking.plan_view import show_plan, workload

    model_bytes, clients, memory, deadline, spread = amounts
    show_plan(workload(model_bytes, clients, memory, deadline, spread), path)
    return 0


def _sinks(experiment: Any, path: Path) -> Any:
    from shoal.tracking.sinks import opened

    return opened(experiment, path)


def _present(paths: Sequence[Path], report_path: Path) -> int:
    from shoal.tracking import read
    from shoal.tracking.report import report
    from shoal.tracking.tables import comparison, show

    runs = [read(path) for path in paths]
    names = [run.meta.name for run in runs]
    for at, run in enumerate(runs):
        if names.count(run.meta.name) > 1:  # tell them apart by where they lie
            title = f"{run.meta.name} ({run.path.name})"
            runs[at] = replace(run, meta=replace(run.meta, name=title))
    for run in runs:
        for note in run.notes:
            print(f"shoal: {run.path}: {note}", file=sys.stderr)
    show(comparison(runs))
    report(runs, report_path)
    print(f"report: {report_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
