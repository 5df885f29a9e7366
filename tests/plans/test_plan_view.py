"""`shoal show plan`: the table, the reasons and the plot."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from shoal.cli import main
from shoal.errors import ConfigError
from shoal.plans import Workload, choose
from shoal.tracking.plan_view import plot, workload


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_show_plan_prints_the_comparison_and_writes_a_plot(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(
        ["show", "plan", "--model-bytes", "5GB", "--clients", "1000", "--memory", "10 GB"]
    )
    out = capsys.readouterr().out
    assert status == 0
    for text in ("flat", "tree(", "shards(16) ", "x tree(", "wins", "Cross-over at", "$ a round"):
        assert text in out
    assert "runs a worker 8,964 s of at most 900 s" in out
    assert out.rstrip().endswith("plot: plan.svg")
    svg = ET.fromstring(Path("plan.svg").read_text("utf-8"))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    names = {t.text for t in svg.iter("{http://www.w3.org/2000/svg}text") if t.get("class")}
    assert {"flat", "tree", "shards", "shards x tree", "dollars a round"} <= names


def test_deadline_spread_and_out_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    amounts = ["--model-bytes", "100MB", "--clients", "100", "--deadline", "15min"]
    assert main(["show", "plan", *amounts, "--spread", "10m", "--out", "here.svg"]) == 0
    assert "lazy" in capsys.readouterr().out and Path("here.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "plan"], "needs at least --model-bytes and --clients"),
        (["show", "plan", "--model-bytes", "5 apples", "--clients", "3"], "--model-bytes: '5 app"),
        (["show", "plan", "--model-bytes", "5GB", "--clients", "2.5"], "not a whole number"),
        (["show", "algorithms2", "--memory", "1GB"], "--memory: belongs to `shoal show plan`"),
        (
            ["show", "plan", "--model-bytes", "5GB", "--clients", "9", "--deadline", "1ms"],
            "a deadline of 0.0 s",
        ),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_the_plot_is_a_pure_function_and_rings_what_was_asked() -> None:
    choice = choose(Workload(1e9, 50))
    assert plot(choice) == plot(choice)
    assert plot(choice).count('class="mark"') == 4


def test_amounts_become_a_workload() -> None:
    assert workload("1GB", "10", spread="0") == Workload(1e9, 10)
    assert workload("1GB", "10", "2GB", "1min", "5s") == Workload(1e9, 10, 5.0, 2e9, 60.0)
    with pytest.raises(ConfigError, match="clients"):
        workload("1GB", None)
