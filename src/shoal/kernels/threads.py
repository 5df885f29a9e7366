"""A few threads for all kernels; whoever calls a kernel works too."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from shoal.errors import ConfigError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

SMALL = 1 << 18  # elements: less is done before another thread has woken up
J = TypeVar("J")


def share(work: Callable[[J], object], job: J, elements: int) -> None:
    """Call work(job) in this thread, and in others if there is enough to do; until all return."""
    helpers = min(COUNT - 1, elements // SMALL)
    if helpers < 1:
        work(job)
        return
    calls = []
    with suppress(RuntimeError):  # an interpreter that ends starts no more threads
        calls = [_pool().submit(work, job) for _ in range(helpers)]
    work(job)
    for call in calls:
        # The job is done, so that what has not begun yet need not.
        if not call.cancel():
            call.result()


def count(setting: str) -> int:
    """How many threads: as set, else the processor's cores that this process may use, at most 8.

    Raises:
        ConfigError: if the setting is not a number above 0.
    """
    if not setting:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        return min(8, usable or os.cpu_count() or 1)
    if not setting.isdecimal() or int(setting) < 1:
        raise ConfigError("SHOAL_KERNEL_THREADS", f"must be a number above 0, got {setting!r}")
    return int(setting)


COUNT = count(os.environ.get("SHOAL_KERNEL_THREADS", ""))


@cache
def _pool() -> "ThreadPoolExecutor":
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max(1, COUNT - 1), "shoal-kernels")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
