"""Curves for an MLflow tracking server: step is the version, timestamp is virtual milliseconds."""

from pathlib import Path
from typing import Self

from shoal.errors import MissingExtra
from shoal.messages import Record
from shoal.tracking.scalars import Scalars

try:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient
except ImportError as error:
    raise MissingExtra("mlflow", "mlflow") from error


class MLflow:
    """One MLflow run; opened at the first point, so that a guard sees every failure.

    Args:
        experiment: MLflow's experiment, made when missing.
        name: what the run is called there.
        uri: tracking server or directory; empty for MLflow's own default.
    """

    def __init__(self, experiment: str = "shoal", name: str = "", uri: str = "") -> None:
        self.experiment = experiment
        self.name = name
        self.uri = uri
        self._client: MlflowClient | None = None
        self._run = ""
        self._scalars = Scalars()

    @classmethod
    def of_run(cls, title: str, directory: Path) -> Self:
        """The sink of a run, at the server that MLflow's own settings name."""
        return cls(name=title)

    def write(self, record: Record) -> None:
        """Take one record; commits and evaluations make points."""
        for point in self._scalars.take(record):
            metrics = [
                Metric(name, float(value), int(point.time * 1000), point.version)
                for name, value in point.values.items()
            ]
            self._open().log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Mark the run as finished."""
        if self._client is not None:
            self._client.set_terminated(self._run)
            self._client = None

    def _open(self) -> MlflowClient:
        if self._client is None:
            client = MlflowClient(self.uri or None)
            found = client.get_experiment_by_name(self.experiment)
            place = found.experiment_id if found else client.create_experiment(self.experiment)
            self._run = client.create_run(place, run_name=self.name or None).info.run_id
            self._client = client
        return self._client
