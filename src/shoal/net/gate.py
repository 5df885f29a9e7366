"""The gates of a server that others can reach: signed or certified, limited, and written down.

`Guard(folder, server)` is all of it over one folder: admit, enroll, note.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shoal.net.access import Denied, Gate, Principal, Request
from shoal.net.audit import AuditLog, Entry
from shoal.net.identity import Identity
from shoal.net.limits import Limiter, Limits, body_length
from shoal.net.nonces import Nonces
from shoal.net.signing import credentials, save, verify
from shoal.net.tls import common_name

LARGEST_ENROLMENT = 4096  # bytes


@dataclass(frozen=True)
class Keyed:
    """Admits whoever holds a trusted certificate or signs with a key.

    Attributes:
        identity: the keys and certificates.
        nonces: what was signed already.
        named: whether every verified certificate makes a client of its common name; else only
            those that `identity` trusts do.
        clock: Unix time in seconds.
    """

    identity: Identity
    nonces: Nonces
    named: bool = False
    clock: Callable[[], float] = time.time

    def admit(self, request: Request) -> Principal:
        """The principal behind a request; see `Gate`."""
        if request.certificate and "authorization" not in request.headers:
            return self._certified(request.certificate)
        given = credentials(request)
        known = self.identity.known(given.key)
        verify(request, given, known.key.secret)
        if known.revoked:
            raise Denied(401, f"key {given.key} was revoked; ask the operator for a new token")
        self.nonces.admit(given.key, given.nonce, given.time, self.clock())
        return known.principal

    def _certified(self, subject: str) -> Principal:
        try:
            return self.identity.trusted(subject)
        except Denied:
            if not self.named:
                raise
        name = common_name(subject)
        if self.identity.holds(name):
            raise Denied(403, f"{name!r} has a key; sign with it, or ask the operator to trust it")
        return Principal(name, "client")


@dataclass(frozen=True)
class Limited:
    """Lets a gate through at a bounded rate, per principal and, for refusals, per address.

    Attributes:
        gate: who admits.
        limits: the rates.
        clock: seconds; a monotonic clock.
    """

    gate: Gate
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.monotonic
    _requests: Limiter = field(init=False)
    _bytes: Limiter = field(init=False)
    _refusals: Limiter = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_requests", Limiter(self.limits.requests))
        object.__setattr__(self, "_bytes", Limiter(self.limits.bytes_up))
        object.__setattr__(self, "_refusals", Limiter(self.limits.refusals))

    def admit(self, request: Request) -> Principal:
        """The principal behind a request; see `Gate`."""
        try:
            length = body_length(request.headers.get("content-length", ""), self.limits.largest)
            principal = self.gate.admit(request)
        except Denied as denied:
            raise self.refusal(request.peer, denied) from denied
        self.spend(principal.name, length)
        return principal

    def spend(self, name: str, length: int) -> None:
        """Count a request with a body of so many bytes; raises `Denied` (429) if it is too much."""
        now = self.clock()
        for limiter, amount in ((self._requests, 1), (self._bytes, length)):
            wait = limiter.wait(name, amount, now)
            if wait:
                raise Denied(429, f"{name} asks too much; wait {wait:.1f} s", wait)

    def refusal(self, peer: str, denied: Denied) -> Denied:
        """A refusal, or 429 if the address has had too many; whoever belongs is not held up."""
        wait = self._refusals.wait(peer, 1, self.clock())
        problem = f"{peer} is refused too often, last: {denied.problem}"
        return Denied(429, problem, wait) if wait else denied


class Guard:
    """All that guards a server that others can reach, over one folder.

    Args:
        folder: keys, nonces and the audit log go there, readable by their owner alone; a new one
            gets the key of a first operator, `operator.key`.
        server: the server's name, to which the audit log is bound; "" for one made by chance and
            kept in the folder.
        limits: of each client and address.
        named: see `Keyed`.

    Raises:
        ConfigError: if the folder cannot be used.
        CheckpointError: if the audit log was changed.
    """

    def __init__(
        self,
        folder: Path,
        server: str = "",
        limits: Limits | None = None,
        *,
        named: bool = False,
    ) -> None:
        self.folder = folder
        self.identity = Identity(folder)
        self.nonces = Nonces(folder / "nonces")
        self.log = AuditLog(folder / "audit", server or _name(folder / "server.id"))
        if not self.identity.issued():  # a new server: whoever has its disk is its operator
            first = self.identity.issue("operator", "operator", time.time())
            save(first, folder / "operator.key")
            self.log.write(Entry("server", "issued", client="operator", detail={"key": first.id}))
        self._gate = Limited(Keyed(self.identity, self.nonces, named), limits or Limits())

    def admit(self, request: Request) -> Principal:
        """The principal behind a request; see `Gate`."""
        try:
            return self._gate.admit(request)
        except Denied as denied:
            self._write_down(request, denied)
            raise

    def spend(self, name: str, headers: Mapping[str, str]) -> None:
        """Count a request of one who was admitted otherwise, e.g. by a SuperNode's key.

        Raises:
            Denied: 429 if it is too often or too much at once, 413 if it is too large.
        """
        limits = self._gate.limits
        self._gate.spend(name, body_length(headers.get("content-length", ""), limits.largest))

    def refused(self, request: Request, denied: Denied) -> Denied:
        """Write down that somebody was not admitted otherwise; what to tell them."""
        told = self._gate.refusal(request.peer, denied)
        self._write_down(request, told)
        return told

    def enroll(self, request: Request, body: bytes) -> dict[str, str]:
        """Answer `POST enroll`, which needs no key; see `enroll`."""
        try:
            answer = enroll(self.identity, body, time.time())
        except Denied as denied:
            raise self.refused(request, denied) from denied
        detail = {"key": answer["key"]}
        self.log.write(Entry(request.peer, "enrolled", client=answer["client"], detail=detail))
        return answer

    def note(self, principal: Principal, what: str, run: str = "", client: str = "") -> None:
        """Write down what a principal did, e.g. "submitted" or "stopped"."""
        self.log.write(Entry(principal.name, what, run, client))

    def close(self) -> None:
        """Close the files."""
        self.log.close()
        self.nonces.close()
        self.identity.close()

    def _write_down(self, request: Request, denied: Denied) -> None:
        if denied.status == 429:  # too often: it is in the log often enough
            return
        asked = f"{request.method} {request.path}"[:300]
        detail: dict[str, str | int | float]
        detail = {"status": denied.status, "problem": denied.problem, "request": asked}
        self.log.write(Entry(request.peer, "denied", detail=detail))


def _name(path: Path) -> str:
    if not path.exists():
        made = path.with_name(f"{path.name}.new")
        made.write_text(secrets.token_hex(8), "ascii")
        made.replace(path)
    return path.read_text("ascii")


def enroll(identity: Identity, body: bytes, now: float) -> dict[str, str]:
    """Answer `POST enroll`: the key of a client, from a body made by `identity.enrolment`.

    Raises:
        Denied: 400 or 413 if the body is not an enrolment; else see `Identity.enroll`.
    """
    if len(body) > LARGEST_ENROLMENT:
        raise Denied(413, f"an enrolment has at most {LARGEST_ENROLMENT} bytes")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise Denied(400, "an enrolment is a JSON object") from None
    names = ("token", "client", "nonce", "proof")
    if not isinstance(asked, dict) or set(asked) != set(names):
        raise Denied(400, f"an enrolment is a JSON object of {', '.join(names)}")
    if not all(isinstance(value, str) and value.isprintable() for value in asked.values()):
        raise Denied(400, "every field of an enrolment is a string of printable characters")
    token, client, nonce, proven = (asked[name] for name in names)
    key = identity.enroll(token, client, nonce, proven, now)
    return {"key": key.id, "secret": key.secret.hex(), "client": client}
