"""FedAvg with Shampoo's local steps, and the optimizers of torch that the trainer takes by name."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.core import Examples
from shoal.errors import ConfigError, MissingExtra
from shoal.experiment import from_toml, to_toml
from shoal.messages import Task
from shoal.rules import Proximal
from shoal.tensors import equal
from support import play

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_optimizer")

from torch import nn  # noqa: E402

from shoal.trainers.torch import SGD  # noqa: E402

FEATURES, CLASSES, ROWS = 12, 3, 240
TASK = Task(0, "c0", 0)
TRAINER = SGD(1.0, local_steps=60, batch=0)


def linear() -> Any:
    return nn.Linear(FEATURES, CLASSES)


def ill_conditioned(seed: int = 0, rows: int = ROWS) -> Examples:
    """Logistic regression whose inputs vary a thousand times more one way than another."""
    rng = np.random.default_rng(0)
    scale = 10.0 ** np.linspace(0, -1.5, FEATURES)
    rotation = np.linalg.qr(rng.standard_normal((FEATURES, FEATURES)))[0]
    weights = rng.standard_normal((FEATURES, CLASSES))
    z = np.random.default_rng(seed + 1).standard_normal((rows, FEATURES))
    return Examples(((z * scale) @ rotation).astype(np.float32), (2 * z @ weights).argmax(1))


def trained(trainer: Any, data: Examples, make: Any = linear, seed: int = 1) -> tuple[Any, Any]:
    trainer = trainer.bind(make)
    model = trainer.initial(0)
    before = model.dense.copy()
    payload, state = trainer.train(
        model, data, trainer.init(model), TASK, np.random.default_rng(seed)
    )
    assert np.array_equal(model.dense, before) and state == trainer.init(model)
    return model, payload


def loss(trainer: Any, data: Examples) -> float:
    model, payload = trained(trainer, data)
    local = model.with_flat(model.dense + payload.tensors.dense)
    return float(trainer.bind(linear).evaluate(local, data)["loss"])


def root(matrix: Any) -> Any:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**-0.25) @ vectors.T


def test_the_first_step_is_the_closed_form_by_blocks() -> None:
    data, lr, decay, epsilon = ill_conditioned(rows=40), 0.5, 0.9, 1e-3
    for block, pieces in ((256, [slice(0, FEATURES)]), (6, [slice(0, 6), slice(6, FEATURES)])):
        shampoo = shoal.fedshampoo(
            trainer=SGD(lr, local_steps=1, batch=0), block=block, decay=decay, epsilon=epsilon
        ).trainer
        model, payload = trained(shampoo, data)
        _, plain = trained(SGD(1.0, local_steps=1, batch=0), data)
        gradient = -plain.tensors["weight"].astype(np.float64)
        for where in pieces:
            g = gradient[:, where]
            left = decay * epsilon * np.eye(CLASSES) + (1 - decay) * g @ g.T
            right = decay * epsilon * np.eye(g.shape[1]) + (1 - decay) * g.T @ g
            wanted = -lr * root(left) @ g @ root(right)
            assert payload.tensors["weight"][:, where] == pytest.approx(wanted, rel=1e-3, abs=1e-4)
        assert payload.tensors["bias"] == pytest.approx(lr * plain.tensors["bias"], abs=1e-6)
        assert payload.tensors.layout == model.layout


def test_it_beats_the_best_plain_steps_on_an_ill_conditioned_problem() -> None:
    data = ill_conditioned()
    plain = min(loss(replace(TRAINER, lr=lr), data) for lr in (1.0, 3.0, 10.0, 30.0))
    second = loss(shoal.fedshampoo(trainer=TRAINER).trainer, data)
    assert second < 0.6 * plain
    grafted = shoal.fedshampoo(trainer=replace(TRAINER, lr=3.0), graft="adagrad").trainer
    assert loss(grafted, data) < 0.7 * plain


def test_it_does_so_in_a_federation_too_and_repeats_its_bits() -> None:
    clients = {f"c{i}": ill_conditioned(i, 80) for i in range(3)}
    trainer = SGD(1.0, local_steps=10, batch=0)

    def run(algorithm: Any) -> Any:
        bound = replace(algorithm, trainer=algorithm.trainer.bind(linear))
        return play(bound, clients, 6).node.model

    everyone = Examples(*(np.concatenate([getattr(c, n) for c in clients.values()]) for n in "xy"))
    measure = trainer.bind(linear).evaluate

    def best(method: Any, rates: tuple[float, ...]) -> float:
        models = [run(method(trainer=replace(trainer, lr=lr))) for lr in rates]
        return min(measure(model, everyone)["loss"] for model in models)

    second = [run(shoal.fedshampoo(trainer=trainer)) for _ in range(2)]
    assert equal(*second)
    plain = best(shoal.fedavg, (3.0, 10.0, 30.0))
    assert best(shoal.fedshampoo, (0.1, 0.3)) < 0.8 * plain


def test_roots_may_be_taken_less_often() -> None:
    data = ill_conditioned(rows=60)
    seldom = shoal.fedshampoo(trainer=replace(TRAINER, local_steps=3), every=100).trainer
    _, payload = trained(seldom, data)  # never in so few steps: the matrices are the identity
    _, plain = trained(replace(TRAINER, local_steps=3), data)
    assert payload.tensors.dense == pytest.approx(plain.tensors.dense, abs=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimizer_by_name_is_that_of_torch(momentum: float) -> None:
    data = ill_conditioned(rows=50)
    named = SGD(0.1, local_steps=9, batch=10, optimizer="SGD", options={"momentum": momentum})
    _, one = trained(named, data)
    _, two = trained(SGD(0.1, local_steps=9, batch=10, momentum=momentum), data)
    assert one.tensors.dense == pytest.approx(two.tensors.dense, rel=1e-5, abs=1e-7)


def test_adam_is_adams_loop_bit_for_bit() -> None:
    data = ill_conditioned(rows=40)
    adam = SGD(0.01, local_steps=7, batch=0, optimizer="AdamW", options={"weight_decay": 0.1})
    model, payload = trained(adam, data)
    module = linear()
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.array(model["weight"])))
        module.bias.copy_(torch.from_numpy(np.array(model["bias"])))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1)
    rng = np.random.default_rng(1)
    rng.integers(2**63)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(7):
        order = rng.permutation(40)
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            module(torch.from_numpy(data.x)[order]), torch.from_numpy(data.y)[order]
        ).backward()
        optimizer.step()
    torch.set_num_threads(threads)
    moved = module.weight.detach().numpy() - model["weight"]
    assert np.array_equal(payload.tensors["weight"], moved)


def test_one_task_leaves_nothing_to_the_next() -> None:
    data = ill_conditioned(rows=30)
    trainer = shoal.fedshampoo(trainer=replace(TRAINER, local_steps=4)).trainer.bind(linear)
    model = trainer.initial(0)
    args = (model, data, trainer.init(model), TASK)
    first, _ = trainer.train(*args, np.random.default_rng(3))
    again, _ = trainer.train(*args, np.random.default_rng(3))
    assert equal(first.tensors, again.tensors)
    jobs = [shoal.core.Job(*args, np.random.default_rng(3)) for _ in range(2)]
    assert trainer.cohort == 1
    assert all(equal(p.tensors, first.tensors) for p, _ in trainer.train_many(jobs))


def test_clipping_goes_before_the_optimizer() -> None:
    data = ill_conditioned(rows=30)
    named = SGD(1.0, local_steps=1, batch=0, clip=0.01, optimizer="SGD")
    _, payload = trained(named, data)
    assert np.linalg.norm(payload.tensors.dense) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"optimizer": "Shampooo"}, "optimizer: no 'Shampooo' in torch.optim"),
        ({"optimizer": "Adm"}, "did you mean .*Adam"),
        ({"optimizer": "nowhere:Adam"}, "optimizer: 'nowhere:Adam'"),
        ({"optimizer": "torch.nn:Linear"}, "optimizer: no 'Linear'"),
        ({"optimizer": "Adam", "options": {"lr": 1.0}}, "options.lr: Adam has none"),
        ({"optimizer": "Adam", "options": {"beta": 1.0}}, "did you mean beta"),
        ({"optimizer": "Adam", "momentum": 0.9}, "leave out rule, momentum and weight_decay"),
        ({"optimizer": "Adam", "rule": Proximal(1.0)}, "makes its own steps"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SGD(0.1, **fields)


def test_numbers_out_of_range_and_other_trainers_are_refused() -> None:
    for bad in ({"block": 0}, {"momentum": 1.0}, {"decay": 1.0}, {"every": 0}, {"graft": "x"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            shoal.fedshampoo(trainer=TRAINER, **bad)
    with pytest.raises(ConfigError, match=r"MLP takes no optimizer: use torch.SGD"):
        shoal.fedshampoo(trainer=shoal.numpy.MLP(0.1))
    with pytest.raises(ConfigError, match="options: Adam"):
        trained(SGD(0.1, optimizer="Adam", options={"eps": -1.0}), ill_conditioned(rows=5))


def test_parameters_of_several_types_are_refused() -> None:
    def mixed() -> Any:
        return nn.Sequential(linear().to(torch.bfloat16), nn.Linear(CLASSES, CLASSES))

    with pytest.raises(ConfigError, match="parameters of one type"):
        trained(SGD(0.1, optimizer="Adam"), ill_conditioned(rows=5), mixed)


def test_it_is_toml_and_back() -> None:
    experiment = shoal.Experiment(
        model=None, data=shoal.data.digits(clients=3), commits=1,
        algorithm=shoal.fedshampoo(2, trainer=TRAINER),
    )  # fmt: skip
    text = to_toml(experiment)
    assert "pytorch_optimizer:ScalableShampoo" in text
    assert from_toml(text) == experiment


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(MissingExtra, match=r"pip install 'shoal\[optim\]'"):
        shoal.fedshampoo(trainer=TRAINER)
