"""TiFL: profiles, tiers, credits, and rounds as long as one tier."""

from collections.abc import Callable

import numpy as np
import pytest

from shoal.algorithms.fedavg import FedAvg
from shoal.algorithms.tifl import ByTier, Profile, tifl
from shoal.core import Examples
from shoal.errors import ConfigError
from shoal.messages import Update
from shoal.simulation import Devices
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from shoal.view import View
from support import play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
SECONDS = {"a": 1.0, "b": 2.0, "c": 8.0, "d": 9.0}
VIEW = View(Script(FedAvg()).join(*SECONDS).node)
CLIENTS = {name: Examples(np.ones((2, 1)), np.zeros(2)) for name in SECONDS}


def test_one_tier_draws_like_fedavg() -> None:
    policy = ByTier(1, seconds=SECONDS)
    memory = policy.init()
    counts = dict.fromkeys(SECONDS, 0)
    for i in range(1000):
        for client in policy.choose(memory, 2, VIEW, str(i))[0]:
            counts[client] += 1
    for count in counts.values():
        assert count / 1000 == pytest.approx(0.5, abs=0.06)


def test_a_round_is_of_one_tier_and_as_long_as_its_slowest() -> None:
    devices = Devices(speeds={c: s / 5 for c, s in SECONDS.items()})
    algorithm = tifl(2, tier=ByTier(2, seconds=SECONDS), trainer=TRAINER)
    played = play(algorithm, CLIENTS, 60, devices=devices)
    times = [0.0] + [commit.time for commit in played.commits]
    assert set(np.round(np.diff(times), 6)) == {2.0, 9.0}
    for begin in times[:-1]:
        pair = {task.client for task in played.tasks if task.started == begin}
        assert pair in ({"a", "b"}, {"c", "d"})


def test_clients_are_profiled_first() -> None:
    policy = ByTier(2)
    memory = policy.init()
    for client, seconds in list(SECONDS.items())[:3]:
        memory = policy.seen(memory, Update(0, client, 0, duration=seconds), VIEW)
    assert policy.choose(memory, 2, VIEW, "r")[0] == ["d"]
    memory = policy.seen(memory, Update(0, "d", 0, duration=9.0), VIEW)
    assert policy.tiers_of(memory) == (("a", "b"), ("c", "d"))


def test_fixed_probabilities_and_credits() -> None:
    fast = ByTier(2, (1.0, 0.0), seconds=SECONDS)
    memory = fast.init()
    for i in range(20):
        chosen, memory = fast.choose(memory, 2, VIEW, str(i))
        assert set(chosen) == {"a", "b"}
    assert memory.used == (20, 0)
    limited = ByTier(2, (0.99, 0.01), credits=3, seconds=SECONDS)
    memory = limited.init()
    for i in range(6):
        _, memory = limited.choose(memory, 2, VIEW, str(i))
    assert memory.used == (3, 3)


def test_tiers_with_more_loss_become_likelier() -> None:
    policy = ByTier(2, adapt_every=2, seconds=SECONDS)
    memory = policy.init()
    for client, loss in zip(SECONDS, (1.0, 1.0, 3.0, 3.0), strict=True):
        memory = policy.seen(memory, Update(0, client, 0, metrics={"loss": loss}), VIEW)
    memory = policy.ended(memory, frozenset(), VIEW)
    assert memory.probabilities == (0.5, 0.5)
    assert policy.ended(memory, frozenset(), VIEW).probabilities == (0.25, 0.75)


def test_too_slow_clients_are_dropped() -> None:
    policy = ByTier(1, max_seconds=8.5, seconds=SECONDS)
    assert policy.tiers_of(policy.init()) == (("a", "b", "c"),)
    alone = View(Script(FedAvg()).join("d").node)  # nobody else is here
    assert policy.choose(policy.init(), 2, alone, "r")[0] == ["d"]


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("tiers", lambda: ByTier(0)),
        ("tiers", lambda: ByTier(3, seconds={"a": 1.0, "b": 1.0})),
        ("tiers", lambda: play(tifl(2, trainer=TRAINER), q3(), 1)),  # five tiers, three clients
        ("probabilities", lambda: ByTier(2, (0.5, 0.6))),
        ("max_seconds", lambda: ByTier(1, max_seconds=0.5, seconds=SECONDS)),
        ("cohort", lambda: tifl(trainer=TRAINER)),
        ("trainer", lambda: play(tifl(1, tier=ByTier(1, adapt_every=1), trainer=TRAINER), q3(), 2)),
    ],
)
def test_what_cannot_work_is_refused(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}:"):
        make()


def test_the_memory_is_plain() -> None:
    assert ByTier(2).init() == Profile({}, {}, (0.5, 0.5), (0, 0))
