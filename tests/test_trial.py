"""What would end a run at once is refused before it begins, with the reason and what works."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from laws.examples import ALGORITHM_EXAMPLES, EXAMPLES
from shoal import trial
from shoal.algorithms import ALGORITHMS
from shoal.algorithms._codes import GradientCode, share
from shoal.algorithms.fedavg import FedAvg
from shoal.algorithms.measured import Measured
from shoal.algorithms.tifl import ByTier
from shoal.core import Algorithm, Examples
from shoal.data import Federation
from shoal.errors import ConfigError, DataError
from shoal.experiment import Experiment, build
from shoal.runner import execute, simulate
from shoal.simulation import Constant, Devices
from shoal.trainers.quadratic import Quadratic

TRAINER = Quadratic(lr=0.1, local_steps=5)
LATE = Devices(speeds=dict(zip(EXAMPLES, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), strict=True)))


@dataclass(frozen=True)
class Given:
    """Six quadratic clients, or what is given in their place."""

    pieces: Any = None

    def load(self, seed: int) -> Federation:
        pieces = self.pieces or {
            name: Examples(np.full((count, 1), 1.0 + i), np.full(count, float(i % 2)))
            for i, (name, count) in enumerate(EXAMPLES.items())
        }
        x, y = (np.concatenate([getattr(p, name) for p in pieces.values()]) for name in "xy")
        ends = np.cumsum([0, *(len(piece) for piece in pieces.values())])
        spans = zip(pieces, ends[:-1], ends[1:], strict=True)
        parts = {name: np.arange(begin, end) for name, begin, end in spans}
        return Federation(Examples(x, y), parts, Examples(x, y))


def of(algorithm: Algorithm, **fields: Any) -> Experiment:
    fields = {"commits": 2, "evaluate_every": 2, "data": Given(), **fields}
    return Experiment(model=None, algorithm=algorithm, **fields)


def tried(algorithm: Algorithm, **fields: Any) -> None:
    trial.check(build(of(algorithm, **fields)))


def refused(algorithm: Algorithm, match: str, **fields: Any) -> None:
    with pytest.raises(ConfigError, match=match):
        list(simulate(of(algorithm, **fields)))


def coded() -> Given:
    shape = GradientCode(tuple(EXAMPLES), tuple(EXAMPLES.values()), 0)
    pieces = [Examples(np.ones((n, 1)), np.ones(n)) for n in EXAMPLES.values()]
    return Given(share(pieces, shape))


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_methods_of_the_library_are_let_through(name: str) -> None:
    algorithm = ALGORITHM_EXAMPLES[name]()
    # These are bound already; `bind(None)` leaves them as they are, where they have it.
    if not hasattr(algorithm.trainer, "bind"):
        object.__setattr__(algorithm.trainer, "bind", lambda model: algorithm.trainer)
    tried(algorithm, data=coded() if name == "gradient_coding" else Given())


def test_a_deadline_shorter_than_the_fastest_client() -> None:
    refused(
        shoal.fedavg(4, deadline=4.0, trainer=TRAINER),
        r"deadline: no round could end: the fastest client needs 5 s, and the deadline is 4 s",
        devices=LATE,
    )
    refused(
        shoal.fedavg(4, deadline=14.0, quorum=3, trainer=TRAINER), r"the 3 of a quorum need 15 s",
        devices=LATE,
    )  # fmt: skip
    tried(shoal.fedavg(4, deadline=15.0, quorum=3, trainer=TRAINER), devices=LATE)
    slow_link = replace(LATE, up=Constant(10.0))
    refused(
        shoal.fedavg(4, deadline=10.0, trainer=TRAINER), r"needs \d+\.?\d* s", devices=slow_link
    )
    # One step is enough for a method that fits the work to the deadline.
    tried(shoal.partial_work(2.0, max_steps=5, trainer=TRAINER), devices=LATE)
    refused(shoal.partial_work(0.5, max_steps=5, trainer=TRAINER), "needs 1 s", devices=LATE)
    # With jitter nobody can know.
    tried(shoal.fedavg(4, deadline=4.0, trainer=TRAINER), devices=replace(LATE, jitter=0.5))


def test_participation_statistics_that_are_missing() -> None:
    some = {"c0": 5, "c1": 3}
    for method in (shoal.importance, shoal.f3ast):
        refused(method(2, examples=some, trainer=TRAINER), r"examples: nothing is known of 4")
    refused(shoal.fedau(2, population=3, trainer=TRAINER), r"population: 3 is less than the 6")


def test_tiers_without_clients() -> None:
    refused(
        shoal.tifl(2, tier=ByTier(7), trainer=Measured(TRAINER)), r"tiers: 7 tiers for 6 clients"
    )
    with pytest.raises(ConfigError, match="tier 1 has no clients: leave it out"):
        shoal.fedat((("c0",), ()), trainer=TRAINER)


def test_losses_that_nobody_reports() -> None:
    needs_loss = [
        shoal.oort(2, trainer=TRAINER),
        shoal.importance(2, examples=EXAMPLES, by="loss", trainer=TRAINER),
        shoal.tifl(2, tier=ByTier(3, adapt_every=2), trainer=TRAINER),
        shoal.power_of_choice(2, candidates=4, ask=False, trainer=TRAINER),
    ]
    for algorithm in needs_loss:
        refused(algorithm, r"trainer: reports no 'loss'.*wrap it in .*Measured")
        tried(replace(algorithm, trainer=Measured(TRAINER)))
    tried(shoal.tifl(2, tier=ByTier(3), trainer=TRAINER))  # which does not adapt
    tried(shoal.power_of_choice(2, candidates=4, trainer=TRAINER))  # which asks


def test_gradient_coding_without_replicated_data() -> None:
    shape = GradientCode(tuple(EXAMPLES), tuple(EXAMPLES.values()), 1)
    held = {client: (i,) for i, client in enumerate(EXAMPLES)}
    with pytest.raises(ConfigError, match=r"placement: .*replicate the data, or use fedavg\("):
        shoal.gradient_coding(shape, trainer=TRAINER, placement=held)
    with pytest.raises(DataError, match=r"8: gradient coding needs data that is replicated as"):
        tried(shoal.gradient_coding(shape, trainer=TRAINER))
    five = GradientCode(tuple(EXAMPLES)[:5], tuple(EXAMPLES.values())[:5], 1)
    refused(shoal.gradient_coding(five, trainer=TRAINER), r"'c5' is none: it holds no part")


def test_backups_without_replicas() -> None:
    with pytest.raises(
        ConfigError, match=r"replicas: no data lies on two .*fedavg\(over_selection"
    ):
        shoal.backup((("c0",), ("c1",)), trainer=TRAINER)
    refused(shoal.backup((("c0", "c1"),), trainer=TRAINER), "'c2' is in no group")


def test_an_upload_that_the_aggregator_cannot_read() -> None:
    softmax = shoal.numpy.Softmax(lr=0.1, features=64, classes=10)
    algorithm = shoal.homomorphic(3, codec=shoal.TopK(0.1), cells=400, trainer=softmax)
    broken = replace(algorithm, upload=shoal.TopK(0.1))
    digits = shoal.data.digits(clients=6)
    refused(broken, r"aggregator: cannot take what clients send: .*400 cells", data=digits)
    tried(algorithm, data=digits)


def test_nothing_is_left_behind_and_nothing_is_drawn_twice(tmp_path: Path) -> None:
    algorithm = shoal.fedavg(4, deadline=4.0, trainer=TRAINER)
    with pytest.raises(ConfigError):
        execute(of(algorithm, devices=LATE), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    good = of(shoal.fedavg(3, trainer=TRAINER), commits=4)
    built = build(good)
    trial.check(built)
    assert built.node.version == 0 and built.node.next_id == 0
    assert [r.metrics for r in simulate(good)] == [r.metrics for r in simulate(good)]


def test_the_view_draws_what_the_run_will_draw() -> None:
    asked = []

    class Spy(FedAvg):
        def on_start(self, state: Any, view: Any) -> Any:
            state, actions = super().on_start(state, view)
            asked.append([a.client for a in actions if hasattr(a, "client")])
            return state, actions

    algorithm = replace(shoal.fedavg(3, trainer=TRAINER), coordinator=Spy(3))
    list(simulate(of(algorithm, commits=1)))
    assert len(asked[0]) == 3 and asked[0] == asked[1]
