"""The log of a node's inputs, from which a run is replayed exactly.

`inputs.jsonl` holds one line per input; the tensors of payloads lie in `inputs.bin` as safetensors.
A node is a function of its inputs, so the log and the experiment give the run's bits again.
"""

import json
from pathlib import Path
from typing import Any

from shoal import exchange as ex
from shoal import wire
from shoal.errors import CheckpointError
from shoal.plain import Store, decode, encode

KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        ex.Begin, ex.Join, ex.Leave, ex.Push, ex.Fail, ex.Tick, ex.Assessed, ex.Given, ex.Quiet,
    )
}  # fmt: skip
LINES, TENSORS = "inputs.jsonl", "inputs.bin"


class LogWriter:
    """Appends inputs to the log of a run directory."""

    def __init__(self, directory: Path) -> None:
        self._lines = (directory / LINES).open("ab")
        self._tensors = (directory / TENSORS).open("ab")

    def write(self, given: ex.Input, now: float) -> None:
        """Append one input.

        Raises:
            CheckpointError: if the disk is full or the log cannot be written.
        """
        store: Store = {}
        data = encode(given, store)
        try:
            places = {}
            for path, tensors in store.items():
                places[path] = (self._tensors.tell(), self._tensors.write(wire.dump(tensors)))
            line = {"now": now, "kind": type(given).__name__, "data": data, "tensors": places}
            self._tensors.flush()
            self._lines.write(json.dumps(line).encode() + b"\n")
            self._lines.flush()
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self._lines.name}: {error.strerror}. Free space and resume"
            ) from error

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self._tensors.close()


class LogReader:
    """A transport that brings the inputs of a log and performs nothing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            self._lines = iter((directory / LINES).read_bytes().splitlines())
            self._tensors = memoryview((directory / TENSORS).read_bytes())
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{directory} has no input log: run with --set log=true to be able to replay"
            ) from error
        self.now = 0.0

    def receive(self) -> tuple[ex.Input, float]:
        """The next logged input; `Quiet` at the end of the log."""
        for line in self._lines:
            try:
                entry = json.loads(line)
                given = self._decode(entry)
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{self._directory / LINES} is damaged: {error}") from error
            self.now = entry["now"]
            return given, self.now
        return ex.Quiet(), self.now

    def _decode(self, entry: dict[str, Any]) -> ex.Input:
        store: Store = {
            path: wire.load(self._tensors[start : start + length])[0]
            for path, (start, length) in entry["tensors"].items()
        }
        given: ex.Input = decode(KINDS[entry["kind"]], entry["data"], store, path=entry["kind"])
        return given

    def perform(self, effect: ex.Effect) -> None:
        """Effects were performed when the log was written."""

    def close(self) -> None:
        """Nothing to let go of."""
