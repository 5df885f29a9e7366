"""When a trial hangs: nothing happens for so long, however slow the machine may be."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

STEP = 0.05  # seconds between two looks
MOST = 0.5  # seconds that count between two looks: more passed while this process did not run


class Ends(Protocol):
    """A thread or a process."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""

    def is_alive(self) -> bool:
        """Whether it goes on."""


class Watch:
    """Waits for threads and processes while something happens.

    Args:
        look: says what has happened so far.
        hang: seconds without anything that happens after which a trial hangs.

    Attributes:
        longest: seconds without anything that happened, at most.
    """

    def __init__(self, look: Callable[[], object], hang: float) -> None:
        self._look, self._hang = look, hang
        self._seen, self._still, self.longest = look(), 0.0, 0.0
        self._last = time.monotonic()

    def ended(self, what: Ends) -> bool:
        """Wait; whether it ended before the trial hangs."""
        while what.is_alive() and self._still <= self._hang:
            what.join(STEP)
            now, found = time.monotonic(), self._look()
            self._still += min(MOST, now - self._last)
            self.longest = max(self.longest, self._still)
            self._last = now
            if found != self._seen:
                self._seen, self._still = found, 0.0
        return not what.is_alive()


def written(folder: Path) -> tuple[int, int]:
    """How many files a store has, and their bytes."""
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(place, name)).st_size)
            except FileNotFoundError:
                continue  # it was in the way of another one
    return len(sizes), sum(sizes)
