"""What benchmarks share: figures with targets, the machine, and a committed page of results."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.tracking import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        figure: its name.
        value: as measured.
        unit: of the value.
        target: in words, e.g. ">= 20000".
        holds: whether the value meets it.
    """

    figure: str
    value: float
    unit: str
    target: str
    holds: bool


def at_least(name: str, value: float, unit: str, least: float) -> Figure:
    """A figure that should not be below a bound."""
    return Figure(name, value, unit, f">= {least:g}", value >= least)


def at_most(name: str, value: float, unit: str, most: float) -> Figure:
    """A figure that should not be above a bound."""
    return Figure(name, value, unit, f"<= {most:g}", value <= most)


def between(name: str, value: float, unit: str, least: float, most: float) -> Figure:
    """A figure that should lie in a range."""
    return Figure(name, value, unit, f"{least:g} .. {most:g}", least <= value <= most)


def quick() -> bool:
    """Whether the command line asks for the run of under a minute."""
    return "--quick" in sys.argv[1:]


def data_directory() -> Path:
    """Where the real data sets lie: SHOAL_DATA, or `shared/data` beside the project."""
    return Path(os.environ.get("SHOAL_DATA", ROOT.parent / "shared" / "data"))


def machine() -> str:
    """The machine and the versions, as one paragraph."""
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        model = names[0] if names else model
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; {found}"


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _row(f: Figure) -> str:
    holds = "yes" if f.holds else "**no**"
    return f"| {f.figure} | {_number(f.value)} {f.unit} | {f.target} | {holds} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def finish(name: str, title: str, text: str, figures: Sequence[Figure]) -> None:
    """Write `docs/results/<name>.md` (not for a quick run) and print the figures as JSON lines."""
    rows = "\n".join(_row(f) for f in figures)
    page = (
        f"# {title}\n\nMachine: {machine()}. Code at `{_commit()}`. "
        f"Repeat with `make bench NAME={name}`.\n\n"
        f"| figure | measured | target | holds |\n|---|---|---|---|\n{rows}\n\n{text.strip()}\n"
    )
    if not quick():
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.md").write_text(page, "utf-8")
    for f in figures:
        print(json.dumps(f.__dict__))
