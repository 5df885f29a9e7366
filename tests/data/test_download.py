"""Downloads from a real server on this machine."""

import hashlib
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from shoal.data import Npz, fetch
from shoal.data.download import cache_dir, local
from shoal.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 9000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []
    files: dict[str, bytes] = {}

    def do_GET(self):
        self.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        data = self.files.get(self.path, CONTENT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:-1000] if self.path == "/cut" else data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Handler.asked, Handler.files = [], {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def kept(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_downloads_once(server, tmp_path):
    first = fetch(f"{server}/set.bin?x=1", SHA)
    assert first.read_bytes() == CONTENT and first.name == f"{SHA[:12]}-set.bin"
    assert fetch(f"{server}/set.bin?x=1", SHA.upper()) == first
    assert len(Handler.asked) == 1
    assert kept(tmp_path / "cache") == [first.name]


def test_a_damaged_copy_is_downloaded_again(server):
    path = fetch(f"{server}/set.bin", SHA)
    path.write_bytes(b"damaged")
    assert fetch(f"{server}/set.bin", SHA).read_bytes() == CONTENT
    assert len(Handler.asked) == 2


@pytest.mark.parametrize(
    ("name", "sha", "problem"),
    [
        ("set.bin", "0" * 64, f"sha256 is {SHA}, expected 0000"),
        ("missing", SHA, "404"),
        ("cut", SHA, "cannot be downloaded"),
    ],
)
def test_wrong_content_is_not_kept(server, tmp_path, name, sha, problem):
    with pytest.raises(DataError, match=problem):
        fetch(f"{server}/{name}", sha)
    assert kept(tmp_path / "cache") == []


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match=r"Without a network, put the file at .*-a\.npz"):
        fetch(f"http://127.0.0.1:{port}/a.npz", SHA)
    assert kept(tmp_path) == []


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch(f"{server}/set.bin", SHA)


def test_urls_need_a_checksum_and_the_web():
    with pytest.raises(ConfigError, match="64 hex digits") as caught:
        fetch("https://example.org/a", "")
    assert caught.value.field == "sha256"
    with pytest.raises(ConfigError, match="http"):
        fetch("file:///etc/hostname", SHA)


def test_a_file_of_ones_own_is_checked_too(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert local(str(tmp_path / "a"), SHA) == tmp_path / "a"
    assert local(str(tmp_path / "a")) == tmp_path / "a"
    with pytest.raises(DataError, match="expected"):
        local(str(tmp_path / "a"), "0" * 64)


def test_a_data_set_by_url(server, tmp_path):
    np.savez(tmp_path / "d.npz", x_train=np.eye(20), y_train=np.arange(20) % 2)
    data = (tmp_path / "d.npz").read_bytes()
    Handler.files = {"/d.npz": data}
    described = Npz(
        f"{server}/d.npz", x_test="", y_test="", clients=2, sha256=hashlib.sha256(data).hexdigest()
    )
    assert len(described.load(0).train) == 16


@pytest.mark.parametrize(
    ("platform", "end"),
    [("linux", ".cache/shoal"), ("darwin", "Library/Caches/shoal"), ("win32", "shoal/cache")],
)
def test_default_places(monkeypatch, platform, end):
    for name in ("SHOAL_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_dir().as_posix().endswith(end)
