"""A client of several runs does one task at a time, and shares its time among them evenly.

a run's start = max(its finish, the start of who was served last);  finish = start + seconds taken
whose start is the least is next (start-time fair queueing: Goyal, Vin, Cheng, 1996)
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """Hands out turns; for any number of threads, one for each name.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._changed = clock, threading.Condition()
        self._finish: dict[str, float] = {}
        self._waiting: dict[str, float] = {}  # and the start of each
        self._served, self._busy = 0.0, False

    @contextmanager
    def take(self, name: str) -> Iterator[None]:
        """Wait until it is this one's turn, and have it until the block ends."""
        with self._changed:
            self._waiting[name] = max(self._finish.get(name, 0.0), self._served)
            self._changed.wait_for(lambda: not self._busy and self._first() == name)
            self._served, self._busy = self._waiting.pop(name), True
            start = self._served
        began = self._clock()
        try:
            yield
        finally:
            with self._changed:
                self._finish[name], self._busy = start + self._clock() - began, False
                self._changed.notify_all()

    def _first(self) -> str:
        return min(self._waiting, key=lambda name: (self._waiting[name], name))
