"""The scikit-learn trainer against direct use of the estimators."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Perceptron, SGDClassifier, SGDRegressor

from shoal.core import Examples
from shoal.errors import ConfigError, DataError, ModelError
from shoal.messages import Task
from shoal.trainers.sklearn import PartialFit

TASK = Task(0, "c", 0)


def blobs(classes, n=60, seed=0):
    rng = np.random.default_rng(seed)
    centers = 4 * np.random.default_rng(9).normal(size=(classes, 5))
    y = rng.integers(0, classes, n)
    return Examples(centers[y] + rng.normal(size=(n, 5)), y)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.1),
        lambda: SGDClassifier(),
        Perceptron,
    ],
)
def test_learns_and_evaluates(make, classes):
    trainer = PartialFit(features=5, classes=classes, epochs=3, batch=16).bind(make)
    model, data = trainer.initial(0), blobs(classes)
    payload, state = trainer.train(model, data, 0, TASK, np.random.default_rng(0))
    assert model["coef_"].shape == ((1 if classes == 2 else 3), 5) and not model.dense.any()
    assert (payload.steps, state) == (12, 180)
    after = model.with_flat(model.dense + payload.tensors.dense)
    assert trainer.evaluate(after, data)["accuracy"] > 0.9
    assert trainer.evaluate(after, data)["accuracy"] > trainer.evaluate(model, data)["accuracy"]
    assert trainer.evaluate(after, data)["loss"] < trainer.evaluate(model, data)["loss"]


def test_equals_the_estimator_used_directly():
    def make():
        return SGDRegressor(learning_rate="invscaling", eta0=0.05)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 5))
    data = Examples(x, x @ np.arange(5.0) + 1)
    trainer = PartialFit(features=5, batch=8).bind(make)
    model, state = trainer.initial(0), 0
    for _ in range(2):  # the falling learning rate goes on from task to task
        payload, state = trainer.train(model, data, state, TASK, np.random.default_rng(4))
        model = model.with_flat(model.dense + payload.tensors.dense)
    draws = np.random.default_rng(4)
    direct = make().set_params(random_state=int(draws.integers(2**31)))
    orders = [draws.permutation(30)] * 2
    for order in orders:
        for at in range(0, 30, 8):
            direct.partial_fit(x[order[at : at + 8]], data.y[order[at : at + 8]])
    assert model["coef_"] == pytest.approx(direct.coef_, rel=1e-12)
    assert model["intercept_"] == pytest.approx(direct.intercept_, rel=1e-12)
    want = float(((direct.predict(x) - data.y) ** 2).mean())
    assert trainer.evaluate(model, data) == pytest.approx({"loss": want})


def test_the_rate_may_come_with_the_task():
    trainer = PartialFit(features=5).bind(lambda: SGDRegressor(learning_rate="constant"))
    model, data = trainer.initial(0), Examples(np.ones((1, 5)), np.ones(1))
    moves = [
        trainer.train(model, data, 0, Task(0, "c", 0, config={"lr": lr}), np.random.default_rng(0))
        for lr in (0.01, 0.02)
    ]
    first, second = (payload.tensors["intercept_"] for payload, _ in moves)
    assert second == pytest.approx(2 * first)


def test_a_client_may_lack_classes():
    trainer = PartialFit(features=5, classes=3).bind(SGDClassifier)
    data = blobs(3)
    only = data.take(np.flatnonzero(data.y == 1))
    payload, _ = trainer.train(trainer.initial(0), only, 0, TASK, np.random.default_rng(0))
    assert payload.tensors.finite()


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="features"):
        PartialFit(features=0)
    with pytest.raises(ConfigError, match="classes"):
        PartialFit(features=5).bind(SGDClassifier).initial(0)
    with pytest.raises(ConfigError, match="bind"):
        PartialFit(features=5).initial(0)
    for make in (LinearRegression, lambda: SGDRegressor(average=True)):
        with pytest.raises(ModelError, match="partial_fit"):
            PartialFit(features=5).bind(make).initial(0)
    trainer = PartialFit(features=5, classes=3).bind(SGDClassifier)
    with pytest.raises(DataError, match="class numbers"):
        trainer.evaluate(trainer.initial(0), blobs(4))
    bad, rng = Examples(np.full((4, 5), np.nan), np.zeros(4, int)), np.random.default_rng(0)
    with pytest.raises(DataError, match="'c'"):
        trainer.train(trainer.initial(0), bad, 0, TASK, rng)
