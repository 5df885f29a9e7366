"""The quadratic oracle trainer against closed forms."""

import numpy as np
import pytest

from shoal.core import Examples
from shoal.errors import ConfigError, DataError, ModelError
from shoal.messages import Task
from shoal.rules import ControlVariate, Proximal
from shoal.tensors import Tensors
from shoal.trainers.quadratic import Quadratic

A, B, P, START = (1.0, 2.0, 4.0), (0.0, 1.0, 3.0), (0.5, 0.3, 0.2), 10.0
PAIRS = tuple(zip(A, B, strict=True))
RNG = np.random.default_rng(0)


def scalar(a, b):
    return Examples(np.array([a]), np.array([b]))


def task(**config):
    return Task(0, "c", 0, config=config)


def average(trainer, rounds):
    """FedAvg by hand over the three scalar clients."""
    model, seen = trainer.initial(0), []
    for _ in range(rounds):
        deltas = [trainer.train(model, scalar(a, b), (), task(), RNG)[0] for a, b in PAIRS]
        model = model.with_flat(
            model.dense + sum(p * d.tensors.dense for p, d in zip(P, deltas, strict=True))
        )
        seen.append(float(model["x"]))
    return seen


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_local_steps_have_the_closed_form(a, b, steps):
    trainer = Quadratic(lr=0.1, local_steps=steps, start=START)
    payload, state = trainer.train(trainer.initial(0), scalar(a, b), (), task(), RNG)
    local = b + (1 - 0.1 * a) ** steps * (START - b)
    assert payload.tensors["x"] == pytest.approx(local - START, rel=1e-13)
    assert (payload.steps, payload.num_examples, state) == (steps, 1, ())


def test_fedavg_gives_the_printed_iterates_and_fixed_points():
    assert average(Quadratic(0.1, 5, start=START), 3) == pytest.approx(
        [4.84605, 2.737564, 1.874980], abs=5e-7
    )
    for steps, fixed in ((1, 1.578947), (5, 1.277782), (20, 0.958080)):
        trainer = Quadratic(0.1, steps, start=START)
        assert average(trainer, 200)[-1] == pytest.approx(fixed, abs=5e-7)


@pytest.mark.parametrize(("mu", "fixed"), [(0.1, 0.931256), (1, 1.114754), (10, 1.451064)])
def test_exact_proximal_solutions_give_the_printed_fixed_points(mu, fixed):
    trainer = Quadratic(0.1, exact_prox=mu, start=START)
    assert average(trainer, 400)[-1] == pytest.approx(fixed, abs=5e-7)
    assert trainer.steps(1, {}) == 1
    by_task, _ = Quadratic(0.1, exact_prox=7.0, start=START).train(
        trainer.initial(0), scalar(2.0, 1.0), (), task(mu=mu), RNG
    )
    assert by_task.tensors["x"] == pytest.approx(2 / (2 + mu) * (1 - START))


def test_many_proximal_steps_reach_the_exact_solution():
    rule, exact = Quadratic(0.1, 500, Proximal(1.0)), Quadratic(0.1, exact_prox=1.0)
    model = Quadratic(0.1, start=START).initial(0)
    got, want = (t.train(model, scalar(4.0, 3.0), (), task(), RNG)[0] for t in (rule, exact))
    assert got.tensors["x"] == pytest.approx(float(want.tensors["x"]), rel=1e-12)


def standard():
    """The matrices and optima of the five-client vector problem."""
    rng = np.random.default_rng(0)
    mats = [m @ m.T / 6 + 0.2 * np.eye(6) for m in [rng.normal(size=(6, 6)) for _ in range(5)]]
    return [
        Examples(m[None], b[None]) for m, b in zip(mats, 3 * rng.normal(size=(5, 6)), strict=True)
    ]


def test_vector_problem_reaches_the_fixed_point_of_fedavg():
    clients, trainer = standard(), Quadratic(0.05, 10, start=(0.0,) * 6)
    model = trainer.initial(0)
    for _ in range(1500):
        deltas = [trainer.train(model, c, (), task(), RNG)[0].tensors.dense for c in clients]
        model = model.with_flat(model.dense + np.mean(deltas, 0))
    pulls = [np.eye(6) - np.linalg.matrix_power(np.eye(6) - 0.05 * c.x[0], 10) for c in clients]
    target = sum(p @ c.y[0] for p, c in zip(pulls, clients, strict=True))
    assert model["x"] == pytest.approx(np.linalg.solve(sum(pulls), target), abs=1e-12)


def test_control_variates_reach_the_optimum_with_two_of_five_clients():
    clients = standard()
    trainer = Quadratic(0.05, 10, ControlVariate(), start=(0.0,) * 6)
    model, rng = trainer.initial(0), np.random.default_rng(1)
    states = [trainer.init(model) for _ in clients]
    for _ in range(3000):
        chosen = rng.choice(5, 2, replace=False)
        sent = []
        for i in chosen:
            payload, states[i] = trainer.train(model, clients[i], states[i], task(), rng)
            sent.append(payload.tensors)
        control = model.groups["control/"]
        change = sum(s.groups["control/"].dense for s in sent) / 5
        model = model.with_flat(model.dense + sum(s.dense for s in sent) / 2)
        model = model.with_group("control/", control.with_flat(control.dense + change))
    best = np.linalg.solve(sum(c.x[0] for c in clients), sum(c.x[0] @ c.y[0] for c in clients))
    assert model["x"] == pytest.approx(best, abs=1e-9)
    mean = np.mean([s.dense for s in states], 0)
    assert model.groups["control/"].dense == pytest.approx(mean, abs=1e-12)


def test_examples_are_averaged_and_evaluated():
    trainer = Quadratic(0.1, start=START)
    several = Examples(np.array([1.0, 3.0]), np.array([0.0, 2.0]))
    payload, _ = trainer.train(trainer.initial(0), several, (), task(), RNG)
    assert payload.tensors["x"] == pytest.approx(-0.1 * (1 * 10 + 3 * 8) / 2)
    assert payload.num_examples == 2
    got = trainer.evaluate(trainer.initial(0), several)
    assert got == pytest.approx({"loss": (100 / 2 + 3 * 64 / 2) / 2, "x": 10.0})
    vector = Quadratic(0.1, start=(1.0, 1.0)).initial(0)
    data = Examples(np.array([[[2.0, 1.0], [1.0, 4.0]]]), np.array([[0.0, 2.0]]))
    assert trainer.evaluate(vector, data) == pytest.approx({"loss": (2 - 2 + 4) / 2})


def test_bind_sets_the_start_and_tasks_override():
    trainer = Quadratic(0.1, 5).bind(lambda: START)
    assert trainer.start == START and Quadratic(0.1).bind(lambda: [1, 2]).start == (1.0, 2.0)
    payload, _ = trainer.train(trainer.initial(0), scalar(1.0, 0.0), (), task(steps=2, lr=0.5), RNG)
    assert payload.tensors["x"] == 10 * 0.25 - 10 and payload.steps == 2


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="exact_prox"):
        Quadratic(0.1, exact_prox=1.0, rule=Proximal(1.0))
    with pytest.raises(ModelError, match="x"):
        Quadratic(0.1, start=float("nan")).initial(0)
    with pytest.raises(DataError, match="shape"):
        Quadratic(0.1).evaluate(Tensors.of({"x": np.zeros(3)}), scalar(1.0, 2.0))
