"""FedAU against its oracles: equal counting, cut-offs, closed forms, traps of public code."""

from collections.abc import Callable

import numpy as np
import pytest

from shoal.algorithms.fedau import ByIntervals, Intervals, fedau
from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.errors import ConfigError
from shoal.messages import Update
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from shoal.view import View
from support import Q3_A, Q3_B, play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
VIEW = View(Script(FedAvg()).node)


def omega(policy: ByIntervals, pattern: list[bool]) -> list[float]:
    """The weight times N before each round of one client's participation."""
    memory, found = policy.init(), []
    for here in pattern:
        found.append(policy.weight(memory, Update(0, "a", 0), 1.0) * policy.population)
        memory = policy.ended(memory, frozenset(["a"] if here else []), VIEW)
    return found


@pytest.mark.parametrize("cutoff", [None, 1, 4])
def test_e6_full_participation_is_fedavg_with_equal_weights(cutoff: int | None) -> None:
    ours = play(fedau(population=3, cutoff=cutoff, trainer=TRAINER), q3(), 30)
    theirs = play(fedavg(weighting="equal", trainer=TRAINER), q3(), 30)
    assert ours.xs == pytest.approx(theirs.xs, rel=1e-13)


def test_e6_a_cutoff_of_one_averages_over_all_with_zeros_for_the_absent() -> None:
    ours = play(fedau(1, population=3, cutoff=1, trainer=TRAINER), q3(), 200)
    assert {task.weight for task in ours.tasks} == {1 / 3}


@pytest.mark.parametrize(
    ("p", "cutoff", "expected"),
    [(0.02, 10, 9.1464), (0.02, 50, 31.7915), (0.1, 10, 6.5132), (0.1, 50, 9.9485)],
)
def test_e6_omega_has_its_closed_form_under_bernoulli_participation(
    p: float, cutoff: int, expected: float
) -> None:
    assert (1 - (1 - p) ** cutoff) / p == pytest.approx(expected, abs=1e-4)
    draws = np.random.default_rng(0).random(40_000) < p
    past = Intervals()
    for now, here in enumerate(draws.tolist(), 1):
        if here:
            past = past.until(now - 1, cutoff).ended(now)
    assert past.mean == pytest.approx(expected, rel=0.03)


def test_cyclic_participation_counts_its_period() -> None:
    pattern = [round_ % 4 == 2 for round_ in range(40)]
    found = omega(ByIntervals(10), pattern)
    assert found[2] == 1  # no interval has ended yet
    assert found[6] == 3  # the first one began with the run
    assert found[38] == pytest.approx((3 + 8 * 4) / 9)
    assert omega(ByIntervals(10, cutoff=2), pattern)[38] == pytest.approx(
        np.mean([2, 1] + [2] * 17)  # the current absence has been cut once
    )


def test_trap_an_interval_that_ends_in_a_round_does_not_count_in_it() -> None:
    found = omega(ByIntervals(1), [False, False, True, True])
    assert found == [1, 1, 1, 3]


def test_trap_the_sum_is_divided_by_all_clients_not_by_participants() -> None:
    played = play(fedau(1, population=3, trainer=TRAINER), q3(), 1)
    (task,) = played.tasks
    at = int(task.client[1])
    c = 1 - (1 - 0.1 * Q3_A[at]) ** 5
    assert played.xs[1] == pytest.approx(10 + c * (Q3_B[at] - 10) / 3)


def test_every_client_counts_the_same_however_rarely_it_comes() -> None:
    """Bernoulli participation of unequal probability: the long-run weight is 1/N for each."""
    chances, rounds = {"a": 0.9, "b": 0.5, "c": 0.15}, 6000
    draws = np.random.default_rng(1).random((rounds, 3))
    policy = ByIntervals(3)
    memory, sums = policy.init(), dict.fromkeys(chances, 0.0)
    for row in draws:
        here = frozenset(c for c, u in zip(chances, row, strict=True) if u < chances[c])
        for client in here:
            sums[client] += policy.weight(memory, Update(0, client, 0), 1.0)
        memory = policy.ended(memory, here, VIEW)
    for total in sums.values():
        assert total / rounds == pytest.approx(1 / 3, rel=0.06)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("population", lambda: fedau(population=0, trainer=TRAINER)),
        ("cutoff", lambda: fedau(population=3, cutoff=0, trainer=TRAINER)),
        ("lr", lambda: fedau(population=3, lr=0, trainer=TRAINER)),
        ("population", lambda: play(fedau(population=2, trainer=TRAINER), q3(), 1)),
        (
            "rounds.replace_failed",
            lambda: fedau(population=3, rounds=FedAvg(replace_failed=True), trainer=TRAINER),
        ),
    ],
)
def test_what_cannot_work_is_refused(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}:"):
        make()
