"""A real server with TLS and keys on loopback, and what it refuses."""

import asyncio
import io
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest
from served_support import softmax

from shoal.errors import ConfigError
from shoal.messages import Payload
from shoal.net import logs, signing, tls
from shoal.net.access import Gate, Open, Principal, Role
from shoal.net.audit import entries, verify
from shoal.net.certificates import Pair, authority, issue
from shoal.net.client import Client
from shoal.net.enroll import enrolled
from shoal.net.gate import Guard
from shoal.net.hall import Hall
from shoal.net.link import Link
from shoal.net.operations import Operations, problems
from shoal.net.protocol import Refused
from shoal.net.server import Server, Serving
from shoal.net.signing import Key

pytestmark = pytest.mark.timeout(60)


@contextmanager
def listening(
    store: Path, operations: Operations, gate: Gate, context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """A server in a thread, with one run named "one" that waits for clients; its URL."""
    ready, found = threading.Event(), []
    serving = Serving(port=0, store=str(store), clients=4)

    async def main() -> None:
        server = Server(
            serving, gate=gate, context=context, routes=operations.routes,
            sinks=operations.sinks, observe=operations.observe,
        )  # fmt: skip

        def told(url: str, hall: Hall) -> None:
            found.extend([url, asyncio.get_running_loop(), server])
            ready.set()

        try:
            await server.serve([("one", softmax())], told)
        finally:
            ready.set()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(20) and found
    yield found[0]
    found[1].call_soon_threadsafe(found[2].stop)
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    folder = tmp_path_factory.mktemp("pki")
    ca = authority(folder)
    hosts = ("127.0.0.1", "localhost")
    return {"ca": ca, "server": issue(ca, folder, "server", hosts), "eve": issue(ca, folder, "eve")}


class Guarded:
    """What a test needs of a server with keys."""

    def __init__(self, url: str, guard: Guard, ca: Path) -> None:
        self.url, self.guard, self.trust = url, guard, tls.client_context(ca)

    def key(self, name: str, role: Role, *runs: str) -> Key:
        return self.guard.identity.issue(name, role, 0.0, frozenset(runs))

    def ask(self, key: Key | None, method: str, path: str, table: object = None) -> dict:
        sign = partial(signing.headers, key) if key else lambda *asked: {}
        link = Link(self.url, context=self.trust, sign=sign)
        body = [json.dumps(table).encode()] if table is not None else []
        try:
            return json.loads(link.ask(method, path, body=body).body)
        finally:
            link.close()

    def refused(self, status: int, key: Key | None, method: str, path: str, table=None) -> str:
        with pytest.raises(Refused) as told:
            self.ask(key, method, path, table)
        assert told.value.status == status
        return told.value.problem


@pytest.fixture(scope="module")
def served(pki: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("served")
    guard = Guard(folder / "guard", "test")
    context = tls.server_context(
        pki["server"].certificate, pki["server"].key, pki["ca"].certificate
    )
    with listening(folder / "store", Operations(guard), guard, context) as url:
        assert url.startswith("https://")
        yield Guarded(url, guard, pki["ca"].certificate)
    guard.close()
    assert verify(folder / "guard" / "audit", "test").problem == ""


def test_a_token_a_key_and_the_run(served: Guarded, tmp_path: Path) -> None:
    operator = served.key("op", "operator")
    grant = {"runs": ["one"], "lifetime": 60}
    token = served.ask(operator, "POST", "tokens", grant)["token"]
    path = tmp_path / "alice.key"
    key = enrolled(served.url, token, "alice", path, served.trust)
    assert enrolled(served.url, "", "alice", path, served.trust) == key
    assert [file.name for file in tmp_path.iterdir()] == ["alice.key"]
    answer = served.ask(key, "POST", "runs/one/join", {"client": "alice"})
    assert answer["client"] == "alice" and answer["session"]
    assert "used up" in _refused(
        lambda: enrolled(served.url, token, "bob", tmp_path / "b", served.trust)
    )
    told = [(e["what"], e["client"], e["run"]) for e in _audit(served)]
    for entry in (("issued", "", ""), ("enrolled", "alice", ""), ("joined", "alice", "one")):
        assert entry in told


def _refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refused) as told:
        call()
    return told.value.problem


def _audit(served: Guarded) -> list[dict]:
    return list(entries(served.guard.folder / "audit"))


def test_an_answer_that_was_lost_uses_nothing_up(served: Guarded, tmp_path: Path) -> None:
    token = served.ask(served.key("op", "operator"), "POST", "tokens", {})["token"]
    path = tmp_path / "carol.key"
    first = enrolled(served.url, token, "carol", path, served.trust)
    nonce = served.guard.identity._file.execute(
        "SELECT nonce FROM keys WHERE name = 'carol'"
    ).fetchone()[0]
    path.unlink()
    (tmp_path / "carol.key.pending").write_text(nonce)  # as if cut off before the answer
    assert enrolled(served.url, token, "carol", path, served.trust) == first
    with pytest.raises(ConfigError, match="ask the operator for an enrolment token"):
        enrolled(served.url, "", "dave", tmp_path / "dave.key", served.trust)


def test_everybody_else_is_refused(served: Guarded) -> None:
    client = served.key("dora", "client", "one")
    viewer, operator = served.key("vera", "viewer"), served.key("olga", "operator", "one")
    assert "not signed" in served.refused(401, None, "GET", "runs")
    assert "wrong" in served.refused(401, Key(client.id, bytes(32)), "POST", "runs/one/join", {})
    assert "no access to run 'two'" in served.refused(403, client, "POST", "runs/two/join", {})
    other = {"client": "alice"}
    assert "may not act as" in served.refused(403, client, "POST", "runs/one/join", other)
    for method, path in (("GET", "runs/one"), ("POST", "runs/one/stop"), ("GET", "keys")):
        assert "is a client" in served.refused(403, client, method, path)
    listed = served.ask(client, "GET", "runs")["runs"]  # those that it may join, and no more
    assert [set(run) for run in listed] == [{"name", "status", "problem"}]
    assert listed[0]["name"] == "one"
    assert served.ask(viewer, "GET", "runs")["runs"][0]["name"] == "one"
    assert "is a viewer" in served.refused(403, viewer, "POST", "runs/one/join", {})
    assert "as a whole" in served.refused(403, olga_asks := operator, "POST", "tokens", {})
    assert served.ask(olga_asks, "GET", "runs/one")["name"] == "one"


def test_a_replayed_request_is_refused(served: Guarded) -> None:
    viewer = served.key("victor", "viewer")
    once = signing.headers(viewer, "GET", "/v1/runs", "", [])
    link = Link(served.url, context=served.trust, sign=lambda *asked: once)
    assert link.ask("GET", "runs").status == 200
    assert "sent before" in _refused(lambda: link.ask("GET", "runs"))
    link.close()


def test_a_body_that_was_exchanged_is_refused(served: Guarded) -> None:
    operator = served.key("oscar", "operator")
    body = b'{"role": "viewer"}'
    signed = signing.headers(operator, "POST", "/v1/tokens", "", [body])
    link = Link(served.url, context=served.trust, sign=lambda *asked: signed)
    forged = b'{"role":"operator"}'[: len(body)].ljust(len(body))
    assert "not the one that" in _refused(lambda: link.ask("POST", "tokens", body=[forged]))
    link.close()


def test_keys_are_listed_and_revoked(served: Guarded) -> None:
    operator, victim = served.key("otto", "operator"), served.key("mallory", "viewer")
    served.ask(victim, "GET", "runs")
    listed = served.ask(operator, "GET", "keys")["keys"]
    assert {"mallory", "otto"} <= {row["name"] for row in listed}
    assert victim.secret.hex() not in json.dumps(listed)
    served.ask(operator, "POST", "revoke", {"key": victim.id})
    assert "was revoked" in served.refused(401, victim, "GET", "runs")
    assert "no key" in served.refused(422, operator, "POST", "revoke", {"key": "none"})
    assert "either" in served.refused(400, operator, "POST", "revoke", {})
    token = served.ask(operator, "POST", "tokens", {})["token"]
    served.ask(operator, "POST", "revoke", {"token": token.split(".")[1]})
    body = {"token": token, "client": "x", "nonce": "n", "proof": "p"}
    assert "wrong" in served.refused(401, None, "POST", "enroll", body)


@pytest.mark.parametrize(
    "grant",
    [
        {"role": "king"},
        {"runs": "one"},
        {"runs": [1]},
        {"uses": 0},
        {"lifetime": -1},
        {"uses": "1"},
    ],
)
def test_grants_that_are_none(served: Guarded, grant: dict) -> None:
    operator = served.key("oda", "operator")
    with pytest.raises(Refused) as told:
        served.ask(operator, "POST", "tokens", grant)
    assert told.value.status in (400, 422)


def test_a_certificate_instead_of_a_key(served: Guarded, pki: dict[str, Pair]) -> None:
    pair = pki["eve"]
    context = tls.client_context(pki["ca"].certificate, pair.certificate, pair.key)
    link = Link(served.url, context=context)
    assert "CN=eve" in _refused(lambda: link.ask("GET", "runs"))
    served.guard.identity.trust("CN=eve", Principal("eve", "viewer"))
    assert link.ask("GET", "runs").status == 200
    link.close()


def test_health_readiness_and_metrics_need_no_more_than_they_should(served: Guarded) -> None:
    assert served.ask(None, "GET", "health")["status"] == "ok"
    assert served.ask(None, "GET", "ready") == {"status": "ready", "checks": {"store": "ok"}}
    assert "not signed" in served.refused(401, None, "GET", "metrics")


def test_metrics_and_logs_of_an_open_server(tmp_path: Path) -> None:
    operations, stream = Operations(), io.StringIO()
    logs.configure("json", stream=stream)
    with listening(tmp_path / "store", operations, Open()) as url:
        link = Link(url)
        link.ask("POST", "runs/one/join", body=[b'{"client": "alice"}'])
        with pytest.raises(Refused):
            link.ask("GET", "runs/none")
        link.close()
        with urlopen(f"{url}/v1/metrics", timeout=10) as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            text = answer.read().decode()
    assert 'shoal_requests_total{endpoint="POST runs/{run}/join",status="200"} 1.0' in text
    assert 'shoal_requests_total{endpoint="GET runs/{run}",status="404"} 1.0' in text
    assert 'shoal_request_seconds_count{endpoint="POST runs/{run}/join"} 1.0' in text
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert any(line.get("run") == "one" and "alice joined" in line["message"] for line in lines)


def test_a_whole_run_is_measured(tmp_path: Path) -> None:
    operations = Operations()
    with listening(tmp_path / "store", operations, Open()) as url:
        threads = [threading.Thread(target=_answer, args=(url, name)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        text = operations.metrics.text().decode()
    for line in (
        'shoal_commits_total{run="one"} 4.0',
        'shoal_updates_total{run="one"} 16.0',
        'shoal_tasks_total{outcome="aggregated",run="one"} 16.0',
        'shoal_work_seconds_count{run="one",step="fold"} 16.0',
        'shoal_work_seconds_count{run="one",step="commit"} 4.0',
        'shoal_running{run="one"} 0.0',
    ):
        assert line in text, text


def _answer(url: str, name: str) -> None:
    """A client whose updates change nothing."""
    with Client(url, name) as client:
        for work in client:
            client.answer(work, Payload(work.model.with_flat(0 * work.model.flat), 1))


def test_a_store_that_is_not_there_is_not_ready(tmp_path: Path) -> None:
    assert problems(tmp_path) == {"store": ""}
    assert "cannot be read" in problems(tmp_path / "none")["store"]
