"""What FedCompass remembers: clients' speeds, and groups of clients that aim at one instant.

Li et al., 2023, arXiv 2309.14675; immutable plain data.
    speed <- (1 - momentum) speed + momentum (duration / steps done), clamped to x1/4 .. x4
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shoal.algorithms._shares import Shares
from shoal.messages import Update

LEAST_SPEED = 1e-6  # seconds per step; less is a glitch of the clock
MOST_CHANGE = 4.0  # of one measured speed against the estimate


@dataclass(frozen=True)
class Group:
    """Clients that aim at one instant.

    Attributes:
        pending: clients at work for it.
        started, expected, latest: seconds: when made, aimed at, and closed.
        waiting: clients that have arrived and wait for the others.
        updates: arrived, in order; those of clients that left since stay.
        open: whether arrivals are on time; false once its latest time has come.
    """

    pending: tuple[str, ...]
    started: float
    expected: float
    latest: float
    waiting: tuple[str, ...] = ()
    updates: tuple[Update, ...] = ()
    open: bool = True

    def takes(self, now: float) -> bool:
        """Whether an arrival is on time: the timer of the latest time may come after it or not."""
        return self.open and now <= self.latest

    def without(self, client: str) -> "Group":
        """Without a client, at work or waiting."""
        pending = tuple(name for name in self.pending if name != client)
        waiting = tuple(name for name in self.waiting if name != client)
        return replace(self, pending=pending, waiting=waiting)


@dataclass(frozen=True)
class CompassState:
    """What FedCompass remembers; its mappings are never changed in place.

    Attributes:
        speeds: seconds per local step of each client that has arrived; kept when it leaves.
        shares: example counts of those present that have arrived.
        groups: by number, in the order in which they were made.
        late: updates that came after their group's latest time, for the next group's commit.
        created: groups made so far.
    """

    speeds: Mapping[str, float] = field(default_factory=dict)
    shares: Shares = field(default_factory=Shares)
    groups: Mapping[int, Group] = field(default_factory=dict)
    late: tuple[Update, ...] = ()
    created: int = 0

    @property
    def kept(self) -> list[Update]:
        """The updates that wait, the late ones first."""
        return [*self.late, *(u for group in self.groups.values() for u in group.updates)]

    def group_of(self, client: str) -> int:
        """The number of the group that a client works for, -1 for none."""
        return next((n for n, group in self.groups.items() if client in group.pending), -1)

    def measured(self, update: Update, momentum: float) -> "CompassState":
        """With what an update shows: its client's speed and number of examples."""
        state = replace(self, shares=self.shares.heard(update))
        if update.steps == 0:
            return state
        # By the steps that were done, not those assigned: a client may have stopped early.
        seen = max(update.duration / update.steps, LEAST_SPEED)
        old = self.speeds.get(update.client, seen)
        clamped = min(max(seen, old / MOST_CHANGE), old * MOST_CHANGE)
        speed = old + momentum * (clamped - old)
        return replace(state, speeds={**self.speeds, update.client: speed})

    def arrived(self, number: int, update: Update) -> "CompassState":
        """With an update in its group, where its client now waits for the others."""
        group, client = self.groups[number].without(update.client), update.client
        waiting, updates = (*group.waiting, client), (*group.updates, update)
        return self.with_group(number, replace(group, waiting=waiting, updates=updates))

    def without(self, client: str, *, gone: bool = False) -> "CompassState":
        """With a client in no group; its updates stay, and its speed in case it comes back."""
        shares = self.shares.without(client) if gone else self.shares
        groups = {n: group.without(client) for n, group in self.groups.items()}
        return replace(self, groups=groups, shares=shares)

    def overdue(self, number: int) -> "CompassState":
        """With nobody at work for a group whose latest time came before: they are lost."""
        group = self.groups.get(number)
        if group is None or group.open:
            return self
        return self.with_group(number, replace(group, pending=()))

    def without_group(self, number: int) -> "CompassState":
        """With one group less."""
        return replace(self, groups={n: g for n, g in self.groups.items() if n != number})

    def with_group(self, number: int, group: Group) -> "CompassState":
        """With one group replaced."""
        return replace(self, groups={**self.groups, number: group})
