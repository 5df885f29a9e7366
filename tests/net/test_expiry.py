"""Certificates that end while a run goes on: told in one line, never a hang; renewed in place."""

import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from net.test_protocol import answer_of
from net.test_served_processes import HOSTS, refused, secure, serving
from shoal.errors import ConfigError
from shoal.net import signing, tls
from shoal.net.access import Principal
from shoal.net.certificates import Pair, authority, ends, issue
from shoal.net.client import Client
from shoal.net.identity import Identity
from shoal.net.link import Unreachable
from shoal.net.renewal import AGAIN, Renewal

MINUTE = 60 / 86400  # days; certificates begin a minute ago


def replace(there: Pair, new: Pair) -> None:
    """As a renewal does: first one file, then the other."""
    for old, fresh in ((there.certificate, new.certificate), (there.key, new.key)):
        os.replace(fresh, old)


def seconds(number: float) -> float:
    return MINUTE + number / 86400


def dialed(url: str, ca: Pair) -> float:
    """When the certificate that a server shows ends, in Unix time."""
    host, _, port = url.rpartition("//")[2].rpartition(":")
    context = tls.client_context(ca.certificate)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), 10) as raw,
        context.wrap_socket(raw, server_hostname=host) as file,
    ):
        shown = ssl.DER_cert_to_PEM_cert(file.getpeercert(binary_form=True) or b"")
    path = ca.certificate.with_name("shown.pem")
    path.write_text(shown)
    return ends(path).timestamp()


def shown(url: str, ca: Pair, end: datetime) -> None:
    """Wait until a server shows the certificate that ends then."""
    limit = time.monotonic() + 10
    while dialed(url, ca) != end.timestamp():
        assert time.monotonic() < limit
        time.sleep(0.05)


def raised(call: Callable[[], object]) -> tuple[str, float]:
    began = time.monotonic()
    with pytest.raises(Unreachable) as told:
        call()
    return str(told.value), time.monotonic() - began


@pytest.mark.timeout(90)
def test_certificates_that_end_during_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = authority(tmp_path)
    server = issue(ca, tmp_path, "server", HOSTS)
    more = [f"serving.authority={ca.certificate}", "serving.clients=2"]
    with serving(tmp_path, *secure(server, *more)) as (process, url):
        identity = Identity(tmp_path / "store" / "access")
        key = identity.issue("c0", "client", time.time())
        identity.trust("CN=c1", Principal("c1", "client"))
        identity.close()
        own = issue(ca, tmp_path, "c1", days=seconds(4))
        trust = tls.client_context(ca.certificate)
        mutual = tls.client_context(ca.certificate, own.certificate, own.key)
        signed = Client(url, "c0", context=trust, sign=partial(signing.headers, key), outage=1.0)
        shows = Client(url, "c1", context=mutual, outage=1.0)
        work = []
        for client in (signed, shows):
            client.join()
        for client in (signed, shows):
            given = client.pull()
            assert given is not None
            work.append(given)
        short = issue(ca, tmp_path / "short", "server", HOSTS, days=seconds(3))
        end = ends(short.certificate)
        replace(server, short)
        process.send_signal(signal.SIGHUP)
        shown(url, ca, end)
        left = max(end, ends(own.certificate)) - datetime.now(UTC)
        time.sleep(max(0.0, left.total_seconds()) + 0.2)
        assert shows._pulse is not None
        for client in (signed, shows):
            client._link.close()  # as a proxy does that has had enough
        told, took = raised(lambda: signed.answer(work[0], answer_of(work[0])))
        assert "the server's certificate has expired; renew it" in told and took < 8
        how = ["--name", "c9", "--set", f"ca={ca.certificate}"]
        assert "has expired; renew it" in refused(capsys, "join", f"{url}/softmax", *how)
        good = issue(ca, tmp_path / "good", "server", HOSTS)
        end = ends(good.certificate)
        replace(server, good)
        shown(url, ca, end)
        assert signed.answer(work[0], answer_of(work[0])) == "accepted"
        told, took = raised(lambda: shows.answer(work[1], answer_of(work[1])))
        assert "certificate" in told and "this side's" in told and took < 8
        signed.close()
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert said.count("has expired: clients refuse new connections") == 1
    assert said.count("taken anew for new connections") == 2


def test_what_is_no_renewal_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shoal.net")
    ca = authority(tmp_path)
    pair = issue(ca, tmp_path, "server", HOSTS)
    good = pair.certificate.read_bytes(), pair.key.read_bytes()
    renewal = Renewal(tls.server_context(pair.certificate, pair.key), pair.certificate, pair.key)
    renewal.look()
    assert caplog.messages == []
    other = issue(ca, tmp_path / "other", "server", HOSTS)
    old = issue(ca, tmp_path / "old", "server", HOSTS, starts=-9, days=5)
    for certificate, key, said in (
        (other.certificate.read_bytes(), good[1], "not a certificate and its key"),
        (b"", good[1], "no certificate in PEM"),
        (old.certificate.read_bytes(), old.key.read_bytes(), "expired on"),
    ):
        caplog.clear()
        pair.certificate.write_bytes(certificate)
        pair.key.write_bytes(key)
        for _ in range(3):  # told once
            renewal.look()
        assert len(caplog.messages) == 1 and said in caplog.messages[0]
        assert "from before stays in use" in caplog.messages[0]
    caplog.clear()
    pair.certificate.unlink()
    renewal.look()
    assert "cannot read" in caplog.messages[0]
    caplog.clear()
    pair.certificate.write_bytes(other.certificate.read_bytes())
    pair.key.write_bytes(other.key.read_bytes())
    renewal.look()
    assert caplog.messages == [f"{pair.certificate}: taken anew for new connections"]


def test_that_it_ends_soon_is_said_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = authority(tmp_path)
    pair = issue(ca, tmp_path, "server", HOSTS, days=9)
    renewal = Renewal(tls.server_context(pair.certificate, pair.key), pair.certificate, pair.key)
    renewal.look()
    assert caplog.messages == []  # it was said when the server began
    renewal._told -= AGAIN + timedelta(seconds=1)
    for _ in range(3):
        renewal.look()
    assert len(caplog.messages) == 1 and "expires on" in caplog.messages[0]
    with pytest.raises(ConfigError, match="cannot read"):
        ends(tmp_path / "none.pem")
