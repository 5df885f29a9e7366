"""Who asks, and what they may do: the one gate that every request passes before anything is done.

A gate turns a request into a principal or raises `Denied`; `allowed` then decides on the action.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, Protocol

from shoal.errors import ConfigError, ShoalError

Role = Literal["operator", "client", "viewer"]
ROLES: tuple[Role, ...] = ("operator", "client", "viewer")
CLIENT_ACTIONS = frozenset({"list", "join", "pull", "push", "heartbeat", "leave", "model"})
VIEWER_ACTIONS = frozenset({"read", "list"})


class Denied(ShoalError):
    """A request is refused.

    Attributes:
        status: the HTTP status of the answer, e.g. 401.
        problem: why, and what to do, in one line.
        retry_after: seconds after which the same request may pass; 0 for never by waiting.
    """

    def __init__(self, status: int, problem: str, retry_after: float = 0.0) -> None:
        super().__init__(status, problem, retry_after)  # all are kept, so that it crosses processes
        self.status, self.problem, self.retry_after = status, problem, retry_after

    def __str__(self) -> str:
        return self.problem


@dataclass(frozen=True, slots=True)
class Request:
    """What a gate sees of a request: everything but the body.

    Attributes:
        method: upper case, e.g. "POST".
        path: as it was sent (percent-encoded), without the query.
        query: as it was sent, without the question mark.
        headers: by lower-case name.
        peer: the network address that it comes from.
        certificate: the subject of a verified client certificate, as `tls.subject` writes it;
            "" without one.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    peer: str
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        name: of an operator or viewer; of a client, the only client name that it may act under.
        role: what it may do, see `allowed`.
        runs: the runs that it may touch; empty for all.
    """

    name: str
    role: Role
    runs: frozenset[str] = frozenset()


class Gate(Protocol):
    """Decides who a request comes from."""

    def admit(self, request: Request) -> Principal:
        """The principal behind a request; raises `Denied` if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Open:
    """Everybody is an operator: for a server that listens on loopback only."""

    def admit(self, request: Request) -> Principal:
        """An operator, named by the address; but nobody whom a web page sent.

        Raises:
            Denied: 403 if a browser asks for a page from elsewhere, or under another host's name,
                as in DNS rebinding.
        """
        host = request.headers.get("host", "localhost")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if "origin" in request.headers or not loopback(name):
            raise Denied(403, "this server is for programs on its own machine; dial 127.0.0.1")
        return Principal(f"local:{request.peer}", "operator")


def allowed(principal: Principal, action: str, run: str = "", client: str = "") -> None:
    """Return if a principal may do this; raise `Denied` (403) otherwise.

    Operators may do everything in their runs, viewers "read", clients `CLIENT_ACTIONS` under
    their own name.

    Args:
        principal: who asks.
        action: "read", one of `CLIENT_ACTIONS`, or an operator's verb such as "submit" or "stop".
        run: the run that it concerns; "" for the server as a whole, of which those with runs of
            their own may only read.
        client: the client that the request acts as; "" for none.
    """
    if run and principal.runs and run not in principal.runs:
        raise Denied(403, f"{principal.name} has no access to run {run!r}; ask the operator for it")
    if principal.role == "operator":
        if not run and principal.runs and action not in VIEWER_ACTIONS:
            raise Denied(403, f"{principal.name} may not {action!r} for the server as a whole")
        return
    may = CLIENT_ACTIONS if principal.role == "client" else VIEWER_ACTIONS
    if action not in may:
        raise Denied(
            403,
            f"{principal.name} is a {principal.role} and may not {action!r}; "
            "use a key with another role",
        )
    if principal.role == "client" and client and client != principal.name:
        raise Denied(
            403, f"{principal.name} may not act as client {client!r}; join under your own name"
        )


def loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_binding(host: str, certificate: str) -> None:
    """Refuse to listen beyond this machine in the clear.

    Args:
        host: the address to listen on; "" and "0.0.0.0" are all of the machine's.
        certificate: path of the server's certificate; "" for none.

    Raises:
        ConfigError: if others could connect and nothing would be encrypted.
    """
    if not certificate and not loopback(host):
        raise ConfigError(
            "serving.host",
            f"{host or 'all addresses'} can be reached by others and there is no certificate; "
            "give one (guide: security), or listen on 127.0.0.1",
        )
