"""What a client keeps between tasks outlives its process."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import shoal
from net.served_support import Running, running, softmax
from net.test_serve import work
from shoal import wire
from shoal.client import ClientState
from shoal.errors import CheckpointError, ConfigError
from shoal.experiment import Experiment
from shoal.net.client import Client
from shoal.net.keepsake import Keepsake, home
from shoal.net.worker import Worker
from shoal.runner import execute
from shoal.tensors import Tensors, equal
from shoal.transforms import ErrorFeedback, TopK

SHOAL = [sys.executable, "-c", "import sys; from shoal.cli import main; sys.exit(main())"]
COMMITS = 40
pytestmark = pytest.mark.timeout(60)


def scaffold() -> Experiment:
    trainer = shoal.numpy.Softmax(lr=0.5, features=64, classes=10, backend="sequential")
    return softmax(
        COMMITS, data=shoal.data.digits(clients=2),
        algorithm=shoal.scaffold(population=2, trainer=trainer), evaluate_every=COMMITS,
    )  # fmt: skip


def feedback() -> Experiment:
    made = softmax(COMMITS, data=shoal.data.digits(clients=2), evaluate_every=COMMITS)
    algorithm = shoal.fedavg(
        trainer=made.algorithm.trainer, aggregator=shoal.Mean(exact=True),
        upload=ErrorFeedback(TopK(0.05)),
    )  # fmt: skip
    return softmax(COMMITS, data=made.data, algorithm=algorithm, evaluate_every=COMMITS)


def model(path: Path) -> Tensors:
    return wire.load((path / "model.safetensors").read_bytes())[0]


def at_version(server: Running, version: int) -> None:
    assert server.hall is not None
    end = time.monotonic() + 20
    while server.hall.desks["softmax"].host.served.node.version < version:
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("made", "kills"), [(scaffold, (9,)), (feedback, (6,))], ids=["scaffold", "error-feedback"]
)
def test_killed_and_started_again_a_client_goes_on_to_the_same_bits(
    made: object, kills: tuple[int, ...], tmp_path: Path
) -> None:
    assert callable(made)
    experiment, state = made(), tmp_path / "state"
    execute(experiment, tmp_path / "simulated")
    with running(tmp_path / "store", experiment, clients=2) as server:
        join = ["join", server.url, "--data", "share:c1", "--state", str(state)]
        process = subprocess.Popen([*SHOAL, *join], stdout=subprocess.DEVNULL)
        other = work(server.url, "c0")
        try:
            for version in kills:
                at_version(server, version)
                process.kill()
                process.wait(10)
                assert other.is_alive()  # the run is not over
                assert [p.name for p in state.iterdir()] == ["c1"]
                process = subprocess.Popen([*SHOAL, *join], stdout=subprocess.DEVNULL)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait(10)
        other.join(20)
        server.join()
    assert equal(model(tmp_path / "store" / "softmax"), model(tmp_path / "simulated"))
    assert list((state / "c1").iterdir()) == []  # the run is over


def test_a_state_that_is_lost_is_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same without its directory comes to other bits, and is told."""
    experiment = feedback()
    execute(experiment, tmp_path / "simulated")
    with running(tmp_path / "store", experiment, clients=2) as server:
        other = work(server.url, "c0")
        with Client(server.url, "c1") as first:
            worker = Worker(first, "share:c1", state=tmp_path / "a")
            for given in first:
                assert first.answer(given, worker._train(given)) == "accepted"
                worker._kept.settled(True)
                if given.task.number == 6:
                    break
            first._left = True  # as one that was killed
        with Client(server.url, "c1") as second:
            Worker(second, "share:c1", state=tmp_path / "b").run()
        other.join(20)
        server.join()
    assert "after task" in caplog.text and "begins anew" in caplog.text
    assert not equal(model(tmp_path / "store" / "softmax"), model(tmp_path / "simulated"))


class Joined:
    """What a keepsake asks of a client."""

    name, run_name, run_id, last = "../hospital 3", "cardio", "0123456789abcdef" * 2, -1

    def accepted(self) -> int:
        return self.last


def of(value: float) -> ClientState:
    return ClientState(Tensors.of({"w": np.full(3, value, np.float32)}), ())


def begun(folder: Path, last: int) -> tuple[Keepsake, float]:
    client = Joined()
    client.last = last
    kept = Keepsake(client, folder)  # type: ignore[arg-type]
    return kept, float(kept.state(lambda: of(0)).trainer.flat[0])


def test_what_counts_is_what_the_server_took(tmp_path: Path) -> None:
    kept, value = begun(tmp_path, -1)
    assert value == 0
    assert kept.folder.parent.parent == tmp_path and ".." not in kept.folder.parts
    kept.keep(3, of(1))
    kept.settled(True)
    kept.settled(False)  # a task that was not begun takes nothing away
    kept.keep(5, of(2))
    assert begun(tmp_path, 5)[1] == 2  # its answer came through, though nobody heard of it
    assert begun(tmp_path, 5)[1] == 2
    kept, value = begun(tmp_path, 5)
    kept.keep(8, of(3))
    kept.settled(False)
    assert kept.state(lambda: of(9)).trainer.flat[0] == 2
    kept.keep(9, of(4))  # killed here; the server never got it
    kept, value = begun(tmp_path, 5)
    assert value == 2 and [p.name for p in kept.folder.iterdir()] == ["5.state"]
    assert begun(tmp_path, 17)[1] == 0  # others worked under this name meanwhile
    assert not list(kept.folder.iterdir())
    kept.over()
    assert not kept.folder.exists()


def test_a_state_that_says_nothing_is_not_written(tmp_path: Path) -> None:
    client, empty = Joined(), ClientState(None, ())
    kept = Keepsake(client, tmp_path / "none")  # type: ignore[arg-type]
    assert kept.state(lambda: empty) == empty
    kept.keep(1, empty)
    kept.settled(True)
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_kept_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    kept, _ = begun(tmp_path / "file", -1)
    with pytest.raises(CheckpointError, match="give another --state"):
        kept.keep(1, of(1))
    kept, _ = begun(tmp_path, -1)
    kept.keep(1, of(1))
    file = kept.folder / "1.state"
    whole = file.read_bytes()
    for broken in (b"", whole[:-1], whole[:-1] + b"?", whole[:20]):
        file.write_bytes(broken)
        with pytest.raises(CheckpointError, match="not what was written"):
            begun(tmp_path, 1)
    odd = Joined()
    odd.run_id = "../../etc"
    with pytest.raises(ConfigError, match="run_id"):
        Keepsake(odd, tmp_path)  # type: ignore[arg-type]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert home() == tmp_path / "shoal" / "clients"
