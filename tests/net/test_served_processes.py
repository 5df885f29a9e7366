"""`shoal serve` and `shoal join` as real processes over TLS, and what they refuse in one line."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from net.served_support import CLIENTS, running, softmax
from shoal.cli import main
from shoal.experiment import to_toml
from shoal.net import client, link
from shoal.net.certificates import Pair, authority, issue
from shoal.net.server import bound
from shoal.tracking import read

SHOAL = [sys.executable, "-c", "import sys; from shoal.cli import main; sys.exit(main())"]
HOSTS = ("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    folder = tmp_path_factory.mktemp("pki")
    ca, other = authority(folder), authority(folder / "other", "Other")
    return {
        "ca": ca,
        "other": other,
        "server": issue(ca, folder, "server", HOSTS),
        "expired": issue(ca, folder, "expired", HOSTS, starts=-10, days=5),
        "c0": issue(ca, folder, "c0"),
        "eve": issue(other, folder / "other", "eve"),
        "late": issue(ca, folder, "late", starts=-10, days=5),
    }


def begin(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*SHOAL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def secure(pair: Pair, *more: str) -> list[str]:
    settings = [f"serving.certificate={pair.certificate}", f"serving.key={pair.key}", *more]
    return [part for setting in settings for part in ("--set", setting)]


@contextmanager
def serving(
    folder: Path, *arguments: str, commits: int = 3
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server process for one run; its process and its URL."""
    toml = folder / "softmax.toml"
    toml.write_text(to_toml(softmax(commits=commits)), "utf-8")
    process = begin("serve", str(toml), "--store", str(folder / "store"), "--port", "0", *arguments)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"https?://\S+", line)
        assert found, (line, process.stderr.read() if process.stderr else "")
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is told in one line, with exit code 2, by a command run in this process."""
    capsys.readouterr()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert main(arguments) == 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        logger = logging.getLogger("shoal")
        logger.handlers, logger.propagate = [], True
    told = capsys.readouterr().err.splitlines()
    lines = [line for line in told if line.startswith("shoal: ") and "loopback only" not in line]
    assert len(lines) == 1, told
    assert not any(line.startswith("Traceback") for line in told)
    return lines[0]


@pytest.mark.timeout(60)
def test_token_key_certificate_and_a_trained_model(tmp_path: Path, pki: dict[str, Pair]) -> None:
    """Three clients enroll with tokens, one shows a certificate; the server writes it all down."""
    more = [f"serving.authority={pki['ca'].certificate}", "serving.clients=4", "serving.log=json"]
    with serving(tmp_path, *secure(pki["server"], *more)) as (server, url):
        assert url.startswith("https://127.0.0.1:")
        store = str(tmp_path / "store")
        trust = f"ca={pki['ca'].certificate}"
        joins = []
        from shoal.net.access import Principal
        from shoal.net.identity import Grant, Identity

        identity = Identity(tmp_path / "store" / "access")
        identity.trust("CN=c0", Principal("c0", "client", frozenset({"softmax"})))
        for name in CLIENTS:
            how = ["--set", trust]
            if name == "c0":
                pair = pki["c0"]
                how += ["--set", f"certificate={pair.certificate}", "--set", f"key={pair.key}"]
            else:
                token = identity.token(Grant(client=name), time.time())
                how += ["--set", f"token={token}", "--set", f"secret={tmp_path / name}.key"]
            joins.append(
                begin("join", f"{url}/softmax", "--data", f"share:{name}", "--name", name, *how)
            )
        identity.close()
        for join in joins:
            out, err = join.communicate(timeout=40)
            assert join.returncode == 0, err
            assert "joined softmax" in out and "3 commits" in out
        assert server.wait(20) == 0
        assert server.stderr is not None
        assert all(line.startswith(("{", "shoal:")) for line in server.stderr.read().splitlines())
    run = read(tmp_path / "store" / "softmax")
    assert run.meta.status == "done" and run.commits[-1].version == 3
    assert run.evaluations[-1].metrics["accuracy"] > 0.8
    assert main(["show", "audit", store]) == 0


def test_who_does_not_belong_is_told_so(
    tmp_path: Path, pki: dict[str, Pair], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """All of them against a server process, in one line each."""
    monkeypatch.setattr(client, "START", 0.2)
    more = [f"serving.authority={pki['ca'].certificate}"]
    with serving(tmp_path, *secure(pki["server"], *more)) as (_, url):
        run, trust = f"{url}/softmax", f"ca={pki['ca'].certificate}"

        def join(*settings: str, at: str = run, ca: str = trust) -> str:
            sets = [part for setting in (ca, *settings) for part in ("--set", setting)]
            return refused(capsys, "join", at, "--data", "share:c0", "--name", "c0", *sets)

        secret = f"secret={tmp_path / 'c0.key'}"
        assert "not signed" in join()
        assert "token" in join(secret, "token=shoal.0.0")
        assert "missing; ask the operator" in join(f"secret={tmp_path / 'none.key'}", "token=")
        assert "not trusted here" in join(ca=f"ca={pki['other'].certificate}")
        assert "https://" in join(at=run.replace("https", "http"))
        pair = pki["eve"]
        assert "certificate" in join(f"certificate={pair.certificate}", f"key={pair.key}")
        pair = pki["late"]
        assert "certificate" in join(f"certificate={pair.certificate}", f"key={pair.key}")
        pair = pki["c0"]
        told = join(f"certificate={pair.certificate}", f"key={pair.key}")
        assert "not enrolled" in told
        assert "cannot read" in join(f"certificate={tmp_path}/none", f"key={tmp_path}/none")


def test_servers_that_cannot_serve(
    tmp_path: Path, pki: dict[str, Pair], capsys: pytest.CaptureFixture[str]
) -> None:
    toml, store = tmp_path / "softmax.toml", str(tmp_path / "store")
    toml.write_text(to_toml(softmax()), "utf-8")

    def serve(*arguments: str, at: str = store) -> str:
        return refused(capsys, "serve", str(toml), "--store", at, *arguments)

    assert "expired on" in serve("--port", "0", *secure(pki["expired"]))
    foreign = Pair(pki["server"].certificate, pki["c0"].key)
    assert "not a certificate and its key" in serve("--port", "0", *secure(foreign))
    assert "no certificate" in serve("--port", "0", "--set", "serving.host=0.0.0.0")
    with bound("127.0.0.1", 0) as listening:
        port = str(listening.getsockname()[1])
        assert "choose another --port" in serve("--port", port)
    with running(tmp_path / "held", softmax()):
        assert "held by another server" in serve("--port", "0", at=str(tmp_path / "held"))
    (tmp_path / "file").write_text("")
    assert "--store" in serve("--port", "0", at=str(tmp_path / "file" / "store"))
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "--store" in serve("--port", "0", at=str(tmp_path / "locked" / "store"))
    assert "serving.log" in serve("--set", "serving.log=xml")
    assert "no package offers" in serve("--port", "0", "--set", "serving.traces=none")


def test_clients_that_cannot_join(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, softmax()) as server:
        assert server.hall is not None

        def join(url: str = server.url, data: str = "share:c0", *settings: str) -> str:
            return refused(capsys, "join", url, "--name", "c0", "--data", data, *settings)

        assert "--data" in join(data="")
        assert "no data at" in join(data=str(tmp_path / "none.npz"))
        assert "no client 'nobody'" in join(data="share:nobody")
        assert "no run 'none'" in join(url=f"{server.url}/none")
        assert "no address of a server" in join(url="ftp://127.0.0.1")
        assert "no address of a server" in join(url="127.0.0.1:7733")
        np.savez(tmp_path / "empty.npz", x=np.zeros((0, 64), np.float32), y=np.zeros(0, np.int64))
        assert "holds no examples" in join(data=str(tmp_path / "empty.npz"))
        desk = server.hall.desks["softmax"]
        desk.toml = desk.toml.replace("features = 64", "features = -1")
        assert "features" in join()
        desk.toml = desk.toml.replace("softmax", "unknown_part")
        assert "unknown_part" in join()


def test_a_client_of_several_runs_takes_turns_and_each_tells_its_end(tmp_path: Path) -> None:
    """One real process, two runs and one that it cannot work for."""
    runs = [softmax(commits=4, name=name) for name in ("a", "b")]
    odd = softmax(name="odd")
    with running(tmp_path, *runs, odd, clients=1, stay=True) as server:
        assert server.hall is not None
        desk = server.hall.desks["odd"]
        desk.toml = desk.toml.replace("features = 64", "features = -1")
        process = begin("join", server.url, "--run", "*", "--data", "share:c0")
        out, err = process.communicate(timeout=40)
        assert process.returncode == 2
        assert {"a: run 'a' is over: 4 commits", "b: run 'b' is over: 4 commits"} <= set(
            out.splitlines()
        )
        assert err.startswith("shoal: odd: ") and "features" in err and err.count("\n") == 1
    for name in ("a", "b"):
        assert read(tmp_path / name).commits[-1].version == 4


@pytest.mark.parametrize("status", [200, 404, 502])
def test_what_answers_in_a_server_s_place(
    status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's server is told at once; a proxy whose server is away may be waited for."""
    monkeypatch.setattr(client, "START", 0.2)

    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("content-length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}/x"
        told = refused(capsys, "join", url, "--data", "share:c0")
        assert f"answered {status}, but not as a Shoal server does" in told
        assert ("check the address" in told) == (status != 502)
        other.shutdown()


def test_what_is_no_server_or_another_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "START", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    told = refused(capsys, "join", f"http://127.0.0.1:{port}/x", "--data", "share:c0")
    assert "cannot reach" in told
    assert "no such host" in refused(capsys, "join", "http://no.such.invalid/x", "--data", "a")
    monkeypatch.setattr(link, "VERSION", 2)
    with running(tmp_path, softmax()) as server:
        told = refused(capsys, "join", f"{server.url}/softmax", "--data", "share:c0")
        assert "update the older side" in told


@pytest.mark.timeout(60)
def test_sigterm_saves_and_the_next_server_goes_on(tmp_path: Path) -> None:
    """Signals to real processes: the server saves, the client leaves, and both come back."""
    arguments = ("--set", "serving.clients=1")
    with serving(tmp_path, *arguments, commits=100_000) as (server, url):
        join = begin("join", f"{url}/softmax", "--data", "share:c0", "--name", "c0")
        assert join.stdout is not None
        assert "joined" in join.stdout.readline()
        time.sleep(0.3)
        join.send_signal(signal.SIGTERM)
        out, err = join.communicate(timeout=15)
        assert (join.returncode, err) == (0, "") and "left" in out
        server.send_signal(signal.SIGTERM)
        out, _ = server.communicate(timeout=15)
        assert server.returncode == 0 and "is saved" in out
    run = read(tmp_path / "store" / "softmax")
    assert run.meta.status == "interrupted" and len(run.commits) > 0
    process = begin("serve", "--store", str(tmp_path / "store"), "--port", "0")
    assert process.stdout is not None
    assert "serving softmax at" in process.stdout.readline()  # without being named
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=15)
    assert process.returncode == 0
