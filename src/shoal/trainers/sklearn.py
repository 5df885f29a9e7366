"""scikit-learn's linear models that learn incrementally, by `partial_fit`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from shoal.core import Examples
from shoal.errors import ConfigError, DataError, MissingExtra, ModelError
from shoal.messages import Config, Metrics, Payload, Task
from shoal.tensors import Tensors, all_finite
from shoal.trainers import _work

try:
    from sklearn.base import is_classifier
    from sklearn.metrics import hinge_loss, log_loss, mean_squared_error
except ImportError as error:
    raise MissingExtra("scikit-learn", "sklearn") from error

NAMES = ("coef_", "intercept_")


@dataclass(frozen=True)
class PartialFit:
    """Local work is `partial_fit` on shuffled minibatches; the estimator brings its own optimizer.

    Bind it to a function that makes an `SGDClassifier`, `SGDRegressor`, `Perceptron` or another
    linear model with `partial_fit`. A client keeps how many examples it has seen, for learning
    rates that fall. The task may override "lr" where the estimator has `eta0`.

    Attributes:
        features: values per input.
        classes: number of classes; 0 for a regressor.
        epochs: passes over the client's data per task.
        local_steps: calls of `partial_fit` per task, in place of epochs.
        batch: examples per call; 0 for all. The estimator steps example by example in any case.
    """

    features: int
    classes: int = 0
    epochs: int = 1
    local_steps: int | None = None
    batch: int = 0
    model: Callable[[], Any] | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        _work.check_work(self.epochs, self.local_steps, self.batch)
        if self.features < 1:
            raise ConfigError("features", f"must be at least 1, got {self.features}")
        if self.classes < 0 or self.classes == 1:
            raise ConfigError("classes", f"must be 0 or at least 2, got {self.classes}")

    def bind(self, model: Callable[[], Any] | None) -> Self:
        """The same trainer for the estimator that the function makes."""
        bound = replace(self)
        object.__setattr__(bound, "model", model)
        return bound

    def initial(self, seed: int) -> Tensors:
        """Zero coefficients and intercepts, in the estimator's shapes.

        Raises:
            ModelError: if the estimator is not a linear model with `partial_fit`.
        """
        estimator = self._estimator(0, DEFAULT)
        return Tensors.of({name: np.zeros_like(getattr(estimator, name)) for name in NAMES})

    def init(self, model: Tensors) -> int:
        """Examples seen so far: none."""
        return 0

    def steps(self, num_examples: int, config: Config) -> int:
        """Calls of `partial_fit` of a task."""
        return _work.count_steps(num_examples, config, self.epochs, self.local_steps, self.batch)

    def train(
        self, model: Tensors, data: Examples, state: int, task: Task, rng: np.random.Generator
    ) -> tuple[Payload, int]:
        """Take the steps, in an order drawn from `rng`.

        Raises:
            DataError: if there is no data, or it does not fit the estimator.
        """
        _work.require_examples(data, task.client)
        x, y = self._arrays(data)
        n = len(data)
        steps, batch = self.steps(n, task.config), _work.batch_size(n, task.config, self.batch)
        estimator = self._estimator(int(rng.integers(2**31)), task.config)
        _load(estimator, model, state)
        for chosen in _work.order(n, batch, steps, rng):
            for at in range(0, len(chosen), batch):
                rows = chosen[at : at + batch]
                try:
                    estimator.partial_fit(x[rows], y[rows])
                except ValueError as error:  # non-finite inputs or overflow
                    raise DataError(f"client {task.client!r}: {error}") from error
                state += len(rows)
        local = Tensors.of({name: getattr(estimator, name) for name in NAMES})
        delta = Tensors(model.layout, local.dense - model.dense)
        return Payload(delta, n, steps), state

    def evaluate(self, model: Tensors, data: Examples) -> Metrics:
        """The mean "loss" (log loss or hinge; squared error of a regressor) and "accuracy"."""
        x, y = self._arrays(data)
        estimator = self._estimator(0, DEFAULT)
        _load(estimator, model, 0)
        if not self.classes:
            return {"loss": float(mean_squared_error(y, estimator.predict(x)))}
        labels = np.arange(self.classes)
        if hasattr(estimator, "predict_proba"):
            loss = log_loss(y, estimator.predict_proba(x), labels=labels)
        else:
            loss = hinge_loss(y, estimator.decision_function(x), labels=labels)
        return {"loss": float(loss), "accuracy": float((estimator.predict(x) == y).mean())}

    def _estimator(self, seed: int, config: Config) -> Any:
        """A fresh estimator that has seen one blank example of each class, to have shapes."""
        if self.model is None:
            raise ConfigError("model", "bind() the trainer to a function that makes the estimator")
        estimator = self.model()
        name = type(estimator).__name__
        if not hasattr(estimator, "partial_fit") or getattr(estimator, "average", False):
            raise ModelError(f"{name}: needs partial_fit, without averaging of its own")
        if is_classifier(estimator) != bool(self.classes):
            kind = "a classifier" if is_classifier(estimator) else "a regressor"
            raise ConfigError("classes", f"{self.classes} for {kind} ({name})")
        known = estimator.get_params()
        if "random_state" in known:
            estimator.set_params(random_state=seed)
        if "lr" in config:
            if "eta0" not in known:
                raise ConfigError("task.config.lr", f"{name} has no eta0")
            estimator.set_params(eta0=_work.learning_rate(config, 0.0))
        blank = np.zeros((max(self.classes, 1), self.features))
        if self.classes:
            labels = np.arange(self.classes)
            estimator.partial_fit(blank, labels, classes=labels)
        else:
            estimator.partial_fit(blank, np.zeros(1))
        if not all(hasattr(estimator, attribute) for attribute in NAMES):
            raise ModelError(f"{name}: not a linear model with coef_ and intercept_")
        return estimator

    def _arrays(self, data: Examples) -> tuple[Any, Any]:
        x, y = np.asarray(data.x, np.float64).reshape(len(data), -1), np.asarray(data.y)
        if len(y) == 0 or x.shape[1] != self.features or y.ndim != 1:
            raise DataError(
                f"inputs of shape {x.shape} and targets of shape {y.shape}: "
                f"expected (n, {self.features}) and (n,), n > 0"
            )
        if self.classes and (y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= self.classes):
            raise DataError(f"targets must be class numbers in 0..{self.classes - 1}")
        return x, y


DEFAULT: Config = {}


def _load(estimator: Any, model: Tensors, seen: int) -> None:
    for name in NAMES:
        if getattr(estimator, name).shape != model[name].shape:
            raise ModelError(f"{name}: shape {model[name].shape} does not fit the estimator")
        if not all_finite(model[name].ravel()):
            raise ModelError(f"{name} holds NaN or infinity")
        setattr(estimator, name, np.array(model[name]))
    estimator.t_ = 1.0 + seen
