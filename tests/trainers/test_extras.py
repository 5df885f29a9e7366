"""Frameworks are optional: missing ones are named, and nothing else imports them."""

import subprocess
import sys

import pytest


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [("torch", "torch", "torch"), ("sklearn", "sklearn", "sklearn")],
)
def test_a_missing_framework_names_its_extra(package, module, extra):
    done = python(f"import sys; sys.modules[{package!r}] = None; import shoal.trainers.{module}")
    assert f"pip install 'shoal[{extra}]'" in done.stderr and "MissingExtra" in done.stderr


def test_numpy_trainers_need_numpy_alone():
    done = python(
        "import sys, shoal.trainers.numpy, shoal.trainers.quadratic\n"
        "print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr
