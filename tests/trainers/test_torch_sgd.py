"""The PyTorch trainer against plain loops, bit for bit, and its handling of unusual modules."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_modules import data, dropped, network, normed, train

from shoal.core import Examples
from shoal.errors import ConfigError
from shoal.messages import Task
from shoal.rules import ControlVariate, Plain, Proximal
from shoal.tensors import equal
from shoal.trainers.torch import SGD

TASK = Task(0, "c", 0)


@pytest.fixture(autouse=True)
def _one_thread():
    """The trainer's default, also for the loops that it is compared with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain_loop(make, model, examples, seed, epochs, batch, clip=None, mu=0.0, **settings):
    """An ordinary torch training loop from the same start in the same order; the final values."""
    module, rng = make(), np.random.default_rng(seed)
    torch.manual_seed(int(rng.integers(2**63)))
    names = dict(module.named_parameters())
    with torch.no_grad():
        for name, p in names.items():
            p.copy_(torch.tensor(model[name]))
    base = [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), **settings)
    module.train()
    x, y = torch.tensor(examples.x), torch.tensor(examples.y)
    for _ in range(epochs):
        order = torch.from_numpy(rng.permutation(len(examples)))
        for rows in order.split(batch):
            optimizer.zero_grad()
            F.cross_entropy(module(x[rows]), y[rows]).backward()
            if clip:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            for p, b in zip(module.parameters(), base, strict=True):
                if mu:
                    p.grad += mu * (p.detach() - b)
            optimizer.step()
    return module


SETTINGS = [
    {},
    {"weight_decay": 0.01},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.01},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("make", [network, normed, dropped])
def test_equals_a_plain_loop_bit_for_bit(make, settings):
    trainer = SGD(lr=0.1, epochs=3, **settings).bind(make)
    model = trainer.initial(7)
    payload, _ = train(trainer, model)
    module = plain_loop(make, model, data(), 1, 3, 10, lr=0.1, **settings)
    for name, p in module.named_parameters():
        want = p.detach().numpy() - model[name]
        assert payload.tensors[name].tobytes() == want.tobytes(), name
    for name, buffer in module.named_buffers():
        prefix = "buffer/" if buffer.is_floating_point() else "counter/"
        assert payload.tensors[prefix + name].tobytes() == buffer.numpy().tobytes()


def test_proximal_term_and_clipping_follow_a_plain_loop():
    for extra, rule in (({"clip": 0.5}, Plain()), ({}, Proximal(0.3))):
        trainer = SGD(lr=0.1, epochs=2, rule=rule, **extra).bind(network)
        model = trainer.initial(7)
        payload, _ = train(trainer, model)
        mu = 0.3 if isinstance(rule, Proximal) else 0.0
        module = plain_loop(network, model, data(), 1, 2, 10, lr=0.1, mu=mu, **extra)
        for name, p in module.named_parameters():
            want = p.detach().numpy() - model[name]
            assert payload.tensors[name] == pytest.approx(want, rel=1e-4, abs=1e-6)


def test_proximal_of_strength_zero_is_plain_bit_for_bit():
    model = SGD(lr=0.1).bind(network).initial(0)
    runs = [
        train(SGD(lr=0.1, epochs=2, rule=rule).bind(network), model, **config)[0].tensors
        for rule, config in (
            (Plain(), {}),
            (Proximal(0.0), {}),
            (Proximal(0.7), {"mu": 0.0}),
            (Proximal(0.7), {}),
        )
    ]
    assert equal(runs[0], runs[1]) and equal(runs[0], runs[2]) and not equal(runs[0], runs[3])


