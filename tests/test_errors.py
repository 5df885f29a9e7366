"""Errors: checks of hyperparameters, hints, and crossing from one process to another."""

import pickle

import numpy as np
import pytest

from shoal import errors
from shoal.errors import ConfigError, MissingExtra, fraction, nearest, positive


@pytest.mark.parametrize("value", [1, 1e-300, 1e300, np.float32(1), np.int64(2)])
def test_positive_numbers_pass(value):
    positive("alpha", value)
    positive("alpha", value, zero=True)


def test_zero_passes_only_where_it_may():
    positive("alpha", 0, zero=True)
    with pytest.raises(ConfigError, match=r"^alpha: must be finite and above 0, got 0$"):
        positive("alpha", 0)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), -float("inf")])
def test_other_numbers_do_not(value):
    with pytest.raises(ConfigError, match=r"^alpha: must be finite"):
        positive("alpha", value, zero=True)
    with pytest.raises(ConfigError, match=r"^alpha: must lie in"):
        fraction("alpha", value)


@pytest.mark.parametrize("value", ["0.1", None, True, [1], 1j])
def test_what_is_no_number_is_named(value):
    for check in (positive, fraction):
        with pytest.raises(
            ConfigError, match=rf"^alpha: must be a number, got {type(value).__name__}"
        ):
            check("alpha", value)


def test_fractions_may_exclude_one():
    fraction("x", 0)
    fraction("x", 1)
    fraction("x", 0.999, one=False)
    with pytest.raises(ConfigError, match=r"\[0, 1\), got 1"):
        fraction("x", 1, one=False)


def test_hints_name_the_closest_or_all():
    assert nearest("cohrt", ["cohort", "seed"]) == "did you mean cohort?"
    assert nearest("zzz", {"b": 1, "a": 2}) == "known: a, b"
    assert nearest("zzz", ()) == "known: none"


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("a.b", "is wrong"),
        MissingExtra("torch", "torch"),
        *(
            kind("text")
            for kind in vars(errors).values()
            if isinstance(kind, type)
            and issubclass(kind, errors.ShoalError)
            and kind not in (ConfigError, MissingExtra)
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_processes_whole(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert vars(again) == vars(error)


def test_messages_say_what_to_do():
    assert str(ConfigError("a.b", "is wrong")) == "a.b: is wrong"
    assert "pip install 'shoal[torch]'" in str(MissingExtra("torch", "torch"))
    assert isinstance(MissingExtra("torch", "torch"), ImportError)
