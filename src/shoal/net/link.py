"""A client's connection to a server: HTTP/1.1, kept open, from the standard library."""

import contextlib
import hashlib
import http.client
import json
import logging
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import numpy as np

from shoal.errors import ConfigError, ShoalError
from shoal.net.protocol import CHUNK, MAX_TEXT, VERSION, Raw, Refused

FIRST, LONGEST = 0.1, 5.0  # seconds between attempts to reach the server again
QUIET = 10.0  # seconds of them after which people are told
OURS = ("application/json", "application/vnd.shoal.", "text/plain; version=")  # types of answers
AWAY = (502, 503, 504)  # of a proxy whose server is away
MAX_BODY = 2 << 20  # bytes of an answer that is not a download
log = logging.getLogger("shoal.net")
Signer = Callable[[str, str, str, Sequence[Raw]], Mapping[str, str]]


class Unreachable(ShoalError):
    """The server cannot be reached, or the connection to it broke."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def unsigned(method: str, path: str, query: str, body: Sequence[Raw]) -> Mapping[str, str]:
    """The headers that sign nothing."""
    return {}


def address(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and run ("" if it names none) of a URL.

    Raises:
        ConfigError: if it is none of a server.
    """
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError as error:
        raise ConfigError("url", f"{url!r}: {error}") from error
    run = found.path.strip("/")
    if found.scheme not in ("http", "https") or not found.hostname or "/" in run:
        problem = f"{url!r} is no address of a server: write http://host:port or .../run"
        raise ConfigError("url", problem)
    return found.scheme, found.hostname, port or (443 if found.scheme == "https" else 80), run


class Link:
    """One connection, made when it is needed and again after it broke; for one thread.

    Args:
        url: of the server; a run in it is passed over.
        context: TLS; None for the system's authorities.
        sign: gives the headers that say who asks.
    """

    def __init__(
        self, url: str, *, context: ssl.SSLContext | None = None, sign: Signer = unsigned
    ) -> None:
        self._scheme, self._host, self._port, _ = address(url)
        self.url = f"{self._scheme}://{self._host}:{self._port}"
        self._context, self._sign = context, sign
        self.reached = False  # whether the server has answered before
        self._known = False  # and as a server of ours
        self.timeout = 60.0
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] = {},
        body: Sequence[Raw] = (),
        headers: Mapping[str, str] = {},
        timeout: float = 0.0,
        most: int = MAX_BODY,
    ) -> Reply:
        """Send a request and read its answer.

        Args:
            path: below the version.
            body: its pieces; sent where they lie.
            timeout: seconds without a byte either way after which the connection counts as broken;
                0 for the link's own.
            most: bytes of an answer that are read.

        Raises:
            Refused: for an answer of 400 and above.
            Unreachable: if there is no connection, or it breaks.
        """
        with self._guarded():
            response = self._send(method, path, query, body, headers, timeout or self.timeout)
            self.reached = True
            data = response.read(most + 1)
            _whole(response, data)
        return self._answer(response, data)

    def download(
        self, path: str, into: memoryview, start: int, headers: Mapping[str, str], timeout: float
    ) -> int:
        """Fill memory from `start` on with what lies at a path; the bytes that are there then.

        Raises:
            Refused: for an answer of 400 and above.
            Unreachable: if there is no connection.
        """
        ranged = {**headers, "range": f"bytes={start}-"}
        at = start
        try:
            with self._guarded():
                response = self._send("GET", path, {}, (), ranged, timeout)
                if response.status >= 400:
                    data = response.read(MAX_TEXT)
                    self._answer(response, data)
                while at < len(into):
                    count = response.readinto(into[at : at + CHUNK])
                    if not count:
                        break
                    at += count
                if at == len(into):
                    response.read()
                else:
                    self.close()
        except Unreachable:
            if at == start:
                raise
        return at

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int],
        body: Sequence[Raw],
        headers: Mapping[str, str],
        timeout: float,
    ) -> http.client.HTTPResponse:
        connection = self._connected(timeout)
        where = f"/v{VERSION}/{path}"
        asked = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
        size = sum(memoryview(piece).nbytes for piece in body)
        sent = {"content-length": str(size), **headers, **self._sign(method, where, asked, body)}
        if size <= MAX_TEXT:
            content: bytes | Iterator[memoryview] = b"".join(body)
        else:
            content = _slices(body)
        target = f"{where}?{asked}" if asked else where
        if connection.sock is None:
            connection.connect()
        # The server may have answered before it had all, and says why.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, content, sent)
        return connection.getresponse()

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        if self._connection is None:
            if self._scheme == "https":
                self._connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=timeout, context=self._context
                )
            else:
                self._connection = http.client.HTTPConnection(
                    self._host, self._port, timeout=timeout
                )
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        else:
            self._connection.timeout = timeout
        return self._connection

    def _answer(self, response: http.client.HTTPResponse, data: bytes) -> Reply:
        """An answer of the server; or, of whatever else answers in its place, what that means."""
        headers = {name.lower(): value for name, value in response.getheaders()}
        status = response.status
        if status != 204 and not headers.get("content-type", "").startswith(OURS):
            problem = f"{self.url} answered {status}, but not as a Shoal server does"
            self.reached = self._known
            if self._known or status in AWAY:
                raise Unreachable(problem)
            raise ConfigError("url", f"{problem}; check the address")
        self._known = True
        if status < 400:
            return Reply(status, headers, data)
        wait = headers.get("retry-after", "0")
        try:
            found = json.loads(data)
            error, problem, todo = (str(found[name]) for name in ("error", "problem", "todo"))
        except (ValueError, KeyError, TypeError):
            raise Unreachable(f"{self.url} answered {status} and did not say why") from None
        seconds = float(wait) if wait.isdecimal() else 0.0
        raise Refused(status, error, problem, todo, retry_after=seconds)

    def _guarded(self) -> "_Guard":
        return _Guard(self)


