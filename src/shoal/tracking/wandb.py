"""Curves for Weights & Biases, over version (its step metric) with virtual time beside it."""

import os
from pathlib import Path
from typing import Any, Self

from shoal.errors import MissingExtra
from shoal.messages import Record
from shoal.tracking.scalars import Scalars

try:
    import wandb
except ImportError as error:
    raise MissingExtra("wandb", "wandb") from error


class WandB:
    """One Weights & Biases run; opened at the first point, so that a guard sees every failure.

    Args:
        project: its project there.
        name: what the run is called there.
        mode: "online", "offline" (kept on disk for `wandb sync`) or "disabled".
        directory: where its files go; empty for its own default.
    """

    def __init__(
        self, project: str = "shoal", name: str = "", mode: str = "online", directory: str = ""
    ) -> None:
        self.project = project
        self.name = name
        self.mode = mode
        self.directory = directory
        self._run: Any = None
        self._scalars = Scalars()

    @classmethod
    def of_run(cls, title: str, directory: Path) -> Self:
        """The sink of a run, in the mode that `WANDB_MODE` names."""
        return cls(
            name=title, mode=os.environ.get("WANDB_MODE", "online"), directory=str(directory)
        )

    def write(self, record: Record) -> None:
        """Take one record; commits and evaluations make points."""
        for point in self._scalars.take(record):
            # Several points may share a version, so version is a metric and not wandb's step.
            self._open().log({**point.values, "version": point.version, "virtual_time": point.time})

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _open(self) -> Any:
        if self._run is None:
            self._run = wandb.init(
                project=self.project,
                name=self.name or None,
                mode=self.mode,
                dir=self.directory or None,
            )
            self._run.define_metric("*", step_metric="version")
        return self._run
