"""Models go over real sockets as changes: the bits of the simulator, and its bytes both ways."""

import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from net.served_support import CLIENTS, running, softmax
from shoal import wire
from shoal.client import work
from shoal.core import chain
from shoal.errors import ShoalError
from shoal.experiment import Experiment
from shoal.messages import Payload
from shoal.net.client import Client, Work
from shoal.net.protocol import INLINE
from shoal.net.served import Served
from shoal.net.worker import Worker
from shoal.runner import execute, replay
from shoal.tensors import equal
from shoal.tracking import read
from shoal.transforms import Entropy, ErrorFeedback, Quantize, TopK

CODEC = chain(TopK(0.1), Quantize(8), Entropy())


def compressed(commits: int = 3, **changes: Any) -> Experiment:
    made = softmax(commits, downlink=CODEC)
    upload = chain(ErrorFeedback(CODEC.transforms[0]), Quantize(8), Entropy())
    return replace(made, algorithm=replace(made.algorithm, upload=upload), **changes)


def serve(client: Client) -> None:
    with suppress(ShoalError), client:  # it is stopped while it waits
        Worker(client, f"share:{client.name}").run()


def start(url: str, name: str) -> threading.Thread:
    thread = threading.Thread(target=serve, args=(Client(url, name),), daemon=True)
    thread.start()
    return thread


def trained_by(worker: Worker, given: Work) -> Payload:
    return work(worker.algorithm, given.task, given.model, worker.data, None, worker.seed)[0]


def bytes_of(path: Path) -> list[tuple[str, int, int, int]]:
    return sorted((t.client, t.version, t.bytes_down, t.bytes_up) for t in read(path).tasks)


def model_of(path: Path) -> Any:
    return wire.load((path / "model.safetensors").read_bytes())[0]


def same_run(tmp_path: Path, experiment: Experiment) -> list[tuple[str, int, int, int]]:
    execute(experiment, tmp_path / "simulated")
    with running(tmp_path / "store", experiment) as server:
        for thread in [start(server.url, name) for name in CLIENTS]:
            thread.join(20)
            assert not thread.is_alive()
        server.join()
    assert [run.status for run in server.ended] == ["done"]
    path = tmp_path / "store" / "softmax"
    assert equal(model_of(path), model_of(tmp_path / "simulated"))
    assert equal(replay(path).model, model_of(path))
    assert bytes_of(path) == bytes_of(tmp_path / "simulated")
    return bytes_of(path)


def test_compressed_both_ways_a_served_run_has_the_simulators_bits_and_bytes(
    tmp_path: Path,
) -> None:
    found = same_run(tmp_path, compressed())
    whole = next(down for _, version, down, _ in found if version == 0)
    assert all(down < whole / 2 for _, version, down, _ in found if version)
    assert all(up < whole / 2 for _, _, _, up in found)


def test_so_has_an_uncompressed_one_and_one_whose_upload_is_auto(tmp_path: Path) -> None:
    same_run(tmp_path, softmax())
    same_run(tmp_path / "auto", softmax(upload="auto"))


def test_bytes_in_the_records_are_those_that_crossed_the_wire(
    tmp_path: Path, monkeypatch: Any
) -> None:
    down: dict[int, int] = {}
    up: dict[int, int] = {}
    pull, push = Client._pull, Client._push

    def pulled(self: Client) -> Any:
        import shoal.net.client as module

        split = module.split_work

        def noted(data: bytes) -> Any:
            task, model, body = split(data)
            down[task.id] = len(body)
            return task, model, body

        monkeypatch.setattr(module, "split_work", noted)
        found = pull(self)
        monkeypatch.setattr(module, "split_work", split)
        return found

    def pushed(self: Client, task: int, pieces: Any) -> Any:
        up[task] = sum(len(memoryview(piece).cast("B")) for piece in pieces)
        return push(self, task, pieces)

    monkeypatch.setattr(Client, "_pull", pulled)
    monkeypatch.setattr(Client, "_push", pushed)
    experiment = compressed(3)
    with running(tmp_path, experiment, clients=1) as server:
        start(server.url, CLIENTS[0]).join(20)
        server.join()
    tasks = read(tmp_path / "softmax").tasks
    assert {t.task: (t.bytes_down, t.bytes_up) for t in tasks} == {
        task: (down[task], up[task]) for task in up
    }
    assert len(tasks) == 3


