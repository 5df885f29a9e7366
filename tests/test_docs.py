"""The documentation is run: its programs, its commands, its TOML; links and tables are checked."""

import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.aggregators import AGGREGATORS
from shoal.algorithms import ALGORITHMS
from shoal.data import DATASETS, PARTITIONS
from shoal.experiment import from_toml
from shoal.rules import RULES
from shoal.runner import simulate
from shoal.simulation import AVAILABILITY, DISTRIBUTIONS
from shoal.staleness import STALENESS
from shoal.tracking import SINKS
from shoal.trainers import TRAINERS
from shoal.transforms import TRANSFORMS
from shoal.transports import TRANSPORTS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "results" not in page.parts),
]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# As the console script: the working directory is not on the path.
SHOAL = [sys.executable, "-P", "-c", "import sys; from shoal.cli import main; sys.exit(main())"]


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """The (title, text) of a page's code blocks in one language."""
    found = BLOCK.findall(page.read_text("utf-8"))
    return [(title, text) for kind, title, text in found if kind == language]


def with_code(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prepare(page: Path, directory: Path) -> None:
    """The examples, and every titled block of a page as a file; of equal titles, in order."""
    shutil.copytree(ROOT / "examples", directory / "examples")
    files: dict[str, list[str]] = {}
    for title, text in blocks(page, "python"):
        if title:
            files.setdefault(title, []).append(text)
    for title, texts in files.items():
        (directory / title).write_text("\n\n".join(texts), "utf-8")


def run(command: list[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, timeout=120)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, f"{command}:\n{output}"
    return output


def commands(page: Path) -> Iterator[list[str]]:
    """What a page's console blocks tell people to type, without the installation."""
    for _, text in blocks(page, "console"):
        for line in text.splitlines():
            words = shlex.split(line[2:]) if line.startswith("$ ") else [""]
            if words[0] == "shoal":
                yield SHOAL + words[1:]
            elif words[0] == "python" and "pip" not in words:
                yield [sys.executable, *words[1:]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", with_code("console"), ids=name)
def test_commands_work(page: Path, tmp_path: Path) -> None:
    prepare(page, tmp_path)
    typed = list(commands(page))
    assert typed
    for command in typed:
        assert run(command, tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", with_code("python"), ids=name)
def test_programs_run(page: Path, tmp_path: Path) -> None:
    prepare(page, tmp_path)
    for title in sorted({title for title, _ in blocks(page, "python") if title}):
        if title.startswith("test_"):
            assert "passed" in run([sys.executable, "-m", "pytest", "-q", title], tmp_path)
        else:
            run([sys.executable, title], tmp_path)
    script = "\n".join(text for title, text in blocks(page, "python") if not title)
    (tmp_path / "page.py").write_text(script, "utf-8")
    run([sys.executable, "page.py"], tmp_path)


@pytest.mark.parametrize("page", with_code("toml"), ids=name)
def test_toml_is_an_experiment_that_runs(page: Path) -> None:
    for _, text in blocks(page, "toml"):
        experiment = from_toml(text)
        assert [r.version for r in simulate(experiment)][-1] == experiment.commits


def test_hello_is_the_example() -> None:
    shown = dict(blocks(ROOT / "README.md", "python"))["examples/hello.py"]
    assert shown == (ROOT / "examples" / "hello.py").read_text("utf-8")


def test_an_algorithm_takes_25_lines() -> None:
    text = next(text for title, text in blocks(ROOT / "README.md", "python") if title == "eager.py")
    assert len([line for line in text.splitlines() if line.strip()]) == 21  # as the page says


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text("utf-8"))
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            assert path.startswith("https://arxiv.org/abs/")  # so that no page needs the network
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} leads nowhere"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w]+", "-", t.lower()).strip("-") for t in titles}, target


def test_tables_name_every_part() -> None:
    readme, library = ((ROOT / p).read_text("utf-8") for p in ("README.md", "docs/library.md"))
    own = {"Routed", "BufferMean", "CounterMax"}  # plumbing, described in the library only
    dictionaries = [
        ALGORITHMS, AGGREGATORS, TRANSFORMS, TRAINERS, RULES, DATASETS, PARTITIONS, DISTRIBUTIONS,
        AVAILABILITY, STALENESS, SINKS, TRANSPORTS,
    ]  # fmt: skip
    assert [n for d in dictionaries for n in d if f"`{n}`" not in library] == []
    named = [*ALGORITHMS, *AGGREGATORS, *TRANSFORMS, *DATASETS, *PARTITIONS, *STALENESS]
    assert [n for n in named if f"`{n}`" not in readme and n not in own] == []


def test_the_picture_needs_nothing_else() -> None:
    path = ROOT / "docs" / "architecture.svg"
    root = ET.parse(path).getroot()
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    text = path.read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.timeout(300)
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    run([sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "mkdocs.yml"),
         "-d", str(tmp_path / "site")], ROOT)  # fmt: skip
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]*\shref=\"([^\"]+)\"", text)
        assert [url for url in loaded if url.startswith(("http", "//"))] == [], page
