"""A server's certificate in the course of time: taken anew when its files change, and watched.

New connections get the new certificate; those that are open go on.
"""

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shoal.errors import ConfigError
from shoal.net.certificates import check, ends
from shoal.net.tls import server_context

AGAIN = timedelta(days=1)  # between two warnings that it ends soon
log = logging.getLogger("shoal.net")


class Renewal:
    """Keeps a context that is in use up to date.

    Args:
        context: of the server.
        certificate, key: PEM files; both are replaced, in any order.
        authority: PEM file of the clients' authorities; None for no client certificates.
    """

    def __init__(
        self, context: ssl.SSLContext, certificate: Path, key: Path, authority: Path | None = None
    ) -> None:
        self._context, self._authority = context, authority
        self._certificate, self._key = certificate, key
        self._seen, self._ends = self._stamp(), ends(certificate)
        self._problem, self._told = "", datetime.now(UTC)

    def look(self) -> None:
        """Take what has changed on disk; say what ends or is wrong, once. Cheap."""
        stamp, now = self._stamp(), datetime.now(UTC)
        if stamp != self._seen:
            self._seen = stamp
            self._take()
        if now >= self._ends:
            told = f"{self._certificate} has expired: clients refuse new connections"
            self._complain(f"{told}; put a renewed one in its place")
        elif now - self._told >= AGAIN and not self._problem:
            self._told = now
            self._warn(check(self._certificate, now=now))

    def _take(self) -> None:
        try:
            warning = check(self._certificate)
            server_context(
                self._certificate, self._key, self._authority
            )  # on trial: a context with half a pair would serve nobody
        except ConfigError as error:
            self._complain(f"{error}; the certificate from before stays in use")
            return
        self._context.load_cert_chain(self._certificate, self._key)
        if self._authority is not None:
            self._context.load_verify_locations(self._authority)
        self._problem, self._ends = "", ends(self._certificate)
        log.info("%s: taken anew for new connections", self._certificate)
        self._warn(warning)

    def _warn(self, warning: str) -> None:
        if warning:
            log.warning("%s", warning)

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.error("%s", problem)

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        """When each file was changed, and how long it is; (0, 0) for one that is not there."""
        found = []
        for path in (self._certificate, self._key, self._authority):
            try:
                known = None if path is None else path.stat()
            except OSError:
                known = None
            found.append((0, 0) if known is None else (known.st_mtime_ns, known.st_size))
        return tuple(found)
