"""FedBuff against FedAsync, FedAvg, its own counting rule and its closed fixed point."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shoal.algorithms.fedasync import fedasync
from shoal.algorithms.fedavg import fedavg
from shoal.algorithms.fedbuff import FedBuff, Normalize, fedbuff
from shoal.errors import ConfigError
from shoal.messages import Aggregate, Commit, Discard, Dispatch, Timer
from shoal.simulation import Devices, Exponential
from shoal.staleness import SQRT, Constant, Hinge, Staleness
from shoal.tensors import equal
from shoal.testing import Script
from shoal.trainers.quadratic import Quadratic
from shoal.transforms import Adam, Scale
from support import Q3_A, Q3_B, play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)
UNEQUAL = Devices(speeds={"c0": 1.0, "c1": 3**0.5, "c2": 28**0.5})  # no two at one instant
REFILL = Timer("refill", 0.0)


def test_every_kth_arrival_is_a_commit_and_staleness_counts_commits() -> None:
    script = Script(FedBuff(buffer=2)).join("a", "b", "c")
    assert script.start() == [Dispatch("a"), Dispatch("b"), Dispatch("c")]
    assert script.update("a") == [Aggregate(0, 0.5), REFILL]
    assert script.wait(0) == [Dispatch("a")]
    assert script.update("a") == [Aggregate(3, 0.5), Commit(), REFILL]
    assert script.update("b") == [Aggregate(1, SQRT(1) / 2), REFILL]
    assert script.update("c") == [Aggregate(2, SQRT(1) / 2), Commit(), REFILL]
    assert script.wait(0) == [Dispatch("a"), Dispatch("b"), Dispatch("c")]
    assert script.task("a").version == 2


def test_normalized_by_weights_the_mean_divides() -> None:
    script = Script(FedBuff(buffer=4, normalize="weights")).join("a")
    script.start()
    assert script.update("a") == [Aggregate(0, 1.0), REFILL]


def test_a_free_place_goes_to_a_random_idle_client() -> None:
    script = Script(FedBuff(concurrency=2)).join(*"abcde")
    assert len(script.start()) == 2
    seen: Counter[str] = Counter()
    for _ in range(200):
        busy = sorted(task.client for task in script.node.tasks.values())
        assert len(busy) == 2
        seen.update(busy)
        script.update(busy[0])
        script.wait(0)
    assert set(seen) == set("abcde")


def test_failures_departures_and_newcomers_fill_places() -> None:
    script = Script(FedBuff(concurrency=1))
    assert script.start() == []
    script.arrive("a")
    assert script.wait(0) == [Dispatch("a")]
    script.arrive("b")
    assert script.wait(0) == []
    script.leave("a")
    assert script.wait(0) == [Dispatch("b")]
    script.fail("b")
    assert script.wait(0) == [Dispatch("b")]


def test_what_is_too_stale_is_thrown_away_and_does_not_count() -> None:
    script = Script(FedBuff(buffer=1, tau_max=0)).join("a", "b")
    script.start()
    assert script.update("a")[1] == Commit()
    assert script.update("b") == [Discard(1, "staleness 1"), REFILL]
    assert script.node.version == 1


def test_a_buffer_that_does_not_fill_is_flushed() -> None:
    script = Script(FedBuff(buffer=3, flush_after=10.0)).join("a", "b")
    script.start()
    assert script.update("a") == [Aggregate(0, 1 / 3), Timer("flush 0", 10.0), REFILL]
    assert script.wait(4.0) == [Dispatch("a")]
    assert script.update("b") == [Aggregate(1, 1 / 3), Timer("refill", 4.0)]
    assert script.wait(6.0) == [Dispatch("b"), Commit()]
    for client in "ab":
        script.update(client)
        script.wait(0)
    full = script.update("a")
    assert full[1:3] == [Commit(), Timer("flush 1", None)]
    assert script.wait(100.0) == [Dispatch("a")]
    assert script.node.version == 2


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("buffer", lambda: FedBuff(buffer=0)),
        ("concurrency", lambda: FedBuff(concurrency=0)),
        ("flush_after", lambda: FedBuff(flush_after=0.0)),
        ("tau_max", lambda: FedBuff(tau_max=-1)),
        ("normalize", lambda: FedBuff(normalize="k")),  # type: ignore[arg-type]
        ("lr", lambda: fedbuff(lr=0.0, trainer=TRAINER)),
    ],
)
def test_bad_hyperparameters_name_their_field(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}:"):
        make()


@pytest.mark.parametrize("s", [SQRT, Constant(), Hinge(1.0, 2.0)])
def test_a_buffer_of_one_is_fedasync_on_deltas(s: Staleness) -> None:
    one, two = (
        play(algorithm, q3(), 60, devices=UNEQUAL)
        for algorithm in (
            fedbuff(1, lr=0.7, staleness=s, trainer=TRAINER),
            fedasync(0.7, mode="delta", staleness=s, trainer=TRAINER),
        )
    )
    assert [(t.client, t.version, t.staleness) for t in one.tasks] == [
        (t.client, t.version, t.staleness) for t in two.tasks
    ]
    assert one.xs == pytest.approx(two.xs, rel=1e-14)


def test_a_buffer_of_one_with_a_rate_of_one_is_fedasync_bit_for_bit() -> None:
    one = play(fedbuff(1, trainer=TRAINER), q3(), 60, devices=UNEQUAL)
    two = play(fedasync(1.0, mode="delta", trainer=TRAINER), q3(), 60, devices=UNEQUAL)
    assert all(equal(a, b) for a, b in zip(one.models, two.models, strict=True))


def test_a_buffer_as_large_as_the_cohort_at_equal_speeds_is_fedavg() -> None:
    average = play(fedavg(3, weighting="equal", trainer=TRAINER), q3(), 30)
    by_weights = play(fedbuff(3, normalize="weights", trainer=TRAINER), q3(), 30)
    assert {task.staleness for task in by_weights.tasks} == {0}
    # The same folds and one division: the same bits.
    assert all(equal(a, b) for a, b in zip(average.models, by_weights.models, strict=True))
    # Every weight divided instead of the sum: the same up to rounding.
    by_k = play(fedbuff(3, trainer=TRAINER), q3(), 30)
    assert by_k.xs == pytest.approx(average.xs, rel=1e-14)


def test_with_a_buffer_of_a_power_of_two_both_normalizations_are_fedavg_bit_for_bit() -> None:
    clients = {**q3(), "c3": q3()["c0"]}
    average = play(fedavg(4, weighting="equal", trainer=TRAINER), clients, 30)
    for normalize in ("K", "weights"):
        kind: Normalize = normalize  # type: ignore[assignment]
        other = play(fedbuff(4, normalize=kind, trainer=TRAINER), clients, 30)
        assert all(equal(a, b) for a, b in zip(average.models, other.models, strict=True))


@pytest.mark.parametrize(("buffer", "concurrency"), [(1, None), (3, 2), (4, None), (10, 5)])
def test_versions_are_arrivals_over_k_rounded_down(buffer: int, concurrency: int | None) -> None:
    clients = {f"{kind}.{i}": data for kind, data in q3().items() for i in range(3)}
    algorithm = fedbuff(buffer, concurrency=concurrency, trainer=TRAINER)
    devices = Devices(speed=Exponential(1.0), jitter=0.4)
    played = play(algorithm, clients, 25, devices=devices)
    arrivals = version = 0
    for record in played.records:
        if type(record).__name__ == "TaskRecord" and getattr(record, "outcome", "") == "aggregated":
            arrivals += 1
        elif type(record).__name__ == "CommitRecord":
            version = record.version  # type: ignore[union-attr]
            assert version == arrivals // buffer
            assert record.updates == buffer  # type: ignore[union-attr]
    assert (version, arrivals) == (25, 25 * buffer)
    assert max(commit.busy for commit in played.commits) < (concurrency or len(clients))


def test_memory_is_constant_whatever_the_buffer() -> None:
    script = Script(FedBuff(buffer=50)).join("a", "b", "c")
    script.start()
    for _ in range(30):
        for client in "abc":
            script.update(client)
            assert not script.node.held
        script.wait(0)


def test_the_fixed_point_follows_participation() -> None:
    """At steady state sum of f c (b - x) = 0, f the share of arrivals."""
    devices = Devices(speeds={"c0": 1.0, "c1": 2.0, "c2": 5.0}, jitter=0.5)
    algorithm = fedbuff(3, lr=0.05, staleness=Constant(), trainer=replace(TRAINER, start=1.0))
    played = play(algorithm, q3(), 3000, devices=devices)
    arrivals = Counter(task.client for task in played.tasks if task.outcome == "aggregated")
    f = np.array([arrivals[client] for client in q3()]) / sum(arrivals.values())
    assert f == pytest.approx(np.array([10, 5, 2]) / 17, rel=0.03)
    c = 1 - (1 - 0.1 * np.array(Q3_A)) ** 5
    expected = sum(f * c * Q3_B) / sum(f * c)
    assert np.mean(played.xs[500:]) == pytest.approx(expected, abs=0.02)
    assert abs(expected - sum(c * Q3_B) / sum(c)) > 0.5


def test_server_optimizers_go_before_the_rate() -> None:
    assert fedbuff(3, trainer=TRAINER, optimizer=Adam(lr=0.1)).optimizer == Adam(lr=0.1)
    slow = play(fedbuff(3, lr=0.25, trainer=TRAINER, optimizer=Scale(2.0)), q3(), 10)
    half = play(fedbuff(3, lr=0.5, trainer=TRAINER), q3(), 10)
    assert slow.xs == half.xs
