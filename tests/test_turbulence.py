"""The turbulence example: its solver keeps what flows keep, and its operator learns."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal

pytest.importorskip("torch")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def example() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import turbulence
    finally:
        sys.path.remove(str(EXAMPLES))
    return turbulence


def test_the_flow_keeps_what_it_should(example: Any) -> None:
    at = np.arange(example.GRID) * 2 * np.pi / example.GRID
    wave = np.cos(3 * at)[None, :, None] * np.ones(example.GRID)
    alone = example.flow(wave, 0.02, 0.5)  # one wave carries nothing: it only decays
    assert alone == pytest.approx(wave * np.exp(-0.02 * 9 * 0.5), abs=1e-9)
    start = example.fields(2, 0.01, 0).x[:, 0].astype(float)
    later = example.flow(start, 0.0, 0.5)
    assert later.mean() == pytest.approx(start.mean(), abs=1e-9)
    assert (later**2).mean() == pytest.approx((start**2).mean(), rel=0.05)  # enstrophy
    viscous = example.flow(start, 0.05, 0.5)
    assert (viscous**2).mean() < 0.8 * (start**2).mean()


def test_the_operator_learns_more_than_that_nothing_changes(example: Any) -> None:
    by_age = example.turbulence()[0]
    small = replace(
        by_age, data=example.Turbulence(2, 8), seconds=None, commits=16, evaluate_every=16
    )
    first, last = [record.metrics["loss"] for record in shoal.simulate(small)]
    federation = small.data.load(0)
    still = float(np.mean((federation.test.x - federation.test.y) ** 2))
    assert last < 0.9 * min(first, still)
    assert [e.title for e in example.turbulence()][1:] == [
        "same weight for all", "rounds of everyone"
    ]  # fmt: skip
