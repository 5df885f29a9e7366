"""Checkpoints on disk: atomic, verified, independent of how tensors were sharded.

A checkpoint is a directory: `state.json` (plain data), `tensors.bin` (safetensors files one after
the other, indexed by path in the manifest) and `manifest.json` (lengths and SHA-256), written last.
It is made under another name and renamed; readers accept only what verifies, and fall back to the
one before.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal import wire
from shoal.errors import CheckpointError, ModelError
from shoal.plain import Store

PREFIX, PARTIAL = "ckpt-", ".partial"


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that verified.

    Attributes:
        path: its directory.
        state: the plain data.
        store: the tensors by path.
        notes: what was wrong with newer ones.
    """

    path: Path
    state: Any
    store: Store
    notes: tuple[str, ...] = ()


def save(directory: Path, number: int, state: Any, store: Store, keep: int = 2) -> Path:
    """Write a checkpoint, and remove all but the newest `keep`.

    Raises:
        CheckpointError: if it cannot be written; those before it stay.
    """
    final = directory / f"{PREFIX}{number:010d}"
    partial = final.with_name(final.name + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        index = _write_tensors(partial / "tensors.bin", store)
        _write(partial / "state.json", json.dumps(state).encode())
        files = {name: _digest(partial / name) for name in ("tensors.bin", "state.json")}
        manifest = {"format": "shoal-checkpoint/1", "files": files, "tensors": index}
        _write(partial / "manifest.json", json.dumps(manifest).encode())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        _sync_directory(directory)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write checkpoint {final}: {error.strerror or error}. "
            "Free space or choose another directory; the checkpoint before it is whole"
        ) from error
    for old in found(directory)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load(directory: Path) -> Loaded:
    """The newest checkpoint that verifies.

    Raises:
        CheckpointError: if there is none.
    """
    notes: list[str] = []
    for path in found(directory):
        try:
            state, store = _read(path)
        except (OSError, ValueError, KeyError, TypeError, ModelError) as error:
            notes.append(f"checkpoint {path.name} is damaged ({error})")
        else:
            notes += [f"using {path.name} instead"] if notes else []
            return Loaded(path, state, store, tuple(notes))
    reasons = "; ".join(notes) or "there is none"
    raise CheckpointError(f"no usable checkpoint in {directory}: {reasons}")


def found(directory: Path) -> list[Path]:
    """The complete-looking checkpoints of a directory, newest first."""
    names = directory.glob(f"{PREFIX}*") if directory.is_dir() else iter(())
    return sorted((p for p in names if not p.name.endswith(PARTIAL)), reverse=True)


def _write_tensors(path: Path, store: Store) -> list[tuple[str, int, int]]:
    index, offset = [], 0

    def chunks() -> Iterator[bytes]:
        nonlocal offset
        for name, tensors in store.items():
            data = wire.dump(tensors)
            index.append((name, offset, len(data)))
            offset += len(data)
            yield data

    _write(path, chunks())
    return index


def _write(path: Path, data: bytes | Iterator[bytes]) -> None:
    with path.open("wb") as file:
        for chunk in (data,) if isinstance(data, bytes) else data:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": path.stat().st_size, "sha256": sha256}


def _read(path: Path) -> tuple[Any, Store]:
    manifest = json.loads((path / "manifest.json").read_bytes())
    for name, want in manifest["files"].items():
        if _digest(path / name) != want:
            raise ValueError(f"{name} is not what was written")
    state = json.loads((path / "state.json").read_bytes())
    data = memoryview((path / "tensors.bin").read_bytes())
    store = {
        name: wire.load(data[start : start + length])[0]
        for name, start, length in manifest["tensors"]
    }
    return state, store


def _sync_directory(directory: Path) -> None:
    """Make a rename durable, where directories can be synced."""
    opener: Callable[..., int] | None = None if os.name == "nt" else os.open
    if opener is not None:
        handle = opener(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
