"""The public namespace: light, lazy and complete."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shoal


def test_every_public_name_can_be_imported() -> None:
    for name in shoal.__all__:
        assert getattr(shoal, name) is not None


def test_the_stub_lists_the_same_names() -> None:
    stub = Path(shoal.__file__).with_suffix(".pyi").read_text("utf-8")
    assert sorted(re.findall(r" as (\w+)$", stub, re.MULTILINE)) == sorted(shoal.__all__)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fedavgg"):
        shoal.fedavgg  # noqa: B018


def test_import_is_light() -> None:
    """Best of three fresh interpreters: under half a second, and no framework comes along."""
    script = (
        "import json, sys, time; import numpy; t = time.perf_counter(); import shoal; "
        "shoal.Experiment; shoal.fedavg; "
        "print(json.dumps([time.perf_counter() - t, sorted(sys.modules)]))"
    )
    runs = [
        json.loads(subprocess.check_output([sys.executable, "-c", script], timeout=60))
        for _ in range(3)
    ]
    modules = {name.partition(".")[0] for name in runs[0][1]}
    assert not modules & {"torch", "sklearn", "rich", "tomli_w", "scipy", "pandas", "matplotlib"}
    assert min(seconds for seconds, _ in runs) < 0.5
