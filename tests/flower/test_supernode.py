"""An unmodified `flower-supernode` in a run of ours, over its own protocol."""

import contextlib
import hashlib
import http.client
import json
import ssl
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flower.fleet_support import Place, free_port, kill
from shoal import wire
from shoal.tensors import Tensors

CRYPTOGRAPHY = pytest.importorskip("cryptography")


def model(folder: Path) -> Tensors:
    return wire.load((folder / "run" / "model.safetensors").read_bytes())[0]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "records.jsonl").open("rb")]


def test_a_supernode_beside_a_client_trains_as_the_same_code_in_process(tmp_path: Path) -> None:
    place = Place(tmp_path)
    modern = "modern/modern.py:app"
    with (
        place.serving("mixed", "flower_app") as url,
        place.supernode(url, "c0"),
        place.joined(url, "c1", modern),
    ):
        place.waited("mixed.log", "cost of run")
    with (
        place.serving("within", "flower_app") as url,
        place.joined(url, "c0", "flower_app/flower_app.py:app"),
        place.joined(url, "c1", modern),
    ):
        place.waited("within.log", "cost of run")
    mixed, within = model(tmp_path / "mixed"), model(tmp_path / "within")
    assert mixed == within
    assert np.abs(mixed.dense).max() > 0.1
    took_part = {
        r["client"] for r in records(tmp_path / "mixed") if r.get("outcome") == "aggregated"
    }
    assert len(took_part) == 2 and any(name.startswith("supernode-") for name in took_part)


def test_a_killed_supernode_fails_its_task_and_the_run_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path)
    begun = tmp_path / "begun"
    slow = f'slow="{begun}" pause=300'
    with (
        place.serving("store", "modern", "serving.patience=31") as url,
        place.supernode(url, "c0", config=slow) as node,
        place.joined(url, "c1", "modern/modern.py:app"),
    ):
        place.appeared(begun)  # it trains, in the second round
        kill(node)
        place.waited("store.log", "cost of run", most=90)
    lost = [
        r for r in records(tmp_path / "store")
        if r.get("outcome") == "failed" and str(r.get("client")).startswith("supernode-")
    ]  # fmt: skip
    assert len(lost) == 1 and lost[0]["reason"] == "the client left"


def test_a_supernode_outlives_the_server(tmp_path: Path) -> None:
    """What it trained when the server died counts behind the next one; it needs no new start."""
    place = Place(tmp_path)
    begun, port = tmp_path / "begun", free_port()
    modern, both = "modern/modern.py:app", contextlib.ExitStack()
    with both:
        with place.serving("store", "modern", port=port) as url:
            both.enter_context(place.supernode(url, "c0", config=f'slow="{begun}" pause=2'))
            both.enter_context(place.joined(url, "c1", modern))
            place.appeared(begun)
            kill(place.server)
        with place.serving("store", "modern", port=port):
            place.waited("store.log", "cost of run")
    found = [r for r in records(tmp_path / "store") if r.get("outcome")]
    assert [r["outcome"] for r in found] == ["aggregated"] * 6
    assert len({r["client"] for r in found}) == 2
    with (
        place.serving("within", "modern") as url,
        place.joined(url, "c0", modern),
        place.joined(url, "c1", modern),
    ):
        place.waited("within.log", "cost of run")
    assert model(tmp_path / "store") == model(tmp_path / "within")


def test_a_supernode_says_why_it_failed_and_leaves_when_it_is_stopped(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "c0.npz").unlink()
    with (
        place.serving("store", "modern", "serving.clients=1") as url,
        place.supernode(url, "c0") as node,
    ):
        said = place.waited("store.log", " failed: ")
        assert "FileNotFoundError" in said
        node.terminate()
        node.wait(20)
        link = http.client.HTTPConnection(url.split("//")[1], timeout=10)
        link.request("GET", "/v1/runs/run")
        run = json.loads(link.getresponse().read())
        link.close()
        assert run["status"] == "running" and run["clients"] == []
    failures = (tmp_path / "store" / "run" / "failures.jsonl").read_text("utf-8")
    assert "FileNotFoundError" in json.loads(failures.splitlines()[0])["reason"]


