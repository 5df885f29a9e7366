"""Arrays on disk: what is read is what was written, and nothing is left behind, however it ends."""

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal import spill as module
from shoal.aggregators import Median
from shoal.core import NOTHING
from shoal.encoded import Quantized, Sparse
from shoal.errors import CheckpointError
from shoal.messages import Payload
from shoal.planes import Local
from shoal.spill import Spill, read, resident, segment_of
from shoal.tensors import Tensors, equal

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX files and limits")
proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")

DTYPES = [np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_]


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_range_of_any_array_comes_back(data: st.DataObject) -> None:
    spill = Spill()
    arrays = []
    for _ in range(data.draw(st.integers(1, 5))):
        size, dtype = data.draw(st.integers(0, 300)), data.draw(st.sampled_from(DTYPES))
        arrays.append(np.random.default_rng(size).integers(0, 100, size).astype(dtype))
    stored = [spill.array(array) for array in arrays]
    for array, there in zip(arrays, stored, strict=True):
        assert there.dtype == array.dtype
        np.testing.assert_array_equal(there, array)
        begin = data.draw(st.integers(0, array.size))
        stop = data.draw(st.integers(begin, array.size))
        np.testing.assert_array_equal(read(there, begin, stop), array[begin:stop])
        np.testing.assert_array_equal(read(there[begin:], 0, stop - begin), array[begin:stop])
        assert resident(there) == 0
        assert resident(array) == array.nbytes


def test_spilled_arrays_are_read_only_and_reads_are_copies() -> None:
    there = Spill().array(np.arange(10.0))
    assert segment_of(there) is not None
    assert not there.flags.writeable
    assert segment_of(read(there, 2, 5)) is None
    assert segment_of(np.arange(3)) is None


def test_tensors_keep_their_form_and_groups() -> None:
    value = Tensors.of(
        {"a": np.arange(6.0).reshape(2, 3), "buffer/m": np.ones(2), "counter/n": np.array(3)}
    )
    encoded = value.with_flat(
        Sparse(6, np.array([1, 4]), Quantized(np.array([3, -5], np.int8), np.array([0.5]), 2))
    )
    spill = Spill()
    for one in (value, encoded):
        there = spill.tensors(one)
        assert equal(there, one)
        assert type(there.flat) is type(one.flat) or isinstance(one.flat, np.ndarray)
        assert there.nbytes == one.nbytes
        assert resident(there) == 0
    assert spill.written == value.nbytes + encoded.nbytes


def test_what_is_spilled_is_not_written_twice() -> None:
    spill = Spill()
    there = spill.array(np.arange(10.0))
    assert spill.array(there) is there
    assert spill.written == 80


def test_many_files_are_as_good_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT", 4096)
    spill, rng = Spill(), np.random.default_rng(0)
    arrays = [rng.standard_normal(int(size)) for size in rng.integers(1, 2000, 200)]
    stored = [spill.array(array) for array in arrays]
    homes = {id(segment_of(there)) for there in stored}
    assert 1 < len(homes) < 60  # they grow
    for array, there in zip(arrays, stored, strict=True):
        np.testing.assert_array_equal(read(there, 0, array.size), array)


