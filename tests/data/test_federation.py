import numpy as np
import pytest

from shoal.core import Examples
from shoal.data import Dirichlet, Federation, Iid, Natural, federate
from shoal.data.federation import strata
from shoal.errors import ConfigError, DataError


def examples(n: int) -> Examples:
    return Examples(np.arange(n, dtype=np.float32)[:, None], np.arange(n) % 3)


def test_gathers_a_clients_examples_and_remembers_them():
    data = Federation(examples(6), {"b": np.array([5, 0]), "a": np.array([1, 2, 3])}, examples(2))
    assert data.clients == ("a", "b")
    assert data["b"].x[:, 0].tolist() == [5.0, 0.0] and data["b"].y.tolist() == [2, 0]
    assert data["b"] is data["b"]


def test_shift_is_applied_to_clients_and_not_to_the_test_set():
    data = Federation(
        examples(4),
        {"a": np.array([0, 1]), "b": np.array([2, 3])},
        examples(4),
        shift=lambda client, x: x + (100 if client == "b" else 0),
    )
    assert data["a"].x[:, 0].tolist() == [0.0, 1.0] and data["b"].x[:, 0].tolist() == [102.0, 103.0]
    assert data.test.x.max() == 3.0 and data.train.x.max() == 3.0


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({}, "without clients"),
        ({"ann": np.array([], np.int64)}, "'ann' has no data"),
        ({"ann": np.array([0]), "bob": np.array([6])}, "'bob': an index outside the 6"),
        ({"ann": np.array([-1])}, "'ann': an index outside"),
        ({"ann": np.array([0.5])}, "'ann': indices must be"),
        ({"ann": np.array([[0]])}, "'ann': indices must be"),
    ],
)
def test_bad_parts_name_the_client(parts, problem):
    with pytest.raises(DataError, match=problem):
        Federation(examples(6), parts, examples(1))


def test_targets_must_be_among_the_classes():
    parts = {"a": np.array([0])}
    with pytest.raises(DataError, match=r"targets 0\.\.2 for 2 classes"):
        Federation(examples(6), parts, examples(1), ("x", "y"))
    below = Examples(np.zeros(1), np.array([-1]))
    with pytest.raises(DataError, match="count from 0"):
        Federation(examples(6), parts, below, ("x", "y", "z"))


def test_unknown_client_gets_the_nearest_names():
    data = Federation(examples(3), {"client-a": np.array([0])}, examples(1))
    with pytest.raises(DataError, match="did you mean client-a"):
        data["client-b"]


def test_a_split_by_key_needs_keys():
    with pytest.raises(ConfigError, match="client key") as caught:
        federate(examples(6), examples(1), partition=Natural(), clients=0, seed=0)
    assert caught.value.field == "partition"
    keys = np.array([7, 7, 8, 8, 9, 9])
    data = federate(examples(6), examples(1), partition=Natural(), clients=0, seed=0, keys=keys)
    assert data.clients == ("7", "8", "9") and len(data["9"]) == 2


def test_real_targets_are_split_by_decile():
    y = np.random.default_rng(0).normal(size=1000)
    bins = strata(y)
    assert np.bincount(bins).tolist() == [100] * 10
    assert (np.sort(y[bins == 9]) >= y[bins == 8].max()).all()
    assert np.array_equal(strata(y[:, None]), bins)


def test_sequences_of_targets_need_a_key_but_no_label_for_iid():
    sequences = Examples(np.zeros((6, 4), np.int64), np.zeros((6, 4), np.int64))
    with pytest.raises(DataError, match=r"\(6, 4\) cannot be split by label"):
        federate(sequences, sequences, partition=Dirichlet(1.0), clients=2, seed=0)
    assert len(federate(sequences, sequences, partition=Iid(), clients=2, seed=0).clients) == 2
