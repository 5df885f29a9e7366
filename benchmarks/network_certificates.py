"""Trials in which the server's certificate has expired: from the start, or after a restart.

Clients stop with an error that says so, or wait for a renewed one where the server had worked.
"""

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from network_breaks import Plan
from shoal.errors import ConfigError, ShoalError
from shoal.net.certificates import authority, issue
from shoal.net.link import Unreachable
from shoal.net.tls import client_context

HOSTS = ("localhost", "127.0.0.1")
SHORT, LONG = 1.0, 600.0  # seconds that a client tries to reach a server that was there
MET = 2.0  # seconds that clients which wait for a renewed certificate see the expired one


@dataclass
class Expired:
    """What a trial of this kind does, and what its clients met.

    Attributes:
        ca: who signs.
        outage: seconds for which clients try; LONG for those that wait for a renewed one.
        told: clients that stopped because of the certificate, and the error's type.
        since: when the expired server began to listen; 0 before.
    """

    ca: Path
    outage: float
    told: dict[str, str] = field(default_factory=dict)
    since: float = 0.0

    def context(self) -> ssl.SSLContext:
        """What clients trust."""
        return client_context(self.ca)

    def stopped(self, name: str, error: ShoalError) -> str:
        """Take down why a client stopped; what is wrong with that, "" if nothing."""
        expired = "certificate has expired" in str(error)
        if expired and isinstance(error, ConfigError | Unreachable) and self.outage == SHORT:
            self.told[name] = type(error).__name__
            return ""
        # The servers of a trial are away in between, which only the patient wait for.
        away = isinstance(error, Unreachable) and not expired and self.outage == SHORT
        return "" if away else f"{type(error).__name__}: {error}"

    def over(self, plan: Plan, port: int, clients: int) -> bool:
        """Whether an expired server has been there long enough."""
        if not plan.expired:
            return False
        if not self.since and _answers(port):
            self.since = time.monotonic()
        met = self.outage == LONG and self.since and time.monotonic() > self.since + MET
        return bool(met) or len(self.told) == clients


def expired(draws: np.random.Generator, most: int, folder: Path) -> tuple[Expired, list[Plan]]:
    """Make the certificates, and draw what the servers do, one after the other."""
    ca = authority(folder)
    issue(ca, folder, "good", HOSTS)
    issue(ca, folder, "expired", HOSTS, starts=-30, days=20)
    good, old = (str(folder / name) for name in ("good", "expired"))
    first = bool(draws.random() < 0.3)
    outage = SHORT if first or draws.random() < 0.5 else LONG
    killed = [] if first else [Plan(kill=int(draws.integers(1, most)), tls=good)]
    plans = [*killed, Plan(tls=old, expired=True), Plan(tls=good), Plan(tls=good)]
    return Expired(ca.certificate, outage), plans


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False