def test_behind_tls_only_known_keys_take_part(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    from shoal.net.audit import entries, verify
    from shoal.net.certificates import authority, issue

    place = Place(tmp_path)
    known = tmp_path / "store" / "access" / "supernodes"
    known.mkdir(parents=True)
    for name in ("hospital", "stranger"):
        key = ec.generate_private_key(ec.SECP384R1())
        kinds = (s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())
        (tmp_path / name).write_bytes(key.private_bytes(*kinds))
        public = key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
        if name == "hospital":
            (known / "hospital.pub").write_bytes(public)
    ca = authority(tmp_path / "ca")
    own = issue(ca, tmp_path / "ca", "server", ("127.0.0.1",))
    tls = (
        f"serving.certificate={own.certificate}", f"serving.key={own.key}", "serving.clients=1",
        "serving.limits.requests.burst=50", "serving.limits.requests.per_second=10",
        "serving.limits.largest=200000",
    )  # fmt: skip
    trusting = ("--root-certificates", str(ca.certificate), "--auth-supernode-private-key")
    with place.serving("store", "modern", *tls) as url:
        probe = Node(url, ssl.create_default_context(cafile=str(ca.certificate)))
        (known / "probe.pub").write_bytes(probe.pem)
        assert probe.post("push-object", bytes(200_001), probe.headers())[0] == 413
        found = [probe.beat(probe.headers()) for _ in range(60)]
        assert found[0][0] == 200 and found[-1][0] == 503  # after which nodes try again
        assert "probe asks too much" in found[-1][1]
        paths = json.loads(probe.get("/v1/openapi.json"))["paths"]
        assert len([path for path in paths if path.startswith("/v1/fleet/")]) == 12
        with place.supernode(url, "c1", *trusting, str(tmp_path / "stranger")) as node:
            assert node.wait(30) is not None
        place.waited("store.log", "a SuperNode is refused: the SuperNode's key is not known")
        with place.supernode(url, "c0", *trusting, str(tmp_path / "hospital")):
            place.waited("store.log", "cost of run")
    done = [r["client"] for r in records(tmp_path / "store") if r.get("outcome") == "aggregated"]
    assert done == ["hospital"] * 3
    log = tmp_path / "store" / "access" / "audit"
    assert verify(log).problem == ""
    noted = [(line["who"], line["what"], line["run"]) for line in entries(log)]
    assert ("hospital", "joined", "run") in noted
    denied = [line["detail"] for line in entries(log) if line["what"] == "denied"]
    assert any("not known here" in str(detail["problem"]) for detail in denied)
    assert all(str(detail["request"]).startswith("POST /v1/fleet/") for detail in denied)


class Node:
    """Calls the Fleet protocol with a key of its own."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._key = ec.generate_private_key(ec.SECP384R1())
        self.pem = self._key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        self.number = int.from_bytes(hashlib.sha256(self.pem).digest()[:8], "big") >> 1
        self._at, self._context = url.split("//")[1], context

    def headers(self, age: float = 0.0, text: str = "") -> dict[str, str]:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        stamp = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
        signed = self._key.sign((text or stamp).encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "flwr-public-key": b64encode(self.pem).decode(),
            "flwr-signature": b64encode(signed).decode(),
            "flwr-timestamp": stamp,
        }

    def beat(self, headers: dict[str, str], number: int = -1) -> tuple[int, str]:
        """A heartbeat: SendNodeHeartbeatRequest{node {node_id}} in protobuf."""
        varint, rest = b"", self.number if number < 0 else number
        while rest > 127:
            varint, rest = varint + bytes([rest & 127 | 128]), rest >> 7
        node = b"\x08" + varint + bytes([rest])
        return self.post("send-node-heartbeat", b"\x0a" + bytes([len(node)]) + node, headers)

    def get(self, path: str) -> str:
        link = self._link()
        link.request("GET", path)
        found = link.getresponse().read().decode()
        link.close()
        return found

    def _link(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._at, timeout=10)
        return http.client.HTTPSConnection(self._at, timeout=10, context=self._context)

    def post(self, name: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        link = self._link()
        link.request("POST", f"/v1/fleet/{name}", body, headers)
        reply = link.getresponse()
        found = reply.status, reply.read().decode("latin-1")
        link.close()
        return found


def test_who_is_not_who_it_says_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.serving("store", "modern") as url:
        node = Node(url)
        used = node.headers()
        assert node.beat(used)[0] == 200
        for headers, number, said in (
            ({}, -1, "not signed"),
            (node.headers(text="something else"), -1, "signature is wrong"),
            ({**node.headers(), "flwr-signature": "AAAA"}, -1, "cannot be read"),
            ({**node.headers(), "flwr-public-key": "AAAA"}, -1, "cannot be read"),
            (used, -1, "repetition"),
            (node.headers(age=1000), -1, "1000 s ago"),
            (node.headers(age=-1000), -1, "ago"),
            (node.headers(), 5, "another SuperNode"),
        ):
            status, text = node.beat(headers, number)
            assert status == 401 and said in text, (said, status, text)
        assert node.post("activate-node", b"\x0a\x02no", node.headers())[0] == 401
        assert node.post("pull-messages", b"\xff\xff", node.headers())[0] == 400
        assert node.post("no-such-thing", b"", node.headers())[0] == 404
        assert node.beat(node.headers())[0] == 200
