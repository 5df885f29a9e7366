"""Curves for TensorBoard, written as event files without TensorFlow or PyTorch.

The step of a point is the model version and its wall time is virtual time, so TensorBoard's
horizontal axes *step* and *relative* are version and virtual time.
"""

import os
import socket
import time
from pathlib import Path
from typing import Self

from shoal.errors import MissingExtra
from shoal.messages import Record
from shoal.tracking.scalars import Point, Scalars

try:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter
except ImportError as error:
    raise MissingExtra("tensorboard", "tensorboard") from error


class TensorBoard:
    """Writes one event file into a directory, which TensorBoard shows as one run.

    The records are written on the calling thread: `EventFileWriter` would hand them to a thread
    of its own and imports TensorFlow where that is installed.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        stamp = f"{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self.directory / f"events.out.tfevents.{stamp}", "xb")  # noqa: SIM115
        self._writer = RecordWriter(self._file)
        self._scalars = Scalars()
        self._begun = False
        self._write(Event(wall_time=0.0, file_version="brain.Event:2"))

    @classmethod
    def of_run(cls, title: str, directory: Path) -> Self:
        """The sink of a run in a directory."""
        return cls(directory / "tensorboard")

    def write(self, record: Record) -> None:
        """Take one record; commits and evaluations make points."""
        for point in self._scalars.take(record):
            self._begin(point)
            values = [Summary.Value(tag=k, simple_value=v) for k, v in point.values.items()]
            self._write(
                Event(wall_time=point.time, step=point.version, summary=Summary(value=values))
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begin(self, point: Point) -> None:
        # Tells TensorBoard to forget later steps of an earlier file: a resumed run repeats them.
        if not self._begun:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=point.time, step=point.version, session_log=start))
            self._begun = True

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._file.flush()
