"""The command line, as a person uses it: real processes, real signals, real files."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shoal.cli import main

TESTS = Path(__file__).parent
REF = f"{TESTS / 'experiments.py'}:softmax"
SHORT = ["--set", "commits=4", "--set", "evaluate_every=2"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shoal(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_run_then_show_prints_a_table_and_writes_a_report(capsys: pytest.CaptureFixture) -> None:
    assert main(["run", REF, *SHORT]) == 0
    out = capsys.readouterr().out
    assert "softmax" in out
    assert "commits" in out
    assert main(["show", "runs/softmax"]) == 0
    html = Path("runs/softmax/report.html").read_text("utf-8")
    assert not re.search(r"""(src|href)=["']https?:""", html)


def test_several_experiments_are_compared(capsys: pytest.CaptureFixture) -> None:
    assert main(["run", f"{TESTS / 'experiments.py'}:both", *SHORT]) == 0
    assert sorted(p.name for p in Path("runs/both").iterdir()) == [
        "buffered",
        "report.html",
        "softmax",
    ]
    assert main(["show", "runs/both"]) == 0
    assert "buffered" in capsys.readouterr().out


def test_a_second_run_gets_a_directory_of_its_own() -> None:
    assert main(["run", REF, *SHORT]) == 0
    assert main(["run", REF, *SHORT]) == 0
    assert Path("runs/softmax-2/run.json").exists()


def test_toml_from_show_runs_to_the_same_bits(capsys: pytest.CaptureFixture) -> None:
    assert main(["show", "toml", REF, *SHORT]) == 0
    Path("mine.toml").write_text(capsys.readouterr().out, "utf-8")
    assert main(["run", "mine.toml"]) == 0
    assert main(["run", REF, *SHORT]) == 0
    models = [Path(f"runs/{n}/model.safetensors").read_bytes() for n in ("mine", "softmax")]
    assert models[0] == models[1]


def test_show_data_prints_and_plots(capsys: pytest.CaptureFixture) -> None:
    assert main(["show", "data", REF, "--out", "data.svg"]) == 0
    assert "c19" in capsys.readouterr().out
    assert Path("data.svg").read_text("utf-8").startswith("<svg")


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"'{sys.executable}' -m shoal.cli show algorithms | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_runs_of_one_name_are_told_apart(capsys: pytest.CaptureFixture) -> None:
    for _ in range(2):
        assert main(["run", REF, *SHORT]) == 0
    capsys.readouterr()
    assert main(["show", "runs/softmax", "runs/softmax-2"]) == 0
    out = capsys.readouterr().out
    assert "softmax (softmax)" in out
    assert "softmax (softmax-2)" in out


def test_show_algorithms_lists_the_library(capsys: pytest.CaptureFixture) -> None:
    from shoal.algorithms import ALGORITHMS

    assert main(["show", "algorithms"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ALGORITHMS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.py:f"], "there is no file nowhere.py"),
        (["run", "nowhere.toml"], "there is no file nowhere.toml"),
        (["serve", "nowhere.toml"], "there is no file nowhere.toml"),
        (["join", "ftp://x"], "no address of a server"),
        (["run", "nothing"], "neither file.py:function nor a .toml file"),
        (["run", f"{TESTS / 'experiments.py'}:softmx"], "did you mean softmax"),
        (["run", f"{TESTS / 'experiments.py'}:not_an_experiment"], "returns int"),
        (["run", REF, "--set", "sead=1"], "did you mean seed"),
        (["run", REF, "--set", "sinks=['tensorbord']"], "did you mean tensorboard"),
        (["show", "nothing_here"], "holds no runs"),
        (["resume", "nothing_here"], "there is no run.json"),
        (["replay", "nothing_here"], "there is no run.json"),
        (["new", "Not-A-Name"], "not a lower-case Python name"),
    ],
)
def test_mistakes_are_one_line_with_what_to_do(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_help_teaches(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(verb in out for verb in ["new", "run", "serve", "join", "resume", "replay", "show"])
    assert "shoal run examples/digits.py:hello --set seed=1" in out


def test_no_flags_grow() -> None:
    """Fields are changed by --set; a new flag needs a reason good enough to change this test."""
    from shoal.cli import _parser

    flags = set()
    for action in _parser()._actions:
        flags |= set(action.option_strings)
        for sub in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            flags |= {option for a in sub._actions for option in a.option_strings}
    # `show plan` has no experiment whose fields --set could change: its five amounts are flags.
    plan = {"--model-bytes", "--clients", "--memory", "--deadline", "--spread"}
    # `serve` and `join` say where, with what and as whom: no part of an experiment either.
    network = {"--store", "--port", "--data", "--name", "--trust", "--flower", "--run", "--state"}
    common = {"-h", "--help", "-v", "--verbose", "--version", "--set", "--out"}
    assert flags == common | plan | network


@pytest.mark.parametrize(
    "arguments",
    [
        ("new", "no name"), ("run", "none.py:run"), ("run", "raises.py:run"),
        ("run", "syntax.py:run"), ("serve", "none.py:run"), ("serve", "--port", "99999"),
        ("join", "nonsense", "--data", "x"), ("resume", "none"), ("replay", "none"),
        ("show", "none"), ("show", "toml", "none.toml"), ("show", "audit", "none"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line_and_in_detail_if_asked(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    Path("raises.py").write_text("def run():\n    raise KeyError('no\\nsuch')\n", "utf-8")
    Path("syntax.py").write_text("def run(:\n", "utf-8")
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("shoal: ") and line.count("\n") == 1, line
    for verbose in ((*arguments, "-v"), ("--verbose", *arguments)):
        assert main(verbose) == 2
        told = capsys.readouterr().err
        assert told.startswith("Traceback") and told.endswith(line)


def test_new_writes_an_algorithm_whose_test_passes_at_once() -> None:
    assert main(["new", "my_quorum"]) == 0
    files = sorted(p.name for p in Path("my_quorum").iterdir())
    assert files == ["my_quorum.py", "my_quorum_experiment.py", "test_my_quorum.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(
        command, cwd="my_quorum", capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    ref = "my_quorum/my_quorum_experiment.py:my_quorum_digits"
    assert shoal("run", ref, "--set", "log=true", "--set", "commits=3").returncode == 0
    replayed = shoal("replay", "runs/my_quorum_digits")
    assert "the same bits" in replayed.stdout, replayed.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_saves_the_state_and_prints_how_to_resume() -> None:
    slow = ["--set", "commits=400", "--set", "evaluate_every=100"]
    assert shoal("run", REF, *slow, "--out", "whole").returncode == 0
    command = [sys.executable, "-m", "shoal.cli", "run", REF, *slow, "--out", "cut"]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    records = Path("cut/records.jsonl")
    limit = time.monotonic() + 60
    while time.monotonic() < limit and not (records.exists() and records.stat().st_size > 20_000):
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    out, _ = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "shoal resume cut" in out
    assert not Path("cut/model.safetensors").exists()
    resumed = shoal("resume", "cut")
    assert resumed.returncode == 0, resumed.stderr
    models = [Path(f"{name}/model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert models[0] == models[1]


def test_replay_from_the_command_line() -> None:
    assert shoal("run", REF, *SHORT, "--set", "log=true").returncode == 0
    replayed = shoal("replay", "runs/softmax")
    assert replayed.returncode == 0, replayed.stderr
    assert "the same bits" in replayed.stdout
