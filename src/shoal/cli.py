"""The command line: seven verbs, and few flags beyond `--set`, since that changes every field.

What is wrong with the input is said in one line, with exit code 2; `-v` shows where it comes from.

A run is a Python function that returns an `Experiment` (or several, to compare them), or a TOML
file; every field of it is changed by `--set path=value`.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shoal import __version__
from shoal.commands import join, new, running, serve, show
from shoal.commands.trouble import tell
from shoal.errors import ShoalError

EXAMPLES = """examples:
  shoal new quorum                               an algorithm, its test and an experiment
  shoal run examples/digits.py:hello             simulate an experiment
  shoal run examples/digits.py:hello --set seed=1 --set commits=100
  shoal run examples/digits.py:hello --set seed=0..4 --set algorithm.trainer.lr=0.1,0.03
                                                 a sweep: every combination, several at once
  shoal show runs/hello                          print a finished run; several are compared
  shoal show cost runs/hello                     bytes, energy and money by client and commit
  shoal show data examples/digits.py:hello       who has which data
  shoal show codecs examples/digits.py:hello     ratio, error and speed of codecs on its updates
  shoal show plan --model-bytes 5GB --clients 1000 --memory 10GB
  shoal serve examples/hello.py:hello            the same experiment, for real clients
  shoal join http://localhost:7733 --data mine.npz --trust examples/hello.py
  shoal resume runs/hello                        go on after an interruption
  shoal replay runs/hello                        run a logged run again, exactly
"""


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
    except (ShoalError, FileNotFoundError, PermissionError, IsADirectoryError) as error:
        tell(error, chosen.verbose)
        return 2
    except KeyboardInterrupt:
        return 130
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
    details = "show where an error comes from"
    parser.add_argument("-v", "--verbose", action="store_true", help=details)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    def verb(name: str, act: Callable[[argparse.Namespace], int], help: str) -> Any:
        added = verbs.add_parser(name, help=help, description=help)
        added.set_defaults(act=act)
        added.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=details
        )
        return added

    write = verb("new", new.new, "Write an algorithm file, its test and an experiment that pass.")
    write.add_argument("name", help="a Python name, e.g. quorum; becomes a directory")
    run = verb("run", running.run, "Simulate an experiment, or several to compare them.")
    run.add_argument("ref", help="path/to/file.py:function, package.module:function or file.toml")
    _settings(run)
    run.add_argument("--out", type=Path, help="directory for the run (default: runs/<name>)")
    _network(verb)
    resume = verb("resume", running.resume, "Go on with an interrupted run, to the same bits.")
    resume.add_argument("run", type=Path, help="a run directory")
    replay = verb("replay", running.replay, "Run a logged run (log=true) again, to its bits.")
    replay.add_argument("run", type=Path, help="a run directory")
    _showing(verb)
    return parser


def _showing(verb: Callable[..., Any]) -> None:
    shows = verb(
        "show",
        show.show,
        "Print and compare runs, and write an HTML report; `show data REF` shows a partition, "
        "`show algorithms [NAME]` what methods send, keep and go with, "
        "`show toml REF` an experiment, `show plan` plans, "
        "`show codecs [REF]` codecs on an update, `show cost RUN` what a run cost "
        "(`--set device=laptop` and other rates).",
    )
    kinds = "runs, or: data REF, algorithms [NAME], toml REF, plan, codecs [REF], cost RUN"
    shows.add_argument("what", nargs="+", help=kinds)
    _settings(shows)
    shows.add_argument("--out", type=Path, help="file for the report or plot")
    _amounts(shows)


def _network(verb: Callable[..., Any]) -> None:
    serving = verb("serve", serve.serve, "Serve experiments; none for those in the store.")
    serving.add_argument("ref", nargs="*", help="as of `shoal run`")
    _settings(serving)
    serving.add_argument("--store", type=Path, help="directory of all runs (default: served)")
    serving.add_argument("--port", type=int, help="to listen on (default: 7733; 0 for any)")
    serving.add_argument("--flower", default="", help="a Flower app's directory, for SuperNodes")
    joining = verb("join", join.join, "Join a server as a client, until the run is over.")
    joining.add_argument("url", nargs="+", help="of the server, or of a run: URL/NAME")
    joining.add_argument("--data", default="", help=".npz or .csv file, or share:CLIENT")
    joining.add_argument("--flower", default="", help="train with Flower code: module:app")
    joining.add_argument("--name", default="", help="of this client (default: the machine's)")
    joining.add_argument(
        "--run",
        action="append",
        default=[],
        metavar="NAME",
        help="a run to work for, in turn with others if repeated; '*' for all that it may join",
    )
    joining.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="keeps what the client remembers between tasks (default: ~/.local/state/shoal)",
    )
    joining.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="SOURCE",
        help="a package or file of yours that the experiment may name, e.g. for its model",
    )
    _settings(joining)


def _amounts(parser: argparse.ArgumentParser) -> None:
    for flag, help in show.PLAN_FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"of `show plan`: {help}")


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="PATH=VALUE",
        help="change a field, e.g. algorithm.coordinator.cohort=20; may be repeated. Of `run`: "
        "several values, as seed=0..4 or algorithm.trainer.lr=0.1,0.03, make a sweep over all "
        "combinations; a comma within quotes or brackets belongs to the value",
    )


if __name__ == "__main__":
    sys.exit(main())
