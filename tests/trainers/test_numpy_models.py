"""The NumPy networks against PyTorch's autograd and plain loops."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shoal.core import Examples
from shoal.errors import ConfigError, DataError
from shoal.messages import Task
from shoal.trainers.numpy import MLP, Softmax


def data(n=30, features=7, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(size=(n, features)), rng.integers(0, classes, n))


def twin(hidden):
    """A torch network of the same shape."""
    layers = []
    for a, b in zip((7, *hidden), (*hidden, 4), strict=True):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def trainer_for(hidden, **settings):
    kind = MLP(hidden=hidden, **settings) if hidden else Softmax(**settings)
    return kind.bind(lambda: (7, 4))


@pytest.mark.parametrize("hidden", [(), (5,), (6, 5)])
def test_one_step_is_the_gradient_of_autograd(hidden):
    trainer = trainer_for(hidden, lr=1.0, local_steps=1, batch=0)
    model, examples = trainer.initial(3), data()
    payload, _ = trainer.train(model, examples, (), Task(0, "c", 0), np.random.default_rng(0))
    module = twin(hidden)
    with torch.no_grad():
        for p, value in zip(module.parameters(), model.values(), strict=True):
            p.copy_(torch.tensor(value))
    x = torch.tensor(examples.x.astype(np.float32)).double()
    loss = F.cross_entropy(module(x), torch.tensor(examples.y))
    loss.backward()
    loss = float(loss.detach())
    for p, delta in zip(module.parameters(), payload.tensors.values(), strict=True):
        assert -delta == pytest.approx(p.grad.numpy(), rel=1e-4, abs=1e-6)
    assert payload.metrics["loss"] == pytest.approx(loss, rel=1e-5)
    got = trainer.evaluate(model, examples)
    right = (module(x).argmax(1).numpy() == examples.y).mean()
    assert got == pytest.approx({"loss": loss, "accuracy": right}, rel=1e-5)


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_epochs_follow_a_plain_loop(hidden):
    trainer = trainer_for(hidden, lr=0.1, epochs=2, batch=8)
    model, examples = trainer.initial(3), data()
    payload, _ = trainer.train(model, examples, (), Task(0, "c", 0), np.random.default_rng(5))
    rng, module = np.random.default_rng(5), twin(hidden)
    with torch.no_grad():
        for p, value in zip(module.parameters(), model.values(), strict=True):
            p.copy_(torch.tensor(value))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    steps = 0
    for _ in range(2):
        order = rng.permutation(30)
        for at in range(0, 30, 8):
            rows = order[at : at + 8]
            optimizer.zero_grad()
            F.cross_entropy(
                module(torch.tensor(examples.x[rows])), torch.tensor(examples.y[rows])
            ).backward()
            optimizer.step()
            steps += 1
    assert payload.steps == steps == 8
    for p, base, delta in zip(
        module.parameters(), model.values(), payload.tensors.values(), strict=True
    ):
        assert base + delta == pytest.approx(p.detach().numpy(), rel=1e-3, abs=1e-5)


def test_softmax_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 7))
    examples = Examples(x, (x @ rng.normal(size=(7, 4))).argmax(1))
    trainer = trainer_for((), lr=0.5, epochs=20)
    model = trainer.initial(0)
    payload, _ = trainer.train(model, examples, (), Task(0, "c", 0), rng)
    assert trainer.evaluate(model, examples)["accuracy"] < 0.6
    after = model.with_flat(model.dense + payload.tensors.dense)
    assert trainer.evaluate(after, examples)["accuracy"] > 0.95


def test_a_diverging_run_sends_what_it_has():
    trainer = trainer_for((5,), lr=1e30, local_steps=5)
    payload, _ = trainer.train(
        trainer.initial(0), data(), (), Task(0, "c", 0), np.random.default_rng(0)
    )
    assert not payload.tensors.finite()


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="features"):
        Softmax(lr=0.1).initial(0)
    with pytest.raises(ConfigError, match="hidden"):
        MLP(lr=0.1, hidden=(0,))
    trainer = trainer_for((), lr=0.1)
    model = trainer.initial(0)
    for bad, hint in (
        (data(classes=9), "class numbers"),
        (data(features=8), "inputs of 8"),
        (Examples(np.zeros((2, 7)), np.zeros(2)), "class numbers"),
    ):
        with pytest.raises(DataError, match=hint):
            trainer.evaluate(model, bad)


def test_images_are_flattened_and_rows_of_evaluation_add_up():
    trainer = trainer_for((), lr=0.1)
    model, examples = trainer.initial(0), data(n=5000)
    images = Examples(examples.x.reshape(5000, 7, 1), examples.y)
    assert trainer.evaluate(model, images) == trainer.evaluate(model, examples)
    halves = [trainer.evaluate(model, examples.take(np.arange(a, a + 2500))) for a in (0, 2500)]
    mean = {k: (halves[0][k] + halves[1][k]) / 2 for k in ("loss", "accuracy")}
    assert trainer.evaluate(model, examples) == pytest.approx(mean, rel=1e-5)
