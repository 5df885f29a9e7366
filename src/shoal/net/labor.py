"""The loop of a client: work, answer, say what failed; slower and slower while nothing succeeds."""

import logging
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from shoal.errors import CheckpointError, ConfigError, DataError, MissingExtra, ShoalError
from shoal.messages import Payload
from shoal.net.client import Client, Work
from shoal.net.protocol import Refused

FAILURES = 10  # tasks in a row that may fail before a client gives up
FIRST, LONGEST = 0.2, 10.0  # seconds between a task that failed and the next
KNOWN = ("accepted", "repeated")
LASTING = (CheckpointError, ConfigError, DataError, MissingExtra)  # waiting does not mend them
log = logging.getLogger("shoal.net")


class GaveUp(ShoalError):
    """One task after the other failed here."""


def labor(
    client: Client,
    train: Callable[[Work], Payload],
    *,
    settled: Callable[[bool], None] = lambda counted: None,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    failures: int = FAILURES,
) -> str:
    """Work for a client that has joined until its run is over; why it is.

    Args:
        client: that has joined.
        train: does a task. What it raises is told to the server, and the run goes on.
        settled: told of every answer whether it counts, before the next task.
        turn: entered while a task is done.
        failures: tasks in a row that may fail; 0 for any number.

    Raises:
        CheckpointError, ConfigError, DataError, MissingExtra: from `train`; the server was told.
        GaveUp: if so many failed; says why the last one did.
    """
    failed = 0
    for work in client:
        try:
            with turn():
                idle = work.revoked.is_set() or client.rest(0.0)
                payload = None if idle else train(work)
        except LASTING as error:
            client.fail(work, error)
            raise
        except Exception as error:  # noqa: BLE001 - any failure of training: the run goes on
            client.fail(work, error)
            failed += 1
            _wait(client, work, error, failed, failures)
            continue
        if payload is None or work.revoked.is_set():
            client.fail(work, "cancelled")
            settled(False)
            continue
        refused = _answered(client, work, payload, settled)
        failed = failed + 1 if refused else 0
        if refused:
            _wait(client, work, refused[0], failed, failures)
    return client.over


def _answered(
    client: Client, work: Work, payload: Payload, settled: Callable[[bool], None]
) -> list[Refused]:
    """Answer a task; why the server refused it, if it did: that ends the task, not the run."""
    try:
        counted = client.answer(work, payload) in KNOWN
    except Refused as refused:
        if refused.status not in (413, 422):
            raise
        settled(False)
        client.fail(work, refused)
        return [refused]
    settled(counted)
    return []


def _wait(client: Client, work: Work, error: Exception, failed: int, most: int) -> None:
    """Rest after a failure, longer each time; raise if there were too many."""
    told = f"{type(error).__name__}: {error}"
    log.warning("%s: task %d failed: %s", client.name, work.task.id, told)
    if failed == most:
        problem = f"{failed} tasks in a row failed, the last one by {told}"
        raise GaveUp(f"{problem}; mend that and join again") from error
    client.rest(random.uniform(0.5, 1.0) * min(LONGEST, FIRST * 2.0 ** (failed - 1)))