def test_tasks_override_steps_epochs_rate_and_batch():
    trainer = SGD(lr=0.1, epochs=2).bind(network)
    model = trainer.initial(0)
    for config, same in (
        ({"steps": 7}, SGD(lr=0.1, local_steps=7)),
        ({"epochs": 1}, SGD(lr=0.1, epochs=1)),
        ({"lr": 0.3}, SGD(lr=0.3, epochs=2)),
        ({"batch": 0}, SGD(lr=0.1, epochs=2, batch=0)),
    ):
        got, _ = train(trainer, model, **config)
        want, _ = train(same.bind(network), model)
        assert equal(got.tensors, want.tensors) and got.steps == want.steps
    for bad in ({"steps": 0}, {"lr": -1.0}, {"lr": "fast"}, {"epochs": 1.5}, {"mu": 0.1}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            train(trainer, model, **bad)


def test_steps_counts_ragged_batches():
    trainer = SGD(lr=0.1, epochs=3, batch=10)
    assert [trainer.steps(n, {}) for n in (1, 10, 11, 43)] == [3, 3, 6, 15]
    assert trainer.steps(43, {"steps": 4}) == 4 and trainer.steps(43, {"batch": 0}) == 3


def test_batch_norm_statistics_travel_as_values():
    trainer = SGD(lr=0.1, epochs=2).bind(normed)
    model = trainer.initial(0)
    assert {n for n in model if "/" in n} == {
        "buffer/1.running_mean", "buffer/1.running_var", "counter/1.num_batches_tracked",
    }  # fmt: skip
    assert model["counter/1.num_batches_tracked"].dtype == np.int64
    payload, _ = train(trainer, model)
    assert payload.tensors["counter/1.num_batches_tracked"] == 10
    assert (payload.tensors["buffer/1.running_mean"] != 0).all()
    # They are loaded: evaluation depends on them, and training elsewhere leaves no trace.
    before = trainer.evaluate(model, data())
    moved = model.with_group("buffer/", payload.tensors.groups["buffer/"])
    assert trainer.evaluate(moved, data()) != before
    assert trainer.evaluate(model, data()) == before


def test_dropout_is_reproducible_and_leaves_the_global_generator_alone():
    trainer = SGD(lr=0.1, epochs=2).bind(dropped)
    model = trainer.initial(0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, _ = train(trainer, model)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, _ = train(trainer, model)
    other, _ = train(trainer, model, seed=2)
    assert equal(first.tensors, again.tensors) and not equal(first.tensors, other.tensors)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(7, 7), nn.Linear(7, 7)
        self.b.weight = self.a.weight
        self.out = nn.Linear(7, 3)

    def forward(self, x):
        return self.out(self.b(torch.relu(self.a(x))))


def test_tied_parameters_travel_once_and_stay_tied():
    trainer = SGD(lr=0.1, epochs=2).bind(Tied)
    model = trainer.initial(0)
    assert "a.weight" in model and "b.weight" not in model
    payload, _ = train(trainer, model)
    module = plain_loop(Tied, model, data(), 1, 2, 10, lr=0.1)
    want = module.a.weight.detach().numpy() - model["a.weight"]
    assert payload.tensors["a.weight"].tobytes() == want.tobytes()


def frozen():
    module = network()
    module[0].requires_grad_(False)
    return module


def test_frozen_parameters_stay_where_they_are():
    trainer = SGD(lr=0.1).bind(frozen)
    model = trainer.initial(3)
    assert list(model) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    torch.manual_seed(11)  # frozen values do not depend on who asks, or on the global generator
    other = SGD(lr=0.1).bind(frozen)
    assert trainer.evaluate(model, data()) == other.evaluate(model, data())
    assert equal(train(trainer, model)[0].tensors, train(other, model)[0].tensors)


def test_bfloat16_parameters_are_trained_through_a_float32_master():
    def make():
        return network().to(torch.bfloat16)

    trainer = SGD(lr=1e-4, epochs=1).bind(make)
    model = trainer.initial(0)
    assert model.layout.dtype == np.float32
    payload, _ = train(trainer, model)
    moved = payload.tensors["0.weight"]
    # Each step is far below a bfloat16 ulp of most weights, and is kept all the same.
    assert (moved != 0).mean() > 0.9 and np.abs(moved).max() < 1e-3
    full = SGD(lr=1e-4, epochs=1).bind(network)
    reference, _ = train(full, model)
    want = reference.tensors.dense
    assert np.linalg.norm(payload.tensors.dense - want) < 0.1 * np.linalg.norm(want)
    longer, _ = train(trainer, model, lr=0.1, epochs=30)
    after = model.with_flat(model.dense + longer.tensors.dense)
    assert trainer.evaluate(after, data())["loss"] < trainer.evaluate(model, data())["loss"] - 0.1


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(7, 9).to(torch.bfloat16), nn.Linear(9, 3)

    def forward(self, x):
        return self.b(self.a(x.to(torch.bfloat16)).float())


@pytest.mark.parametrize("rule", [Plain(), Proximal(0.1)])
def test_types_may_be_mixed(rule):
    trainer = SGD(lr=0.05, rule=rule).bind(Mixed)
    model = trainer.initial(0)
    payload, _ = train(trainer, model)
    assert payload.tensors.layout == model.layout and payload.tensors.finite()
    assert np.abs(payload.tensors["a.weight"]).max() > 0


def test_float64_models_travel_as_float64():
    trainer = SGD(lr=0.1).bind(lambda: network().double())
    model = trainer.initial(0)
    payload, _ = train(trainer, model, Examples(data().x.astype(np.float64), data().y))
    assert model.layout.dtype == payload.tensors.layout.dtype == np.float64


def test_unused_parameters_do_not_move():
    class Extra(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(7, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    for rule in (Plain(), Proximal(0.1)):
        trainer = SGD(lr=0.1, rule=rule).bind(Extra)
        payload, _ = train(trainer, trainer.initial(0))
        assert not payload.tensors["unused.weight"].any() and payload.tensors["used.weight"].any()


def test_regression_has_a_loss_and_no_accuracy():
    rng = np.random.default_rng(0)
    examples = Examples(rng.normal(size=(40, 7)), rng.normal(size=(40, 3)))
    trainer = SGD(lr=0.1, loss="mse_loss").bind(network)
    model = trainer.initial(0)
    with torch.no_grad():
        module = network()
        for name, p in module.named_parameters():
            p.copy_(torch.tensor(model[name]))
        out = module(torch.tensor(examples.x).float())
        want = float(F.mse_loss(out, torch.tensor(examples.y).float()))
    assert trainer.evaluate(model, examples) == pytest.approx({"loss": want})


def halved(outputs, targets):
    return F.cross_entropy(outputs, targets) / 2


def test_a_loss_may_come_from_any_module():
    trainer = SGD(lr=0.2, loss=f"{__name__}:halved").bind(network)
    model = trainer.initial(0)
    got, want = train(trainer, model)[0], train(SGD(lr=0.1).bind(network), model)[0]
    assert got.tensors.dense == pytest.approx(want.tensors.dense, rel=1e-4, abs=1e-6)


def test_metrics_are_exact_across_pieces():
    trainer = SGD(lr=0.1).bind(network)
    model, examples = trainer.initial(0), data(5000)
    halves = [trainer.evaluate(model, examples.take(np.arange(a, a + 2500))) for a in (0, 2500)]
    mean = {k: (halves[0][k] + halves[1][k]) / 2 for k in ("loss", "accuracy")}
    assert trainer.evaluate(model, examples) == pytest.approx(mean, rel=1e-5)


def test_control_variate_of_a_task():
    trainer = SGD(lr=0.1, local_steps=3, rule=ControlVariate()).bind(network)
    model = trainer.initial(0)
    payload, state = train(trainer, model)
    want = -payload.tensors.dense / (3 * 0.1)
    assert state.dense == pytest.approx(want, rel=1e-5)
    assert payload.tensors.groups["control/"].dense == pytest.approx(want, rel=1e-5)
    # The next task is corrected by c - c_i.
    second, _ = train(trainer, model, state=state)
    assert second.tensors.dense == pytest.approx(
        payload.tensors.dense + 0.3 * state.dense, abs=0.01
    )
    assert not equal(second.tensors, payload.tensors)
