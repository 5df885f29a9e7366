"""What TiFL's choice of a tier goes by: profiles of clients, probabilities, credits and losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np

from shoal.algorithms._policy import Arrived, Policy, reported, some
from shoal.algorithms._tiers import Tiers, tiers_by_speed
from shoal.core import View
from shoal.errors import ConfigError, positive
from shoal.messages import Update


@dataclass(frozen=True)
class Profile:
    """Seconds per task and last loss of clients; probabilities of tiers, and their rounds."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    probabilities: tuple[float, ...] = ()
    used: tuple[int, ...] = ()
    rounds: int = 0


@dataclass(frozen=True)
class ByTier(Policy[Profile]):
    """TiFL's choice.

    Attributes:
        tiers: m.
        probabilities: of the tiers, fastest first; None for equal ones.
        adapt_every: I; None for fixed probabilities.
        credits: rounds that each tier may have while another has some left; None for any.
        max_seconds: slower clients are dropped.
        seconds: per task, of clients that were profiled before.
    """

    tiers: int = 5
    probabilities: tuple[float, ...] | None = None
    adapt_every: int | None = None
    credits: int | None = None
    max_seconds: float = inf
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers, and that no tier would be empty or nobody left."""
        for name in ("tiers", "adapt_every", "credits"):
            value = getattr(self, name)
            if value is not None:
                positive(name, value)
        p = self.probabilities
        if p is not None and (len(p) != self.tiers or min(p) < 0 or abs(sum(p) - 1) > 1e-9):
            raise ConfigError("probabilities", f"give {self.tiers} that sum to 1, got {p}")
        if self.seconds and min(self.seconds.values()) > self.max_seconds:
            fastest = min(self.seconds.values())
            raise ConfigError("max_seconds", f"the fastest client needs {fastest} s: raise it")
        if self.seconds:
            tiers_by_speed(self.kept(self.seconds), self.tiers)

    @property
    def needs(self) -> tuple[str, ...]:
        """The loss, to adapt by."""
        return () if self.adapt_every is None else ("loss",)

    def init(self) -> Profile:
        """What is known beforehand."""
        p = self.probabilities or (1.0 / self.tiers,) * self.tiers
        return Profile(dict(self.seconds), {}, p, (0,) * self.tiers)

    def check(self, view: View) -> None:
        """Every tier has a client."""
        if view.clients and len(view.clients) < self.tiers:
            problem = f"{self.tiers} tiers for {len(view.clients)} clients leave one empty"
            raise ConfigError("tiers", f"{problem}: at most one for each client")

    def kept(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Those who are not dropped, or the fastest if all would be."""
        least = max(self.max_seconds, min(seconds.values(), default=inf))
        return {client: value for client, value in seconds.items() if value <= least}

    def choose(self, memory: Profile, n: int, view: View, name: str) -> tuple[list[str], Profile]:
        """Those not profiled yet, or else clients of one tier."""
        rng, idle = view.rng("tifl", name), view.idle
        unknown = [client for client in idle if client not in memory.seconds]
        if unknown:
            return some(unknown, n, rng), memory
        tiers = self.tiers_of(memory)
        pools = [[c for c in tier if c in idle] for tier in tiers]
        if not any(pools):  # only dropped ones are here
            return [min(idle, key=lambda client: (memory.seconds[client], client))], memory
        at = self._draw(memory, [bool(pool) for pool in pools], rng)
        used = tuple(count + (tier == at) for tier, count in enumerate(memory.used))
        return some(pools[at], n, rng), replace(memory, used=used)

    def tiers_of(self, memory: Profile) -> Tiers:
        """The tiers of everyone profiled; fewer while clients are."""
        kept = self.kept(memory.seconds)
        return tiers_by_speed(kept, min(self.tiers, len(kept)))

    def _draw(self, memory: Profile, possible: list[bool], rng: np.random.Generator) -> int:
        weights = [p * here for p, here in zip(memory.probabilities, possible, strict=False)]
        if self.credits is not None:
            left = [
                w * (used < self.credits) for w, used in zip(weights, memory.used, strict=False)
            ]
            weights = left if sum(left) else weights
        weights = weights if sum(weights) else [float(here) for here in possible]
        return int(rng.choice(len(weights), p=np.array(weights) / sum(weights)))

    def seen(self, memory: Profile, update: Update, view: View) -> Profile:
        """Its first task is its profile; its last loss is its tier's concern."""
        seconds, losses = dict(memory.seconds), dict(memory.losses)
        seconds.setdefault(update.client, update.duration)
        if self.adapt_every is not None:
            losses[update.client] = reported(update, "loss")
        return replace(memory, seconds=seconds, losses=losses)

    def ended(self, memory: Profile, arrived: Arrived, view: View) -> Profile:
        """Probabilities by loss, every I rounds."""
        memory = replace(memory, rounds=memory.rounds + 1)
        if self.adapt_every is None or memory.rounds % self.adapt_every or not memory.losses:
            return memory
        mean, found = sum(memory.losses.values()) / len(memory.losses), []
        for tier in self.tiers_of(memory):
            losses = [memory.losses[c] for c in tier if c in memory.losses]
            found.append(max(sum(losses) / len(losses), 0.0) if losses else mean)
        if len(found) < self.tiers or not sum(found):
            return memory
        return replace(memory, probabilities=tuple(loss / sum(found) for loss in found))
