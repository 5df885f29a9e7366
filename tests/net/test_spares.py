"""Files of payloads that are written over: never while somebody reads them, never unsynced."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from net.served_support import running
from net.test_protocol import answer_of, wide
from shoal import journal
from shoal.errors import CheckpointError
from shoal.messages import Payload
from shoal.net import spares as module
from shoal.net.client import Client
from shoal.net.link import Link
from shoal.net.protocol import Refused
from shoal.net.spares import Spares, mark, marked
from shoal.tensors import Tensors


def filled(spares: Spares, path: Path, data: bytes) -> int:
    """A payload's file, and its inode."""
    file = spares.made(path, len(data))
    os.write(file, data)
    mark(file, len(data))
    inode = os.fstat(file).st_ino
    os.close(file)
    return inode


def test_a_file_is_written_over_and_holds_nothing_before(tmp_path: Path) -> None:
    spares = Spares(tmp_path, 1 << 20)
    inode = filled(spares, tmp_path / "1.bin", b"a" * 100_000)
    assert marked(tmp_path / "1.bin") == 100_000
    spares.give(tmp_path / "1.bin")
    assert not (tmp_path / "1.bin").exists()
    file = spares.made(tmp_path / "2.part", 100_001)
    assert os.fstat(file).st_ino == inode
    assert marked(tmp_path / "2.part") == 0
    os.close(file)
    assert spares.bytes == 0


def test_what_somebody_reads_is_never_written_over(tmp_path: Path) -> None:
    spares = Spares(tmp_path, 1 << 20)
    inode = filled(spares, tmp_path / "1.bin", b"a" * 100_000)
    view = np.frombuffer(journal.mapped(tmp_path / "1.bin")[:100_000], np.uint8)[5:]
    spares.give(tmp_path / "1.bin")
    assert filled(spares, tmp_path / "2.bin", b"b" * 100_000) != inode
    assert (view == ord("a")).all()
    del view
    spares.give(tmp_path / "2.bin")
    assert spares.bytes > 0


def test_spare_files_are_bounded_and_fit(tmp_path: Path) -> None:
    spares = Spares(tmp_path, 300_000)
    for i in range(3):
        filled(spares, tmp_path / f"{i}.bin", b"a" * 100_000)
    for i in range(3):
        spares.give(tmp_path / f"{i}.bin")
    assert spares.bytes == 2 * (128 << 10)
    filled(spares, tmp_path / "small.bin", b"a")  # far too large a file for this
    filled(spares, tmp_path / "large.bin", b"a" * 200_000)
    assert spares.bytes == 2 * (128 << 10)
    Spares(tmp_path, 300_000)  # another server
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.bin", "small.bin"]


def test_a_mark_that_cannot_be_counts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "1.part"
    assert marked(path) == 0
    for data in (b"", b"abc", bytes(10) + b"\xff" * 8):
        path.write_bytes(data)
        assert marked(path) == 0


def test_a_journal_waits_for_the_files_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: int) -> None:
        os.close(file)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "_sync", broken)
    (tmp_path / journal.PAYLOADS).mkdir()
    spares = Spares(tmp_path / journal.PAYLOADS, 1 << 20)
    log = journal.Journal(tmp_path, 0, spares.settle)
    spares.sync("1.bin", spares.made(tmp_path / journal.PAYLOADS / "1.bin", 10))
    log.append(
        journal.ex.Push(1, "a", Payload(Tensors.of({"w": np.zeros(2, np.float32)}), 1), 10),
        1.0,
        file="1.bin",
    )
    with pytest.raises(CheckpointError, match=r"1\.bin: Input/output error"):
        log.sync()
    log.close()
    assert list(journal.entries(tmp_path)) == []


def test_rounds_write_over_the_files_of_rounds_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    real = Spares._taken

    def seen(self: Spares, path: Path, size: int) -> int:
        file = real(self, path, size)
        taken.append(file >= 0)
        return file

    monkeypatch.setattr(Spares, "_taken", seen)
    made = replace(wide(commits=99), checkpoint_every=1)
    with running(tmp_path, made, clients=1) as server:
        with Client(server.url, "a") as client:
            first = None
            for count, work in enumerate(client):
                first = work.model.flat.copy() if first is None else first
                np.testing.assert_allclose(work.model.flat, first + count, atol=1e-5)
                ones = np.full(work.model.layout.size, 1, np.float32)
                client.answer(work, Payload(work.model.with_flat(ones), 1))
                if count == 8:
                    break
        server.stop()
    assert sum(taken) >= 2 and not any(taken[:2]), taken


def test_a_disk_that_fails_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failing = module._sync, [True]

    def sync(file: int) -> None:
        real(file)
        if failing:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "_sync", sync)
    with running(tmp_path, wide(commits=2), clients=1, stay=True) as server:
        client = Client(server.url, "a", outage=0.0)
        client.join()
        work = client.pull()
        assert work is not None
        with pytest.raises(Refused) as told:
            client.answer(work, answer_of(work))
        assert (told.value.status, told.value.error) == (503, "stopped")
        failing.clear()
        Link(server.url).ask("POST", "runs/wide/resume")
        assert client.answer(work, answer_of(work)) == "accepted"
        client.close()


def test_a_model_comes_with_its_task_or_by_range(tmp_path: Path) -> None:
    with running(tmp_path, wide(), clients=1) as server, Client(server.url, "a") as client:
        asked: list[str] = []
        download = client._link.download

        def counted(path: str, *rest: object) -> int:
            asked.append(path)
            return download(path, *rest)  # type: ignore[arg-type]

        client._link.download = counted  # type: ignore[method-assign,assignment]
        work = client.pull()
        client._room = 0
        again = client.pull()
        assert work is not None and again is not None
        assert work.task == again.task
        assert (work.model.flat == again.model.flat).all()
        assert len(asked) == 1
