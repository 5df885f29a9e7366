"""Stale updates made fresh: nearer to the fresh one than as they came; nothing else is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import plain
from shoal.algorithms._versions import COUNTER, Versioned, counters, read
from shoal.core import Examples
from shoal.errors import ConfigError, UpdateError
from shoal.experiment import build
from shoal.messages import Task
from shoal.planes import Local
from shoal.simulation import Devices
from shoal.tensors import Tensors, equal
from support import play

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from shoal.algorithms._inversion import Inverter  # noqa: E402
from shoal.algorithms._inverting import Inverting  # noqa: E402
from shoal.trainers.torch import SGD  # noqa: E402

FEATURES, CLASSES, ROWS = 6, 3, 20
RNG = np.random.default_rng(0)


def net() -> Any:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def classes(kind: int | None = None, shift: float = 1.0, draws: Any = RNG) -> Examples:
    x = (draws.standard_normal((ROWS, FEATURES)) + shift).astype(np.float32)
    return Examples(x, draws.integers(0, 2, ROWS) if kind is None else np.full(ROWS, kind))


def local(trainer: Any, model: Tensors, data: Examples) -> Any:
    task = Task(0, "c0", 0)
    return trainer.train(model, data, None, task, np.random.default_rng(0))[0].tensors.dense


def away(delta: Any, from_: Any) -> float:
    return float(np.linalg.norm(delta - from_) / np.linalg.norm(from_))


@pytest.mark.parametrize("kind", [None, 0])
def test_what_is_folded_is_nearer_to_the_fresh_update(kind: int | None) -> None:
    draws = np.random.default_rng(1)
    mine, others = classes(kind, 1.0, draws), classes(2, -1.0, draws)
    trainer = SGD(0.1, local_steps=5, batch=0).bind(net)
    old = trainer.initial(0)
    now = old
    for _ in range(6):
        now = now.with_flat(now.dense + local(trainer, now, others))
    stale, fresh = local(trainer, old, mine), local(trainer, now, mine)
    rule = Inverting(net, (FEATURES,), "cross_entropy", 0.1, iterations=25)
    acc = replace(rule.init(old), version=6, models={"0": old.dense, "6": now.dense})
    sent = old.with_flat(stale).with_group(COUNTER, counters(0, 5))
    estimate = rule.fold(acc, sent, 1.0, "c0").total
    assert away(stale, fresh) > 0.5
    assert away(estimate, fresh) < 0.6 * away(stale, fresh)
    assert np.array_equal(rule.fold(acc, sent, 1.0, "c0").total, estimate)  # the same bits
    inverter = Inverter(net, (FEATURES,), "cross_entropy", 16)
    unmoved = inverter.estimate(old.dense, stale, old.dense, 5, 0.1, 40, ("c0", 0))
    assert away(unmoved.delta, stale) == pytest.approx(unmoved.residual, rel=1e-6)


def test_the_scalar_quadratic_with_one_step_is_exact() -> None:
    """F = (y - b)^2: curvature is the model's own, so an update tells b, and b all others."""

    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.y = nn.Parameter(torch.tensor([4.0]))

        def forward(self, x: Any) -> Any:
            return self.y + 0.0 * x  # what it predicts whatever it is given

    def smooth() -> Any:
        module = Point()
        # Inputs count a little, or there would be nothing to invert by them.
        module.forward = lambda x: module.y + 1e-3 * x  # type: ignore[method-assign]
        return module

    b, x_old, x_now, lr = 1.5, 4.0, 9.0, 0.1
    delta = -lr * 2 * (x_old - b)
    found = Inverter(smooth, (1,), "mse_loss", 4).estimate(
        np.array([x_old]), np.array([delta]), np.array([x_now]), 1, lr, 60, ("c0",)
    )
    assert found.delta == pytest.approx([-lr * 2 * (x_now - b)], abs=1e-4)
    assert found.residual < 1e-4


def small(**fields: Any) -> Any:
    fields = {"examples": 4, "iterations": 5, "starts": 1, "concurrency": 4, **fields}
    trainer = SGD(0.1, local_steps=2, batch=0)
    return shoal.gradient_inversion(2, trainer=trainer, model=net, inputs=(FEATURES,), **fields)


def ready(algorithm: Any) -> Any:
    return replace(algorithm, trainer=algorithm.trainer.bind(None))


CLIENTS = {f"c{i}": classes(i % CLASSES) for i in range(4)}
UNEQUAL = Devices(speeds={"c0": 1.0, "c1": 1.3, "c2": 2.1, "c3": 9.7})


def test_fresh_updates_are_fedbuffs() -> None:
    algorithm = ready(small(concurrency=2))
    plain_one = shoal.fedbuff(2, concurrency=2, trainer=SGD(0.1, local_steps=2, batch=0).bind(net))
    one, two = (play(a, CLIENTS, 5) for a in (algorithm, plain_one))
    assert all(task.staleness == 0 for task in one.tasks if task.outcome == "aggregated")
    assert one.node.model.dense == pytest.approx(two.node.model.dense, abs=1e-6)


