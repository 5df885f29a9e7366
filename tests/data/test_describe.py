import math
from xml.etree import ElementTree

import numpy as np
import pytest

from shoal.core import Examples
from shoal.data import Federation, plot, table
from shoal.data.describe import labels, palette
from shoal.errors import DataError

SVG = "{http://www.w3.org/2000/svg}"


def federation(clients: int = 2, classes: tuple[str, ...] = ("no", "yes <&>")) -> Federation:
    y = np.arange(clients * 20) % len(classes)
    parts = {f"c{i:03d}": np.arange(i * 20, i * 20 + 20) for i in range(clients)}
    return Federation(Examples(np.zeros((len(y), 1)), y), parts, Examples(y, y), classes)


def test_table_by_hand():
    y = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    parts = {"b": np.array([0, 3, 5, 6]), "a": np.array([1, 2])}
    data = Federation(Examples(y, y), parts, Examples(y, y), ("x", "y", "z"))
    a, b = table(data)
    assert (a.client, a.examples, a.counts, a.entropy) == ("a", 2, (2, 0, 0), 0.0)
    assert (b.client, b.examples, b.counts) == ("b", 4, (1, 1, 2))
    assert b.entropy == pytest.approx(1.5)
    # All clients together: 3, 1, 2 of 6.
    assert a.distance == pytest.approx(0.5)
    assert b.distance == pytest.approx((0.25 + abs(0.25 - 1 / 6) + abs(0.5 - 1 / 3)) / 2)


def test_real_targets_are_counted_by_decile():
    y = np.linspace(0, 1, 100).astype(np.float32)
    data = Federation(Examples(y, y), {"a": np.arange(50), "b": np.arange(50, 100)}, Examples(y, y))
    assert labels(data)[0] == "decile 1" and len(labels(data)) == 10
    assert table(data)[0].counts == (10,) * 5 + (0,) * 5
    assert table(data)[0].entropy == pytest.approx(math.log2(5))


def test_unnamed_classes_and_sequences():
    data = federation()
    bare = Federation(data.train, data.parts, data.test)
    assert labels(bare) == ("class 0", "class 1")
    assert table(bare) == table(data)
    y = np.zeros((40, 3), np.int64)
    with pytest.raises(DataError, match=r"\(40, 3\)"):
        table(Federation(Examples(y, y), data.parts, Examples(y, y)))


@pytest.mark.parametrize("clients", [1, 30, 100, 600])
@pytest.mark.parametrize("classes", [2, 10, 40])
def test_plot_is_a_picture_with_a_bar_for_every_class_of_every_client(clients, classes):
    data = federation(clients, tuple(f"class {k}" for k in range(classes)))
    root = ElementTree.fromstring(plot(data, "Digits & more"))
    assert root.find(f"{SVG}title").text == "Digits & more"
    rows = table(data)
    bars = [r for r in root.iter(f"{SVG}rect") if r.find(f"{SVG}title") is not None]
    assert len(bars) == sum(n > 0 for row in rows for n in row.counts)
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert {row.client for row in rows} <= set(texts)
    assert {f"class {k}" for k in range(classes)} <= set(texts)
    width, height = float(root.get("width")), float(root.get("height"))
    for bar in bars:
        assert float(bar.get("x")) + float(bar.get("width")) <= width
        assert float(bar.get("y")) + float(bar.get("height")) <= height
    # Widths are to scale.
    first = [float(b.get("width")) for b in bars if b.find(f"{SVG}title").text.startswith("c000:")]
    assert first == pytest.approx([n * sum(first) / 20 for n in rows[0].counts if n], abs=0.05)


def test_plot_needs_nothing_else_and_escapes():
    picture = plot(federation())
    assert "yes &lt;&amp;&gt;" in picture and "http" not in picture.replace(SVG[1:-1], "")
    assert "<script" not in picture


@pytest.mark.parametrize("count", [1, 8, 10, 11, 100])
def test_colors_are_distinct(count):
    colors = palette(count)
    assert len(set(colors)) == count
    assert all(len(c) == 7 and int(c[1:], 16) >= 0 for c in colors)
