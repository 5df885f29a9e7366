"""What the server tells of an algorithm is enough for a client, who trusts nothing of its own."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import shoal
from laws import examples
from laws.examples import ALGORITHM_EXAMPLES, Classified
from shoal.client import ClientState, fresh, work
from shoal.core import Examples
from shoal.errors import ConfigError
from shoal.experiment import to_toml
from shoal.messages import Task
from shoal.net.worker import described
from shoal.plain import Store, decode, encode, same

DATA = Examples(np.array([[0.5], [1.0], [2.0], [1.5], [3.0]]), np.array([1.0, 0.0, 2.0, 1.0, 0.0]))
names = pytest.mark.parametrize("name", sorted(ALGORITHM_EXAMPLES))


def toml(algorithm: Any) -> str:
    return to_toml(shoal.Experiment(None, shoal.data.digits(clients=6), algorithm, commits=3))


@names
def test_every_algorithm_is_rebuilt_from_what_the_server_sends(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model function of the user's has a public name.
    monkeypatch.setattr(examples, "line", examples._line, raising=False)
    monkeypatch.setattr(examples._line, "__qualname__", "line")
    algorithm = ALGORITHM_EXAMPLES[name]()
    trainer = algorithm.trainer
    if isinstance(trainer, Classified):  # for the laws' data; no part of the algorithm
        trainer = trainer.trainer
    algorithm = replace(algorithm, trainer=trainer.bind(None))
    mine = ["laws.examples"]  # a method may take a model function of the user's, which is trusted
    assert described(toml(algorithm), mine).algorithm == algorithm


@names
def test_a_clients_state_survives_its_process(name: str) -> None:
    """As plain data and tensors, rebuilt by the example of a new client's state."""
    algorithm = ALGORITHM_EXAMPLES[name]()
    model = algorithm.trainer.initial(0)
    task = Task(0, "c0", 0, config={})
    _, after = work(algorithm, task, model, DATA, None, 0)
    store: Store = {}
    plain = json.loads(json.dumps(encode(after, store)))
    found: ClientState = decode(ClientState, plain, store, like=fresh(algorithm, model))
    assert same(found, after)


@pytest.mark.parametrize(
    "kind",
    [
        "os:getcwd", "shoal.algorithms.fedavg:fedavg_nothing", "shoal.algorithms.scaffold:replace",
        "shoal.algorithms._per_step:Any", "shoal.algorithms._per_step:np.load",
        "shoal.algorithms._per_step:__builtins__", "shoal.algorithms.fedavg:FedAvg.handle",
        "shoal.trainers.numpy:np.fromfile", "shoal.algorithms.scaffold:Algorithm",
        "shoal.checkpoint:Loaded", "shoal.cli:main", "shoalx.algorithms:Part", "shoal.rules:os",
    ],
)  # fmt: skip
def test_a_server_names_nothing_else(kind: str) -> None:
    sent = toml(shoal.scaffold(4, population=6, trainer=shoal.numpy.Softmax(lr=0.1)))
    own = 'kind = "shoal.algorithms._per_step:PerStep"'
    assert own in sent
    described(sent)
    with pytest.raises(ConfigError):
        described(sent.replace(own, f'kind = "{kind}"'))
