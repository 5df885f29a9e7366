"""A synchronous round as plain data: who was invited, what came, and who may still answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shoal.core import View
from shoal.messages import Cancel, Config, Dispatch


@dataclass(frozen=True)
class Round:
    """One round; with a goal of 0, the pause before the next.

    Attributes:
        number: rounds begun so far, abandoned ones included.
        name: unique in the run; also of its deadline's timer.
        goal: updates that complete it.
        places: clients that may still be invited.
        out: invited clients that have neither answered nor failed.
        arrived: updates folded.
        invited: everyone who was given a task of this round.
    """

    number: int = 0
    name: str = ""
    goal: int = 0
    places: int = 0
    out: int = 0
    arrived: int = 0
    invited: frozenset[str] = frozenset()

    def opened(self, version: int, goal: int, places: int) -> "Round":
        """The next round; `version` sets it apart from those of a relay's earlier tasks."""
        return Round(self.number + 1, f"round {version}.{self.number}", goal, places)

    def draw(self, view: View) -> list[str]:
        """Idle clients for the free places, uniformly among those not invited before; sorted."""
        if not self.invited:
            return sorted(view.sample(self.places, "cohort", self.name))
        if not self.places:
            return []
        pool = [client for client in view.idle if client not in self.invited]
        order = view.rng("place", self.name, len(self.invited)).permutation(len(pool))
        return sorted(pool[i] for i in order[: self.places])

    def invite(self, clients: Sequence[str], config: Config) -> tuple["Round", list[Dispatch]]:
        """The round with these clients in it, and their tasks."""
        n, invited = len(clients), self.invited.union(clients)
        given = replace(self, places=self.places - n, out=self.out + n, invited=invited)
        return given, [Dispatch(client, config) for client in clients]

    def answered(self) -> "Round":
        """One update more."""
        return replace(self, out=self.out - 1, arrived=self.arrived + 1)

    def failed(self, client: str, again: bool) -> "Round":
        """One client fewer, its place free `again` or not; others than this round's do not count.

        A client has at most one task per round, and is busy until earlier ones have ended.
        """
        if client not in self.invited:
            return self
        return replace(self, out=self.out - 1, places=self.places + again)

    def over(self, quorum: int) -> bool:
        """Whether it is complete, or cannot be any more."""
        possible = self.arrived + self.out + self.places
        return not self.out or self.arrived >= self.goal or possible < quorum

    def late(self, view: View) -> list[Cancel]:
        """Cancels the tasks that are still out."""
        if not self.out:
            return []
        tasks = view.in_flight.items()
        return [Cancel(task_id) for task_id, task in tasks if task.client in self.invited]
