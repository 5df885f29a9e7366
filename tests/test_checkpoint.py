"""Checkpoints: atomic, verified, with the one before as a fallback."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from shoal import checkpoint
from shoal.encoded import Quantized, Sparse
from shoal.errors import CheckpointError
from shoal.plain import Store
from shoal.tensors import Tensors, equal


def store(value: float) -> Store:
    sparse = Sparse(9, np.array([1, 7], np.int32), np.array([value, 2.0], np.float32))
    dense = Tensors.of({"w": np.full((3, 3), value, np.float32), "counter/n": np.array(3)})
    return {"model": dense, "held[0]": dense.with_flat(sparse)}


def test_round_trip(tmp_path: Path) -> None:
    before = store(1.5)
    checkpoint.save(tmp_path, 1, {"now": 3.25, "inf": float("inf")}, before)
    loaded = checkpoint.load(tmp_path)
    assert loaded.state == {"now": 3.25, "inf": float("inf")}
    assert loaded.notes == ()
    assert all(equal(loaded.store[name], before[name]) for name in before)
    assert isinstance(loaded.store["held[0]"].flat, Sparse)


def test_encoded_values_nest(tmp_path: Path) -> None:
    values = Quantized(np.array([3, -4], np.int8), np.array([0.5], np.float32), 64)
    tensors = Tensors.of({"w": np.zeros(9, np.float32)})
    nested = tensors.with_flat(Sparse(9, np.array([2, 5], np.int32), values))
    checkpoint.save(tmp_path, 1, None, {"u": nested})
    assert checkpoint.load(tmp_path).store["u"]["w"].tolist() == [0, 0, 1.5, 0, 0, -2.0, 0, 0, 0]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(1, 6):
        checkpoint.save(tmp_path, number, number, store(number))
    assert [p.name for p in checkpoint.found(tmp_path)] == ["ckpt-0000000005", "ckpt-0000000004"]
    assert checkpoint.load(tmp_path).state == 5


@pytest.mark.parametrize("file", ["state.json", "tensors.bin", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, file: str, damage: str
) -> None:
    checkpoint.save(tmp_path, 1, "old", store(1.0))
    target = checkpoint.save(tmp_path, 2, "new", store(2.0)) / file
    data = bytearray(target.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        target.write_bytes(data)
    elif damage == "remove":
        target.unlink()
    else:
        target.write_bytes(data[: len(data) // 2] if damage == "truncate" else b"")
    loaded = checkpoint.load(tmp_path)
    assert loaded.state == "old"
    assert "ckpt-0000000002 is damaged" in loaded.notes[0]
    assert loaded.notes[1] == "using ckpt-0000000001 instead"


def test_a_half_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, "old", store(1.0))
    partial = tmp_path / f"ckpt-0000000002{checkpoint.PARTIAL}"
    shutil.copytree(tmp_path / "ckpt-0000000001", partial)
    (partial / "manifest.json").unlink()
    assert checkpoint.load(tmp_path).state == "old"
    assert checkpoint.load(tmp_path).notes == ()


def test_none_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is none"):
        checkpoint.load(tmp_path)
    broken = checkpoint.save(tmp_path, 1, None, store(1.0))
    (broken / "state.json").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"state\.json is not what was written"):
        checkpoint.load(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_no_room_keeps_the_one_before_and_names_the_file(tmp_path: Path) -> None:
    """A real limit on file sizes stands in for a full disk: writes fail midway."""
    script = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from shoal import checkpoint
        from shoal.errors import CheckpointError
        from shoal.tensors import Tensors

        directory = Path(sys.argv[1])
        checkpoint.save(directory, 1, "old", {})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        big = {"model": Tensors.of({"w": np.zeros(1_000_000, np.float32)})}
        try:
            checkpoint.save(directory, 2, "new", big)
        except CheckpointError as error:
            assert "ckpt-0000000002" in str(error), error
            assert "the checkpoint before it is whole" in str(error), error
        else:
            raise AssertionError("there was room")
        assert checkpoint.load(directory).state == "old"
        assert [p.name for p in directory.iterdir()] == ["ckpt-0000000001"]
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, check=True, timeout=60, env=dict(os.environ))
