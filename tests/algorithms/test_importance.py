"""Importance sampling and F3AST: exact inclusion probabilities, unbiased sums, refusals."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shoal.algorithms.f3ast import ByRate, f3ast
from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.algorithms.importance import Drawn, Importance, importance, inclusion, systematic
from shoal.algorithms.measured import Measured
from shoal.errors import ConfigError
from shoal.messages import Update
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from shoal.view import View
from support import Q3_A, Q3_B, Q3_P, play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
SIZES = dict(zip(q3(), Q3_P, strict=True))
C = 1 - (1 - 0.1 * np.array(Q3_A)) ** 5
P = np.array(Q3_P) / 10
FIXED = float(sum(P * C * Q3_B) / sum(P * C))
VIEW = View(Script(FedAvg()).join("a", "b", "c", "d").node)
FOUR = {"a": 10, "b": 1, "c": 4, "d": 5}


def test_inclusion_probabilities_are_proportional_and_at_most_one() -> None:
    assert inclusion([1.0, 1.0, 2.0], 1) == pytest.approx([0.25, 0.25, 0.5])
    assert inclusion([1.0, 1.0, 8.0], 2) == pytest.approx([0.5, 0.5, 1.0])
    assert inclusion([1.0, 9.0, 90.0], 2) == pytest.approx([0.1, 0.9, 1.0])
    assert inclusion([3.0, 2.0], 5) == [1.0, 1.0]


def test_systematic_sampling_has_exactly_these_probabilities_and_a_fixed_size() -> None:
    q, rng = [0.9, 0.1, 0.4, 0.6], np.random.default_rng(0)
    counts = np.zeros(4)
    for _ in range(8000):
        chosen = systematic(q, rng)
        assert len(set(chosen)) == 2
        counts[chosen] += 1
    assert counts / 8000 == pytest.approx(np.array(q), abs=0.02)


@pytest.mark.parametrize("policy", [Importance(FOUR), Importance(FOUR, "loss", 0.3)])
def test_the_expected_weight_of_every_client_is_its_share(policy: Importance) -> None:
    memory, sums = Drawn({"a": 0.1, "b": 5.0}), dict.fromkeys(FOUR, 0.0)
    for i in range(8000):
        chosen, drawn = policy.choose(memory, 2, VIEW, str(i))
        for client in chosen:
            sums[client] += policy.weight(drawn, Update(0, client, 0), 1.0)
    for client, count in FOUR.items():
        assert sums[client] / 8000 == pytest.approx(count / 20, rel=0.12)


def test_everyone_is_fedavg() -> None:
    ours = play(importance(3, examples=SIZES, trainer=TRAINER), q3(), 20)
    theirs = play(fedavg(trainer=TRAINER), q3(), 20)
    assert ours.xs == pytest.approx(theirs.xs, rel=1e-12)


@pytest.mark.parametrize("by", ["examples", "loss"])
def test_the_mean_settles_at_fedavgs_fixed_point(by: str) -> None:
    trainer = Measured(replace(TRAINER, start=1.0))
    algorithm = importance(1, examples=SIZES, by=by, lr=0.03, trainer=trainer)  # type: ignore[arg-type]
    played = play(algorithm, q3(), 3000)
    assert np.mean(played.xs[500:]) == pytest.approx(FIXED, abs=0.06)


# F3AST


def test_rates_follow_the_shares_where_everyone_is_available() -> None:
    policy = ByRate(FOUR, 1, beta=0.02)
    memory, counts = policy.init(), dict.fromkeys(FOUR, 0)
    for i in range(2000):
        chosen, memory = policy.choose(memory, 1, VIEW, str(i))
        counts[chosen[0]] += 1
        memory = policy.ended(memory, frozenset(chosen), VIEW)
    for client, count in FOUR.items():
        assert counts[client] / 2000 == pytest.approx(count / 20, abs=0.02)
        assert policy.weight(memory, Update(0, client, 0), 1.0) == pytest.approx(1.0, abs=0.35)


def test_rarely_available_clients_go_first_and_the_sum_stays_unbiased() -> None:
    policy = ByRate(dict.fromkeys("abcd", 1), 1, beta=0.01)
    memory, sums, counts = policy.init(), dict.fromkeys("abcd", 0.0), dict.fromkeys("abcd", 0)
    few = View(Script(FedAvg()).join("a", "b").node)
    draws = np.random.default_rng(0).random(6000) < 0.3
    for i, all_here in enumerate(draws.tolist()):
        chosen, memory = policy.choose(memory, 1, VIEW if all_here else few, str(i))
        if i >= 1000:
            counts[chosen[0]] += 1
            sums[chosen[0]] += policy.weight(memory, Update(0, chosen[0], 0), 1.0)
        memory = policy.ended(memory, frozenset(chosen), VIEW)
    assert counts["c"] / 5000 == pytest.approx(0.15, abs=0.01)  # all that their absence allows
    for total in sums.values():
        assert total / 5000 == pytest.approx(0.25, rel=0.1)


def test_f3ast_ends_near_fedavgs_fixed_point() -> None:
    trainer = replace(TRAINER, start=1.0)
    played = play(f3ast(1, examples=SIZES, lr=0.03, trainer=trainer), q3(), 3000)
    assert np.mean(played.xs[1500:]) == pytest.approx(FIXED, abs=0.06)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("examples", lambda: play(importance(1, examples={"c0": 1}, trainer=TRAINER), q3(), 1)),
        ("examples", lambda: play(f3ast(1, examples={"c0": 1}, trainer=TRAINER), q3(), 1)),
        ("examples", lambda: f3ast(1, examples={}, trainer=TRAINER)),
        (r"examples\['a'\]", lambda: Importance({"a": 0})),
        ("mix", lambda: Importance(FOUR, "loss", 0.0)),
        ("by", lambda: Importance(FOUR, "speed")),  # type: ignore[arg-type]
        ("beta", lambda: ByRate(FOUR, 1, 0.0)),
        ("cohort", lambda: f3ast(examples=FOUR, trainer=TRAINER)),
    ],
)
def test_what_cannot_work_is_refused(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}:"):
        make()