def test_what_is_not_explained_or_too_old_counts_as_fedbuff_would() -> None:
    """With no explanation good enough, and with no history, it is FedBuff with its weights."""
    buffered = shoal.fedbuff(2, concurrency=4, trainer=SGD(0.1, local_steps=2, batch=0).bind(net))
    want = play(buffered, CLIENTS, 8, devices=UNEQUAL)
    assert any(task.staleness for task in want.tasks if task.outcome == "aggregated")
    got = play(ready(small(accept=0.0)), CLIENTS, 8, devices=UNEQUAL)
    assert got.node.model.dense == pytest.approx(want.node.model.dense, abs=1e-6)
    converted = play(ready(small(accept=1.0)), CLIENTS, 8, devices=UNEQUAL)
    assert converted.node.model.dense != pytest.approx(want.node.model.dense, abs=1e-4)


def test_the_server_keeps_models_and_nothing_that_was_made_up() -> None:
    played = play(ready(small(accept=1.0, history=3)), CLIENTS, 9, devices=UNEQUAL)
    node = played.node
    past = node.plane.snapshot().accumulator.parts[0]
    assert past.version == 9 and sorted(map(int, past.models)) == [6, 7, 8, 9]
    for version, flat in past.models.items():
        assert flat == pytest.approx(played.models[int(version)].dense, abs=1e-6)
    assert read(node.model.groups[COUNTER]) == (9, 0)
    store: dict[str, Any] = {}
    plain.encode(node.plane.snapshot(), store)
    arrays = {value.layout.size for value in store.values()}
    assert arrays <= {node.model.layout.size, 2, 0}  # models, sums, and the two counters


def test_updates_that_lie_about_themselves_are_refused() -> None:
    algorithm = ready(small())
    rule, model = algorithm.aggregator, algorithm.trainer.initial(0)
    acc = rule.init(model)
    for version, steps in ((1, 2), (0, 0)):
        with pytest.raises(UpdateError, match=f"version {version} and {steps} steps"):
            rule.fold(acc, model.with_group(COUNTER, counters(version, steps)), 1.0, "c0")
    with pytest.raises(UpdateError, match="no version"):
        rule.fold(acc, model.with_group(COUNTER, None), 1.0, "c0")


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))


class Dropped(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, 4), nn.Dropout(0.5), nn.Linear(4, CLASSES))


class Rounded(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, 4), nn.Linear(4, CLASSES))

    def forward(self, x: Any) -> Any:
        return super().forward(x.round())


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        (Normed, (FEATURES,), "it has buffers .*GroupNorm, or shoal.fedbuff"),
        (Dropped, (FEATURES,), "it draws random numbers"),
        (Rounded, (FEATURES,), "do not depend on inputs smoothly"),
        (net, (FEATURES + 1,), r"does not take inputs of \(7,\)"),
    ],
)
def test_models_that_cannot_be_inverted_are_refused_before_the_run(
    model: Any, inputs: tuple[int, ...], said: str
) -> None:
    algorithm = shoal.gradient_inversion(
        2, trainer=SGD(0.1), model=model, inputs=inputs, concurrency=2
    )
    with pytest.raises(ConfigError, match=f"model: cannot be inverted: .*{said}"):
        Local(algorithm.aggregator, shoal.chain()).start(
            replace(algorithm, trainer=algorithm.trainer.bind(None)).trainer.initial(0), 0
        )


def digits_net() -> Any:
    return nn.Linear(64, 10)


def test_an_experiment_refuses_what_does_not_fit() -> None:
    algorithm = shoal.gradient_inversion(
        2, trainer=SGD(0.1, local_steps=1, batch=0), model=digits_net, inputs=(64,), examples=2,
        iterations=2, starts=1, concurrency=3,
    )  # fmt: skip
    good = shoal.Experiment(
        model=digits_net, data=shoal.data.digits(clients=4), algorithm=algorithm, commits=2
    )
    assert [r.version for r in shoal.simulate(good)][-1] == 2
    with pytest.raises(ConfigError, match="another module than the server inverts"):
        build(replace(good, model=net))
    with pytest.raises(ConfigError, match=r"plane: Inverting .*local"):
        build(replace(good, plane="functions"))
    assert build(replace(good, plane="processes")).decision.plane == "local"
    with pytest.raises(ConfigError, match=r"upload: Inverting"):
        build(replace(good, algorithm=replace(algorithm, upload=shoal.TopK(0.1))))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"momentum": 0.9}, r"trainer.momentum: steps must be plain"),
        ({"clip": 1.0}, r"trainer.clip"),
        ({"optimizer": "Adam"}, r"trainer.optimizer"),
        ({"loss": "l1_loss"}, r"loss of cross_entropy or mse_loss"),
    ],
)
def test_trainers_of_other_steps_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shoal.gradient_inversion(2, trainer=SGD(0.1, **fields), model=net, inputs=(FEATURES,))


def test_numbers_out_of_range_are_refused() -> None:
    for name in ("lr", "examples", "iterations", "starts", "history"):
        with pytest.raises(ConfigError, match=name):
            small(**{name: 0})
    with pytest.raises(ConfigError, match="accept"):
        small(accept=2.0)


def test_the_wire_is_fedavgs_and_two_numbers() -> None:
    trainer = Versioned(SGD(0.1, local_steps=3, batch=0), net).bind(None)
    model = trainer.initial(0).with_group(COUNTER, counters(7))
    payload, _ = trainer.train(model, classes(), None, Task(0, "c0", 7), RNG)
    assert read(payload.tensors.groups[COUNTER]) == (7, 3)
    assert set(payload.tensors.groups) == {COUNTER}
    assert equal(model, trainer.initial(0).with_group(COUNTER, counters(7)))
    assert trainer.evaluate(model, classes())["loss"] > 0
