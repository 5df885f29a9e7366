"""Served runs under faults: at least 300 seeded trials, each held against an undisturbed run.

A server that kills itself at any step to disk, clients that die around their push, a proxy that
cuts, delays, repeats and reorders requests, full disks, wall clocks that jump, and certificates
that expire.

    python network_faults.py [--keep FILE [--most N]]

With a file to keep, trials that it has are not run again; at most so many others are; the page is
written once all are there.
"""

import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from harness import at_least, at_most, finish, quick
from network_trials import HANG, KINDS, Trial, run

TRIALS = 43  # of each kind
WORKERS = 3


def one(chosen: tuple[str, int]) -> Trial:
    with tempfile.TemporaryDirectory() as folder:
        return run(*chosen, Path(folder))


def main() -> None:
    count = 2 if quick() else TRIALS
    chosen = [(kind, seed) for seed in range(count) for kind in KINDS]
    keep, most = _option("--keep", ""), int(_option("--most", "100000"))
    done = _kept(keep)
    left = [key for key in chosen if key not in done]
    for trial in _ran(left[:most]):
        done[trial.kind, trial.seed] = trial
        if keep:
            with open(keep, "a", encoding="utf-8") as file:
                file.write(json.dumps(trial.__dict__) + "\n")
        if trial.problems:
            print(trial, flush=True)
    if len(left) <= most:
        _report([done[key] for key in chosen])
    else:
        print(f"{len(left) - most} trials are left")


def _option(name: str, default: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def _kept(path: str) -> dict[tuple[str, int], Trial]:
    if not path or not Path(path).exists():
        return {}
    rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return {(row["kind"], row["seed"]): Trial(**row) for row in rows}


def _ran(chosen: list[tuple[str, int]]) -> Iterator[Trial]:
    with ProcessPoolExecutor(WORKERS) as pool:
        for found in as_completed([pool.submit(one, key) for key in chosen]):
            yield found.result()


def _report(trials: list[Trial]) -> None:
    wrong = [trial for trial in trials if trial.problems]
    rows = [_row(kind, [t for t in trials if t.kind == kind]) for kind in KINDS]
    text = "\n".join(
        [
            "Four clients, five synchronous rounds, exact mean, a model of 5 kB or 1.2 MB. A trial",
            "fails if an acknowledged update is missing or counts twice, if a round has fewer than",
            "four updates, if the model's bits are not those of an undisturbed run, if a client",
            "stops with any error but that of an expired certificate, or if it hangs: no client",
            f"answers, nothing is written, no server starts for {HANG:g} s, twice `patience`,",
            "not counting time in which the machine did not run the trial. Several trials share",
            "the machine, at times with other work: seconds are no figures of speed.",
            "",
            "| what breaks | trials | failed | faults | median, s | longest, s | still, s |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            *[f"- {trial.kind} {trial.seed}: {'; '.join(trial.problems)}" for trial in wrong],
        ]
    )
    least = len(trials) if quick() else 300
    figures = [
        at_least("trials", len(trials), "trials", least),
        at_most("trials that failed", len(wrong), "trials", 0),
        at_most("longest time without progress", max(t.still for t in trials), "s", HANG),
    ]
    finish("network_faults", "Served runs under faults", text, figures)


def _row(kind: str, trials: list[Trial]) -> str:
    seconds = [trial.seconds for trial in trials]
    broken = Counter(bool(trial.problems) for trial in trials)[True]
    faults = sum(len(trial.faults) for trial in trials)
    middle = statistics.median(seconds)
    still = max(trial.still for trial in trials)
    times = f"{middle:.1f} | {max(seconds):.1f} | {still:.1f}"
    return f"| {kind} | {len(trials)} | {broken} | {faults} | {times} |"


if __name__ == "__main__":
    main()
