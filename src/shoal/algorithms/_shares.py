"""What a client counts beside the others, as far as the server has heard of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from shoal.errors import ConfigError, positive
from shoal.messages import Update

Share = Literal["none", "equal", "examples"]


@dataclass(frozen=True)
class Shares:
    """Example counts of the clients that have answered; never changed in place.

    Attributes:
        counts: examples by client.
        total: their sum.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    total: int = 0

    def heard(self, update: Update) -> "Shares":
        """With the count of an update's client."""
        old = self.counts.get(update.client, 0)
        if old == update.num_examples:
            return self
        counts = {**self.counts, update.client: update.num_examples}
        return Shares(counts, self.total + update.num_examples - old)

    def without(self, client: str) -> "Shares":
        """Without a client that left."""
        if client not in self.counts:
            return self
        counts = {name: n for name, n in self.counts.items() if name != client}
        return Shares(counts, self.total - self.counts[client])

    def of(self, update: Update, kind: Share, clients: int) -> float:
        """The share of an update's client among so many clients that are there.

        "none" is 1, "equal" 1/N, "examples" n_i / sum n, where a client not heard of yet counts
        as the mean of the others.
        """
        if kind == "none":
            return 1.0
        known = len(self.counts)
        if kind == "equal" or not known:
            return 1.0 / clients
        return update.num_examples * known / (self.total * max(clients, known))


def check_choice(field: str, value: str, literal: Any) -> None:
    """Raise `ConfigError` unless the value is one that the `Literal` type names."""
    if value not in get_args(literal):
        known = " or ".join(repr(name) for name in get_args(literal))
        raise ConfigError(field, f"must be {known}, got {value!r}")


def check_limits(**limits: float | None) -> None:
    """Raise `ConfigError` for a limit that is neither None nor a number above 0."""
    for name, value in limits.items():
        if value is not None:
            positive(name, value)