class _Guard:
    """Turns what breaks a connection into `Unreachable`, and closes it."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Refused):
            return
        self._link.close()
        if isinstance(error, ssl.SSLError):
            from shoal.net.tls import explain

            told = explain(error, self._link.url)
            # A server that was killed hangs up, and one that worked may get a new certificate.
            if self._link.reached or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
                raise Unreachable(told) from error
            raise ConfigError("url", told) from error
        if isinstance(error, socket.gaierror):
            problem = f"{self._link.url}: there is no such host ({error.strerror})"
            if self._link.reached:
                raise Unreachable(problem) from error
            raise ConfigError("url", problem) from error
        if isinstance(error, OSError | http.client.HTTPException):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            clear = self._link.url.startswith("http:")
            hung_up = isinstance(error, http.client.RemoteDisconnected)
            if hung_up and self._link.reached and not clear:
                reason = "it hung up; if it wants client certificates, check this side's"
            elif hung_up and not self._link.reached:
                told = "speaks TLS, dial https://" if clear else "wants a certificate, give one"
                reason = f"it hung up; if it {told}"
            raise Unreachable(f"cannot reach {self._link.url}: {reason}") from error


class Backoff:
    """Waits between attempts: longer each time, by chance, so that clients do not come at once.

    Args:
        limit: seconds after which the next failure is final.
        rest: how to wait.
    """

    def __init__(self, limit: float, rest: Callable[[float], object] = time.sleep) -> None:
        self._limit, self._rest = limit, rest
        self._since: float | None = None
        self._count, self._told = 0, False

    def wait(self, error: ShoalError, least: float = 0.0) -> None:
        """Wait after a failure; raises it once the limit has passed."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > self._limit:
            raise error
        if not self._told and now - self._since > QUIET:
            self._told = True
            log.warning("%s; trying again for at most %.0f s", error, self._limit)
        longest = min(LONGEST, FIRST * 2.0**self._count)
        self._count += 1
        left = max(0.0, self._since + self._limit - now)  # then once more, and no later
        self._rest(min(max(least, random.random() * longest), left + FIRST))

    def reset(self) -> None:
        """It worked again."""
        self._since, self._count, self._told = None, 0, False


def listed(link: Link) -> list[str]:
    """The names of the runs that go on and that this client may touch."""
    runs = json.loads(link.ask("GET", "runs").body)["runs"]
    return [str(run["name"]) for run in runs if run["status"] == "running"]


def only_run(link: Link) -> str:
    """The name of the one run that goes on.

    Raises:
        ConfigError: if there are several, or none.
    """
    names = listed(link)
    if len(names) != 1:
        told = f"the server has {len(names)} runs going on ({', '.join(names) or 'none'})"
        raise ConfigError("url", f"{told}: name one by {link.url}/NAME or --run NAME")
    return names[0]


def sha256(body: Sequence[Raw]) -> str:
    """The SHA-256 of a body in pieces, in hexadecimal digits."""
    made = hashlib.sha256()
    for piece in body:
        made.update(piece)
    return made.hexdigest()


def room(size: int) -> memoryview:
    """Memory for so many bytes, aligned; it is taken when it is written to."""
    return np.empty(size, np.uint8).data


def _slices(body: Sequence[Raw]) -> Iterator[memoryview]:
    for piece in body:
        view = memoryview(piece).cast("B") if len(piece) else memoryview(b"")
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]


def _whole(response: http.client.HTTPResponse, data: bytes) -> None:
    """Return if an answer came whole; `http.client` takes what is cut short for its end."""
    known = response.getheader("content-length") or response.getheader("transfer-encoding")
    if response.length or (response.status < 400 and response.status != 204 and not known):
        raise http.client.IncompleteRead(data, response.length)
