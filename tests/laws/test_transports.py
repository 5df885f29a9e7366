"""Every transport passes one tiny run, and each gives what is particular to it."""

from collections.abc import Callable

import pytest

from shoal import algorithms as al
from shoal.aggregators import Mean
from shoal.combinators import evaluate_every, relay, until
from shoal.core import Algorithm, Chain
from shoal.messages import EvaluationRecord
from shoal.node import Node
from shoal.planes import Local
from shoal.simulation import Constant, Devices
from shoal.trainers.quadratic import Quadratic
from shoal.transports import TRANSPORTS, Simulator, Threads, Transport, Tree, steps
from support import q3

ALGORITHM = al.fedavg(None, trainer=Quadratic(lr=0.1, local_steps=5, start=10.0))
FIXED_POINT = 1.277782


def _loss(model: object) -> dict[str, float]:
    return {"x": float(model["x"])}  # type: ignore[index]


def simulator() -> Transport:
    return Simulator(ALGORITHM, q3(), Devices(), evaluate=_loss)


def threads() -> Transport:
    return Threads(ALGORITHM, q3(), evaluate=_loss, workers=3)


def tree() -> Transport:
    clients = q3()
    model = ALGORITHM.trainer.initial(0)
    relays = {}
    for name, members in (("east", ("c0", "c2")), ("west", ("c1",))):
        node = Node(relay(ALGORITHM.coordinator), Local(Mean(), Chain()), model)
        below = {client: clients[client] for client in members}
        relays[name] = (node, Simulator(ALGORITHM, below, Devices(), begin=False))
    return Tree(relays, Devices(speed=Constant(1.0)), evaluate=_loss)


MADE: dict[str, Callable[[], Transport]] = {
    "simulator": simulator,
    "threads": threads,
    "tree": tree,
}


def run(algorithm: Algorithm, transport: Transport, commits: int) -> tuple[Node, list[float]]:
    coordinator = evaluate_every(until(algorithm.coordinator, commits=commits), 1)
    plane = Local(algorithm.aggregator, algorithm.optimizer)
    node = Node(coordinator, plane, algorithm.trainer.initial(0))
    seen = []
    try:
        for effects in steps(node, transport):
            seen += [e.metrics["x"] for e in effects if isinstance(e, EvaluationRecord)]
    finally:
        transport.close()
    return node, seen


def test_every_transport_is_here() -> None:
    assert set(MADE) == set(TRANSPORTS)


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_tiny_run_gives_the_closed_form(name: str) -> None:
    node, xs = run(ALGORITHM, MADE[name](), 30)
    assert node.version == 30
    assert sorted(xs, reverse=True)[:4] == pytest.approx(
        [10, 4.84605, 2.737564, 1.874980], abs=1e-6
    )
    assert float(node.model["x"]) == pytest.approx(FIXED_POINT, abs=1e-6)


def test_threads_raise_the_errors_of_user_code() -> None:
    class Broken(Quadratic):
        def train(self, *args: object) -> object:  # type: ignore[override]
            raise RuntimeError("a bug in the trainer")

    algorithm = al.fedavg(None, trainer=Broken(lr=0.1))
    with pytest.raises(RuntimeError, match="a bug in the trainer"):
        run(algorithm, Threads(algorithm, q3(), evaluate=_loss), 2)