def open_files(directory: Path) -> int:
    """Files of this process in a directory, those without a name included."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}").startswith(str(directory))
        except FileNotFoundError:
            continue
    return found


@posix
@proc
def test_space_is_free_when_the_last_array_is_gone(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    first = spill.array(np.arange(1000.0))
    assert list(tmp_path.iterdir()) == []  # without a name from the start
    spill.roll()
    second = spill.array(np.arange(2000.0))
    both = open_files(tmp_path)
    del first
    gc.collect()
    assert 0 < open_files(tmp_path) < both
    view = second[5:].view()
    del second, spill
    gc.collect()
    assert open_files(tmp_path) > 0
    np.testing.assert_array_equal(view, np.arange(5.0, 2000.0))
    del view
    gc.collect()
    assert open_files(tmp_path) == 0


@posix
@proc
def test_a_commit_frees_what_it_needed(tmp_path: Path) -> None:
    model = Tensors.of({"w": np.zeros(1000, np.float32)})
    plane = Local(Median(), NOTHING, budget=2 * model.nbytes, spill=tmp_path)
    plane.start(model, 0)
    for number in range(12):
        plane.put(number, Payload(model.with_flat(np.ones(1000, np.float32)), 1, 1, "delta"))
        plane.fold(number, 1.0, "a")
        if number % 6 == 5:
            assert open_files(tmp_path) > 0
            plane.commit() if number < 6 else plane.abandon()
            gc.collect()
            assert open_files(tmp_path) == 0


@posix
@proc
def test_closing_frees_what_is_held(tmp_path: Path) -> None:
    model = Tensors.of({"w": np.zeros(1000, np.float32)})
    plane = Local(Median(), NOTHING, budget=2 * model.nbytes, spill=tmp_path)
    plane.start(model, 0)
    for number in range(9):
        plane.put(number, Payload(model.with_flat(np.ones(1000, np.float32)), 1, 1, "delta"))
        if number < 4:
            plane.fold(number, 1.0, "a")
    assert open_files(tmp_path) > 0
    plane.close()
    gc.collect()
    assert open_files(tmp_path) == 0
    assert plane.resident == 0


def child(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@posix
def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, numpy as np; from shoal.spill import Spill\n"
        "kept = Spill(sys.argv[1]).array(np.arange(1e6))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert child(script, tmp_path).returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys, numpy as np
from shoal.aggregators import Median
from shoal.core import NOTHING
from shoal.errors import CheckpointError
from shoal.messages import Payload
from shoal.planes import Local
from shoal.tensors import Tensors, equal

model = Tensors.of({"w": np.zeros(1_000_000, np.float32)})
one = Payload(model.with_flat(np.full(1_000_000, 2, np.float32)), 1, 1, "delta")
plane = Local(Median(), NOTHING, budget=3 * model.nbytes, spill=sys.argv[1])
plane.start(model, 0)
for number in range(3):
    plane.put(number, one)
    plane.fold(number, 1.0, f"c{number}")
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
for attempt in (lambda: plane.put(3, one), plane.commit):
    try:
        attempt()
    except CheckpointError as error:
        print(error)
print(plane.folded, plane.version)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
plane.put(3, one)
plane.fold(3, 1.0, "c3")
print(plane.commit()["w"].max())
"""


@posix
def test_no_room_on_disk_is_a_typed_error_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the sizes of files stands in for a full disk."""
    done = child(FULL, tmp_path)
    assert done.returncode == 0, done.stderr
    put, commit, state, value = done.stdout.splitlines()
    for message in (put, commit):
        assert message.startswith(f"cannot spill 4000000 bytes to {tmp_path} after 0 bytes, ")
        assert "bytes free" in message
    assert state == "3 0"
    assert value == "2.0"


PEAK = """
import json, sys, numpy as np
from shoal.aggregators import Krum, Mean, Median
from shoal.core import NOTHING
from shoal.messages import Payload
from shoal.planes import Local
from shoal.tensors import Tensors

def peak():
    # Not getrusage, whose peak begins with that of the process that started this one.
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmHWM"].split()[0]) * 1024

size = 1_000_000
model = Tensors.of({"w": np.ones(size, np.float32)})
rng = np.random.default_rng(0)
np.sort(rng.standard_normal((9, 100)), axis=0)
rule = {"Median": Median(), "Krum": Krum(f=3), "Mean": Mean()}[sys.argv[2]]
plane = Local(rule, NOTHING, budget=5 * model.nbytes, spill=sys.argv[1])
plane.start(model, 0)
before = peak()
for number in range(40):
    value = rng.standard_normal(size, dtype=np.float32)
    plane.put(number, Payload(model.with_flat(value), 1, 1, "delta"))
    del value
for number in range(40):
    plane.fold(number, 1.0, f"c{number:03d}")
plane.commit()
print(json.dumps([peak() - before, model.nbytes, plane.spilled]))
"""


@proc
@pytest.mark.parametrize("rule", ["Median", "Krum", "Mean"])
def test_the_process_stays_within_the_budget(rule: str, tmp_path: Path) -> None:
    """Peak resident memory of 40 updates under 5: the budget, the update in hand, the new model."""
    done = child(PEAK, tmp_path, rule)
    assert done.returncode == 0, done.stderr
    grown, one, spilled = json.loads(done.stdout)
    assert spilled >= 35 * one
    assert 4 * one <= grown <= 7.5 * one


@posix
def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(CheckpointError, match=r"cannot spill 80 bytes to .*gone"):
        spill.array(np.arange(10.0))


@posix
def test_a_file_cut_short_is_a_typed_error(tmp_path: Path) -> None:
    there = Spill(tmp_path).array(np.arange(1e5))
    segment: Any = segment_of(there)
    os.ftruncate(segment.file.fileno(), 4096)
    with pytest.raises(CheckpointError, match="end 795904 bytes early"):
        read(there, 0, there.size)
