"""Oort's utility, exploration and pacer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shoal.algorithms.fedavg import FedAvg
from shoal.algorithms.measured import Measured
from shoal.algorithms.oort import oort
from shoal.algorithms.oort_utility import Arm, OortMemory, Utility
from shoal.errors import ConfigError
from shoal.messages import Update
from shoal.simulation import Devices
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from shoal.view import View
from support import play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
SCRIPT = Script(FedAvg()).join("a", "b", "c", "d")
VIEW = View(SCRIPT.node)
PLAIN = Utility(alpha=0.0, uncertainty=0.0, explore=0.0, least=0.0, cutoff=0.0, clip=100.0)


def memory(**arms: Arm) -> OortMemory:
    return OortMemory(arms)


def test_without_penalty_and_with_equal_losses_clients_are_drawn_by_their_size() -> None:
    sizes = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    known = memory(**{c: Arm(size * 0.7, 1.0, 1, 1) for c, size in sizes.items()})
    picks = [PLAIN.choose(known, 1, VIEW, str(i))[0][0] for i in range(4000)]
    for client, size in sizes.items():
        assert picks.count(client) / 4000 == pytest.approx(size / 10, abs=0.025)


def test_twice_the_preferred_duration_quarters_the_utility() -> None:
    policy = replace(PLAIN, alpha=2.0)
    known = OortMemory({"a": Arm(1.0, 10.0), "b": Arm(1.0, 20.0), "c": Arm(1.0, 10.0)}, 1, 50.0)
    scores = policy.scores(known, ["a", "b", "c"])
    assert scores["b"] == pytest.approx(scores["a"] / 4)
    assert scores["c"] == scores["a"]


def test_long_absence_adds_a_bonus() -> None:
    policy = replace(PLAIN, uncertainty=0.1)
    known = OortMemory({"a": Arm(1.0, 1.0, 2), "b": Arm(1.0, 1.0, 50)}, 100)
    scores = policy.scores(known, ["a", "b"])
    assert scores["a"] - 1 == pytest.approx(np.sqrt(0.1 * np.log(100) / 2))
    assert scores["a"] > scores["b"]


def test_utility_is_size_times_root_mean_square_loss() -> None:
    update = Update(0, "a", 0, 9, duration=3.0, metrics={"loss": 2.0})
    assert PLAIN.seen(OortMemory(), update, VIEW).arms["a"] == Arm(18.0, 3.0, 1, 1)
    update = replace(update, metrics={"loss": 2.0, "loss_squared": 16.0})
    assert PLAIN.seen(OortMemory(), update, VIEW).arms["a"].utility == 36.0


def test_exploration_shrinks_and_takes_what_exploitation_leaves() -> None:
    policy = Utility(explore=0.5, decay=0.5, least=0.25)
    known = memory(a=Arm(1.0, 1.0, 1, 1), b=Arm(1.0, 1.0, 1, 1))
    for number, fresh in ((1, 1), (2, 0), (9, 0)):
        chosen = policy.choose(replace(known, round=number), 2, VIEW, "r")[0]
        assert len(set(chosen) & {"c", "d"}) == fresh
    assert len(policy.choose(known, 4, VIEW, "r")[0]) == 4
    assert len(policy.choose(OortMemory(), 3, VIEW, "r")[0]) == 3


def test_those_asked_often_enough_are_left_out_while_there_are_others() -> None:
    policy = replace(PLAIN, most=3)
    known = memory(a=Arm(9.0, 1.0, 1, 3), b=Arm(1.0, 1.0, 1, 2))
    assert "a" not in policy.choose(known, 3, VIEW, "r")[0]
    worn = memory(**{c: Arm(9.0, 1.0, 1, 3) for c in "abcd"})
    assert len(policy.choose(worn, 2, VIEW, "r")[0]) == 2


def test_the_pacer_prefers_longer_rounds_when_utility_stays_flat() -> None:
    policy = Utility(window=2, step=7.0)
    known = memory(a=Arm(1.0, 1.0, 1, 1))
    for _ in range(4):
        known = policy.ended(known, frozenset("a"), VIEW)
    assert known.percentile == 37.0


def test_slow_clients_come_less_often() -> None:
    devices = Devices(speeds={"c0": 1.0, "c1": 1.0, "c2": 30.0})
    policy = Utility(alpha=4.0, least=0.0)
    played = play(oort(1, utility=policy, trainer=Measured(TRAINER)), q3(), 120, devices=devices)
    counts = [sum(task.client == client for task in played.tasks) for client in q3()]
    assert counts[2] < 15 < min(counts[:2])


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("alpha", lambda: Utility(alpha=-1.0)),
        ("explore", lambda: Utility(explore=1.5)),
        ("percentile", lambda: Utility(percentile=120.0)),
        ("cohort", lambda: oort(trainer=TRAINER)),
        ("trainer", lambda: play(oort(1, trainer=TRAINER), q3(), 2)),  # reports no loss
    ],
)
def test_what_cannot_work_is_refused(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}:"):
        make()