def test_a_client_that_begins_anew_gets_the_whole_model_and_nothing_else_changes(
    tmp_path: Path,
) -> None:
    experiment = softmax(8, downlink=CODEC)
    execute(experiment, tmp_path / "simulated")
    with running(tmp_path / "store", experiment) as server:
        threads = [start(server.url, name) for name in CLIENTS[1:]]
        answered, died = 0, False
        while answered < 8:  # a new process again and again, once with a task in hand
            with Client(server.url, CLIENTS[0]) as client:
                worker = Worker(client, f"share:{CLIENTS[0]}")
                client._left = True  # it dies, and says nothing
                for _ in range(2 if answered % 3 else 1):
                    given = client.pull()
                    if given is None or (answered == 3 and not died):
                        died = True
                        break
                    client.answer(given, trained_by(worker, given))
                    answered += 1
        for thread in threads:
            thread.join(20)
        server.join()
    path = tmp_path / "store" / "softmax"
    assert equal(model_of(path), model_of(tmp_path / "simulated"))
    mine = [t for t in read(path).tasks if t.client == CLIENTS[0]]
    whole = mine[0].bytes_down
    assert 2 < sum(t.bytes_down == whole for t in mine) < len(mine)
    assert equal(replay(path).model, model_of(path))


def test_a_client_that_lost_its_model_or_has_a_wrong_one_is_given_it_whole(
    tmp_path: Path,
) -> None:
    experiment = softmax(6, downlink=CODEC)
    execute(experiment, tmp_path / "simulated")
    with running(tmp_path / "store", experiment) as server:
        threads = [start(server.url, name) for name in CLIENTS[1:]]
        with Client(server.url, CLIENTS[0]) as client:
            worker = Worker(client, f"share:{CLIENTS[0]}")
            for count, given in enumerate(client):
                client.answer(given, trained_by(worker, given))
                assert client._held is not None
                number, held = client._held
                if count == 1:
                    client._held = None
                if count == 3:  # one bit is another
                    flat = held.dense.copy()
                    flat[5] = np.nextafter(flat[5], np.float32(9))
                    client._held = number, held.with_flat(flat)
        for thread in threads:
            thread.join(20)
        server.join()
    path = tmp_path / "store" / "softmax"
    assert equal(model_of(path), model_of(tmp_path / "simulated"))
    mine = [t.bytes_down for t in read(path).tasks if t.client == CLIENTS[0]]
    assert [down == mine[0] for down in mine] == [True, False, True, False, True, False]


def test_a_restarted_server_gives_the_same_changes(tmp_path: Path) -> None:
    experiment = softmax(300, downlink=CODEC)
    with running(tmp_path, experiment) as server:
        clients = [Client(server.url, name) for name in CLIENTS]
        threads = [
            threading.Thread(target=serve, args=(client,), daemon=True) for client in clients
        ]
        for thread in threads:
            thread.start()
        assert server.hall is not None
        while server.hall.desks["softmax"].host.served.node.version < 3:
            time.sleep(0.01)
        server.stop()
        for client in clients:
            client.stop()
    served = Served(experiment, tmp_path / "softmax")
    try:
        assert 3 <= served.node.version < 300 and served.work
        for work in served.work.values():
            number, nbytes = served.node.downlink.state.out[work.task.id]
            assert (work.volume.number, work.volume.size) == (number, nbytes)
            assert work.volume.changes is not None
    finally:
        served.finish("interrupted", 0.0)
    for thread in threads:
        thread.join(10)


def test_models_above_a_mebibyte_are_downloaded_as_changes(tmp_path: Path) -> None:
    features, size = 64, INLINE // 4 // 64 + 200
    experiment = shoal.Experiment(
        model=None,
        data=shoal.data.digits(clients=2),
        algorithm=shoal.fedavg(
            trainer=shoal.numpy.Softmax(
                lr=0.5, features=features, classes=size, backend="sequential", local_steps=1
            ),
            aggregator=shoal.Mean(exact=True),
        ),
        commits=2,
        downlink=chain(TopK(0.3), Entropy()),
        name="large",
    )
    execute(experiment, tmp_path / "simulated")
    with running(tmp_path / "store", experiment, clients=2) as server:
        for thread in [start(server.url, name) for name in CLIENTS[:2]]:
            thread.join(30)
        server.join()
    path = tmp_path / "store" / "large"
    assert equal(model_of(path), model_of(tmp_path / "simulated"))
    assert bytes_of(path) == bytes_of(tmp_path / "simulated")
