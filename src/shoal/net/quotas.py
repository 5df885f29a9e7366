"""What the runs of one server take of it, held against their quotas."""

import os
import time
from pathlib import Path

from shoal.net.desk import Desk
from shoal.net.limits import Quota, Usage, within
from shoal.tracking import read

AGAIN = 1.0  # seconds for which a measured directory counts
_TAKEN = ("aggregated", "discarded")


class Quotas:
    """Measures runs as far as their quota asks for it.

    Args:
        quota: of each run.
    """

    def __init__(self, quota: Quota = Quota()) -> None:
        self._quota = quota
        self._stored: dict[str, tuple[float, int]] = {}
        self._updates: dict[str, tuple[int, int]] = {}  # records looked at, updates among them

    def opening(self, run: str, directory: Path) -> None:
        """Before a run is opened, or gone on with.

        Raises:
            Denied: if it has used its quota up; as from all methods.
        """
        if self._quota.stored and directory.exists():
            within(self._quota, Usage(stored=self._bytes(run, directory) + 1), run)

    def joining(self, desk: Desk, client: str) -> None:
        """Before a client joins."""
        here = desk.clients
        if self._quota.clients and client not in here:
            within(self._quota, Usage(clients=len(here) + 1), desk.name)

    def pushing(self, desk: Desk, nbytes: int) -> None:
        """Before a payload is taken."""
        run = desk.name
        if self._quota.stored:
            stored = self._bytes(run, desk.directory) + nbytes
            if stored > self._quota.stored:
                desk.host.served.spares.clear()  # before anybody is refused
                self._stored.pop(run, None)
                stored = self._bytes(run, desk.directory) + nbytes
            within(self._quota, Usage(stored=stored), run)
        if self._quota.updates:
            within(self._quota, Usage(updates=self._counted(desk) + 1), run)

    def _bytes(self, run: str, directory: Path) -> int:
        at, found = self._stored.get(run, (-AGAIN, 0))
        now = time.monotonic()
        if now - at >= AGAIN:
            found = _size(directory)
            self._stored[run] = (now, found)
        return found

    def _counted(self, desk: Desk) -> int:
        """Updates that were accepted, also by servers before this one."""
        seen, found = self._updates.get(desk.name, (-1, 0))
        if seen < 0 or desk.counted - seen > len(desk.records) or desk.counted < seen:
            found = sum(task.outcome in _TAKEN for task in read(desk.directory).tasks)
        else:
            new = list(desk.records)[len(desk.records) - (desk.counted - seen) :]
            found += sum(getattr(record, "outcome", "") in _TAKEN for record in new)
        self._updates[desk.name] = (desk.counted, found)
        return found


def _size(directory: Path) -> int:
    """Bytes of all files below a directory; what goes away meanwhile has none."""
    total, folders = 0, [directory]
    while folders:
        try:
            for entry in os.scandir(folders.pop()):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    return total
