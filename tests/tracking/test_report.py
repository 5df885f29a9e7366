import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shoal.errors import DataError
from shoal.messages import ClientRecord, CommitRecord, StopRecord, TaskRecord
from shoal.tracking import Meta, Run, figures
from shoal.tracking.axes import axis
from shoal.tracking.plots import Series, lines, thinned
from shoal.tracking.report import MAX_BARS, html, report
from shoal.tracking.timeline import OUTCOMES, by_speed, timeline

from .synthetic import KINDS, make

VOID = {"meta", "input", "br", "link", "img", "hr"}
RUNS = [make(kind, clients=20, tasks=300, seed=i) for i, kind in enumerate(KINDS)]


class Page(HTMLParser):
    """Checks that tags nest, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, k, v) for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else self.texts).append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def test_the_report_is_one_file_that_needs_no_network(tmp_path: Path):
    path = report(RUNS, tmp_path / "out" / "report.html")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text)
    page = Page(text)
    assert page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    assert not {k for _, k, _ in page.attributes} & {"src", "href", "action", "srcset"}
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert len(text) < 1_000_000


def test_the_report_has_every_section_and_every_run():
    page = Page(html(RUNS))
    for title in ("Summary", "Progress", "What every client did", "Staleness", "Bytes", "Settings"):
        assert title in page.text
    assert page.tags["canvas"] == 4 and page.data["names"] == list(KINDS)
    # four x axes for each of two metrics, a histogram and a skyline per run, bytes up and down
    assert page.tags["svg"] == 4 * 2 + 2 * 4 + 2
    assert "prefers-color-scheme: dark" in html(RUNS)


def test_every_chart_is_well_formed():
    charts = re.findall(r"<svg.*?</svg>", html(RUNS), re.DOTALL)
    for chart in charts:
        root = ET.fromstring(chart)
        assert root.attrib["aria-label"]
        assert not re.search(r"\bnan\b|\binf\b", chart)


def test_names_cannot_break_out_of_the_page():
    evil = '</script><script>alert(1)</script>"<b>'
    run = replace(RUNS[1], meta=replace(RUNS[1].meta, name=evil, experiment=evil))
    page = Page(html([run]))
    assert page.tags["script"] == 2 and page.tags["b"] == 2  # the headline's own
    assert page.data["names"] == [evil]


def test_an_empty_run_explains_itself():
    empty = Run(Path("r"), Meta(name="empty", algorithm="a", status="failed"), (), ("Odd thing.",))
    text = Page(html([empty, RUNS[0]])).text
    assert "Odd thing." in text and "Never evaluated: empty." in text
    assert "No task was finished" in text and "failed" in text
    assert "No run was evaluated" in Page(html([empty])).text
    with pytest.raises(DataError, match="at least one run"):
        html([])


def test_the_headline_names_the_first_to_the_target():
    assert "fedbuff reached accuracy 0.9 after" in re.sub(r"</?b>", "", html(RUNS[:2]))


def test_bars_are_single_tasks_while_they_fit():
    run = RUNS[1]
    lane = timeline(run, 1000)
    assert lane["single"] and len(lane["c"]) == len(run.tasks) == lane["tasks"]
    assert dict(zip(OUTCOMES, lane["counts"], strict=True)) == {
        name: sum(t.outcome == name for t in run.tasks) for name in OUTCOMES
    }
    tick = lane["end"] / lane["ticks"]
    for i, task in enumerate(run.tasks):
        assert lane["clients"][lane["c"][i]] == task.client
        assert lane["s"][i] * tick == pytest.approx(task.started, abs=2 * tick)
        assert lane["d"][i] * tick == pytest.approx(task.arrived - task.started, abs=2 * tick)
        assert lane["w"][i] * tick == pytest.approx(task.ended - task.arrived, abs=2 * tick)
        assert OUTCOMES[lane["o"][i]] == task.outcome
        assert lane["reasons"][lane["r"][i]] == task.reason


@pytest.mark.parametrize("limit", [20, 100, 200])
def test_too_many_tasks_become_spans_that_lose_none(limit):
    run = make("fedbuff", clients=20, tasks=400)
    lane = timeline(run, limit)
    assert not lane["single"] and 0 < len(lane["c"]) <= limit
    totals = [sum(n[k] for n in lane["n"]) for k in range(len(OUTCOMES))]
    assert totals == lane["counts"] and sum(totals) == len(run.tasks)
    assert all(0 <= w <= 100 for w in lane["w"])
    assert "too many to embed" not in html([run])


def test_a_large_report_stays_small_and_says_what_it_left_out(monkeypatch):
    monkeypatch.setattr("shoal.tracking.report.MAX_BARS", 500)
    run = make("fedasync", clients=310, tasks=3000)
    text = html([run])
    assert "too many to embed" in text and "300 of 310 clients" in text
    assert len(Page(text).data["timelines"][0]["c"]) <= 500
    assert MAX_BARS == 60_000


def test_rows_go_from_fast_to_slow_and_offline_is_known():
    records = (
        ClientRecord(0.0, "slow", "joined"),
        ClientRecord(0.0, "fast", "joined"),
        ClientRecord(0.0, "unknown", "joined"),
        TaskRecord(0, "slow", 0, 0.0, 8.0, 8.0, "aggregated", steps=2),
        TaskRecord(1, "fast", 0, 0.0, 6.0, 8.0, "aggregated", steps=6),
        ClientRecord(5.0, "unknown", "left"),
        CommitRecord(8.0, 1, 2, 0, 2),
        StopRecord(10.0, 1, "done"),
    )
    run = Run(Path("r"), Meta(name="r", algorithm="a"), records)
    assert by_speed(run) == ["fast", "slow", "unknown"]
    lane = timeline(run, 10)
    half = lane["ticks"] // 2
    assert lane["offline"] == [[2, half, 2 * half]]
    assert lane["w"] == [0, round(0.2 * lane["ticks"])]


def test_a_curve_knows_what_was_spent_before_each_evaluation():
    run = RUNS[1]
    curve = figures.curve(run)
    for i, time in enumerate(curve.x["time"]):
        done = [t for t in run.tasks if t.ended <= time]
        assert curve.x["bytes"][i] == sum(t.bytes_up + t.bytes_down for t in done)
        assert curve.x["updates"][i] == sum(t.outcome == "aggregated" for t in done)


def test_thinning_keeps_ends_and_extremes():
    x = list(range(10_000))
    y = [0.0] * 10_000
    y[3333], y[7777] = 5.0, -5.0
    keep = thinned(x, y, 300)
    assert len(keep) <= 300 and keep == sorted(keep)
    assert {0, 3333, 7777, 9999} <= set(keep)
    assert thinned(x[:5], y[:5], 300) == [0, 1, 2, 3, 4]


def test_names_of_lines_never_cover_each_other():
    series = [Series(f"run {i}", [0, 1], [0, 0.5 + i / 1000], i) for i in range(8)]
    text = lines(series, axis("x", (0, 1)), axis("y", (0, 1)), title="t")
    heights = [float(v) for v in re.findall(r'class="name" x="[^"]*" y="([^"]*)"', text)]
    assert len(heights) == 8
    gaps = [b - a for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False)]
    assert min(gaps) >= 14.9


def test_a_gap_in_a_line_stays_a_gap():
    one = Series("a", [0, 1, 2, 3], [1.0, math.nan, 2.0, 3.0])
    text = lines([one], axis("x", (0, 3)), axis("y", (0, 3)), title="t")
    (path,) = re.findall(r'class="line" d="([^"]*)"', text)
    assert path.count("M") == 2 and path.count("L") == 1


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PROBE = """<script>
window.onerror = (text) => { document.title = "error: " + text; };
addEventListener("load", () => setTimeout(() => {
  choose("over", "bytes");
  const lane = lanes[0], i = lane.data.c.findIndex((row, k) => row === 3 && lane.data.d[k] > 999);
  lane.zoom(lane.data.s[i] * lane.tick, lane.data.end);
  const box = lane.canvas.getBoundingClientRect();
  lane.canvas.dispatchEvent(new PointerEvent("pointermove", {
    clientX: box.left + lane.left + 1, clientY: box.top + 14 + 3.5 * lane.rowHeight }));
  const pixel = lane.canvas.getContext("2d").getImageData(
    (lane.left + 2) * devicePixelRatio, (14 + 3.5 * lane.rowHeight) * devicePixelRatio, 1, 1).data;
  const shown = [...document.querySelectorAll("[data-metric]")].filter((c) => !c.hidden);
  document.title = JSON.stringify({ tip: tip.textContent, alpha: pixel[3], shown:
    shown.map((c) => c.dataset.over), task: lane.data.i[i], client: lane.data.clients[3] });
}, 200));
</script></head>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_draws_it_and_answers_the_pointer(tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_text(html(RUNS).replace("</head>", PROBE), encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=3000", "--window-size=1280,4000", "--dump-dom"),
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    title = re.findall(r"<title>(.*?)</title>", done.stdout)[0]
    assert title.startswith("{"), title
    seen = json.loads(title.replace("&quot;", '"').replace("&amp;", "&"))
    assert seen["shown"] == ["bytes"] and seen["alpha"] > 0
    assert f"{seen['client']} · task {seen['task']}" in seen["tip"]
    assert "local steps" in seen["tip"] and "staleness" in seen["tip"]
