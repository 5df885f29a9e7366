"""Hostile bytes, found by coverage: payloads, pulled work and every endpoint under libFuzzer.

atheris is installed into `benchmarks/.peers/fuzz`; each target of `peers/fuzz.py` is a process of
its own. A crash, a hang, an answer of 500 or growth of memory fails.

    python network_fuzz.py [--seconds N]      for each target
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness import Figure, at_least, at_most, finish, quick

HERE = Path(__file__).resolve().parent
PLACE = HERE / ".peers" / "fuzz"
TARGETS = {
    "decoder": "the bytes of a push, decoded, checked and made dense, in nine encodings",
    "model": "the bytes of a pull: a whole model, or changes of one",
    "endpoints": "requests of every endpoint to a server, half of them of clients that joined",
}
HANG = 25  # seconds for one input


@dataclass(frozen=True)
class Fuzzed:
    """What came of one target.

    Attributes:
        runs: inputs that were tried.
        first, edges: branches of Shoal's code that the seeds reached, and all inputs.
        corpus: inputs that reached something new.
        growth: MB of memory from the first tenth of the time to the end.
        crash: the end of what was said about a failure; "" for none.
    """

    runs: int
    first: int
    edges: int
    corpus: int
    growth: float
    crash: str


def installed() -> None:
    """Put atheris in its place, unless it is there."""
    if not (PLACE / "atheris").exists():
        print("installing atheris into benchmarks/.peers/fuzz", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(PLACE), "atheris==3.0.0"], check=True)


def fuzzed(target: str, seconds: int) -> Fuzzed:
    """Fuzz a target for so long."""
    path = os.pathsep.join([str(PLACE), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(HERE / "peers" / "fuzz.py"), target, folder, "-len_control=0",
            f"-max_total_time={seconds}", f"-timeout={HANG}", "-max_len=4096", "-rss_limit_mb=2048",
            f"-artifact_prefix={folder}/",
        ]  # fmt: skip
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
            errors="replace", check=False,
        )  # fmt: skip
    rows = re.findall(r"^#(\d+)\s.*cov: (\d+) .*corp: (\d+)/.*rss: (\d+)Mb", done.stderr, re.M)
    if not rows:
        raise RuntimeError(f"{target} did not begin:\n{done.stderr[-4000:]}")
    steps = [tuple(map(int, row)) for row in rows]
    runs, edges, corpus, end = steps[-1]
    begun = next(rss for count, _, _, rss in steps if count >= runs / 10)
    crash = done.stderr[-3000:] if done.returncode else ""
    return Fuzzed(runs, steps[0][1], edges, corpus, float(end - begun), crash)


def main() -> None:
    """Fuzz all targets and write the page."""
    installed()
    seconds = 150
    if "--seconds" in sys.argv:
        seconds = int(sys.argv[sys.argv.index("--seconds") + 1])
    seconds = 10 if quick() else seconds
    figures: list[Figure] = []
    rows = []
    for name, told in TARGETS.items():
        found = fuzzed(name, seconds)
        if found.crash:
            print(found.crash)
        figures += [
            at_most(f"{name}: crashes, hangs and answers of 500", float(bool(found.crash)), "", 0),
            at_most(f"{name}: growth of memory", found.growth, "MB", 64),
            at_least(f"{name}: inputs", found.runs, "", 1000),
        ]
        reached = f"{found.first} .. {found.edges}"
        rows.append(f"| {name} | {told} | {found.runs:,} | {reached} | {found.corpus} |")
    text = f"""
libFuzzer by atheris 3.0.0, {seconds} s for each target, in a process of its own; guided by the
branches of Shoal's Python that an input takes (compiled codecs are checked by what they return, not
guided). Half of the mutants of payloads and models exchange values of the JSON header, the others
are libFuzzer's own. An input fails if anything but a typed refusal comes of it, an answer of 500,
or none within {HANG} s; the growth of memory is that after the first tenth.

| target | input | inputs | branches, seeds .. all | corpus |
|---|---|---|---|---|
{chr(10).join(rows)}

The same decoder is fuzzed for seconds by `tests/net/test_hostile.py`, which also sends requests to
every endpoint: made by Hypothesis, and by schemathesis from the OpenAPI description.
"""
    finish("network_fuzz", "Hostile bytes", text, figures)


if __name__ == "__main__":
    main()
