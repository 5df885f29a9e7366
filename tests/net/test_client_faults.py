"""A client whose server breaks off in the middle of its answers, or ended while it was away."""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from net.served_support import running, softmax
from shoal.errors import ModelError
from shoal.messages import Payload, Task
from shoal.net import client as client_module
from shoal.net.client import Client, Work
from shoal.net.link import Unreachable
from shoal.net.protocol import split_work
from shoal.tensors import Layout, Tensors

pytestmark = pytest.mark.timeout(60)


@contextmanager
def cutting(port: int, cuts: int) -> Iterator[int]:
    """A port that breaks off so many answers half-way, and forwards the connections behind."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)

        def forward(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            for count in range(100):
                try:
                    given, _ = server.accept()
                except OSError:
                    return
                if count < cuts:
                    given.recv(65536)
                    given.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")
                    given.close()
                    continue
                behind = socket.create_connection(("127.0.0.1", port))
                for pair in ((given, behind), (behind, given)):
                    threading.Thread(target=forward, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_a_server_that_answers_is_tried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a server that never answers is given up soon: that is a wrong URL."""
    monkeypatch.setattr(client_module, "START", 0.0)
    with running(tmp_path, softmax(), clients=1) as server:
        port = int(server.url.rpartition(":")[2])
        with cutting(port, 4) as near:
            client = Client(f"http://127.0.0.1:{near}/softmax", "a")
            client.join()
            assert client.experiment
            client.close()
    with pytest.raises(Unreachable):
        Client(f"http://127.0.0.1:{port}/softmax", "a").join()


def test_a_server_that_dies_in_the_handshake_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No answer came early: there is no connection that one could be read from."""
    monkeypatch.setattr(client_module, "START", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)

        def serve() -> None:
            for _ in range(2):
                given, _ = server.accept()
                given.recv(1)
                reset = struct.pack("ii", 1, 0)  # close with RST
                given.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                given.close()

        threading.Thread(target=serve, daemon=True).start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/x"
        with pytest.raises(Unreachable, match="reset"):
            Client(url, "a").join()


class Over(BaseHTTPRequestHandler):
    """A server that was restarted: it does not know the session, and the run is over."""

    def _tell(self, status: int, error: str) -> None:
        size = int(self.headers.get("content-length", 0))
        self.rfile.read(size)
        table = {"error": error, "problem": "run 'x' is over: 5 commits", "todo": ""}
        if self.path.endswith("join") and not self.server.joined:  # type: ignore[attr-defined]
            self.server.joined = True  # type: ignore[attr-defined]
            status = 200
            table = {"session": "00", "patience": "10", "experiment": "", "run_id": "0"}
        body = json.dumps(table).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self._tell(401, "session")

    def do_POST(self) -> None:
        self._tell(410, "over")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_an_answer_to_a_run_that_ended_meanwhile_is_over() -> None:
    with HTTPServer(("127.0.0.1", 0), Over) as server:
        server.joined = False  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.server_port}/x", "a")
        client.join()
        model = Tensors(Layout(("x",), ((3,),), np.dtype(np.float32)), np.zeros(3, np.float32))
        work = Work(Task(0, "a", 0), model)
        assert client.answer(work, Payload(model, 1)) == "over"
        assert "5 commits" in client.over
        client.close()
        server.shutdown()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{}", b'{"task": 3, "model": {}}', b"[" * 100_000, b'{"task": {"id": []}}',
        b'{"task": {"id": 0, "client": "a", "version": 0}, "model": {"version": []}}',
    ],
)  # fmt: skip
def test_work_that_is_none_is_said_and_asked_for_again(text: bytes) -> None:
    """`Client` tries again after this error: what is damaged on its way comes whole then."""
    with pytest.raises(ModelError, match="work cannot be read"):
        split_work(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ModelError, match="work cut short"):
        split_work((len(text) + 1).to_bytes(8, "little") + text)
