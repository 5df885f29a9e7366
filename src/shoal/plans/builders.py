"""The plans that published systems stand for: flat, tree, shards, and shards of trees."""

from collections.abc import Sequence

from shoal.errors import ConfigError
from shoal.plans.plan import Eager, Fold, Plan, Trigger


def flat(n: int, trigger: Trigger = Eager(), place: str = "") -> Plan:
    """One fold of all n updates."""
    return Plan(n, (Fold("top", range(n), trigger=trigger, place=place),), name="flat")


def tree(n: int, fan_in: int, trigger: Trigger = Eager(), inner: Trigger | None = None) -> Plan:
    """Folds of at most `fan_in` inputs, as even as they can be, up to one top.

    Args:
        trigger: of the folds that take updates.
        inner: of the folds above; None for the same.
    """
    return shards_tree(n, 1, fan_in, trigger, inner)


def shards(n: int, m: int, trigger: Trigger = Eager()) -> Plan:
    """m folds of all n updates, each of one m-th of the coordinates."""
    _at_least("m", m, 1)
    folds = (Fold(f"shard{s}", range(n), shard=(s, s + 1), trigger=trigger) for s in range(m))
    return Plan(n, tuple(folds), m, f"shards({m})")


def shards_tree(
    n: int, m: int, fan_in: int, trigger: Trigger = Eager(), inner: Trigger | None = None
) -> Plan:
    """A tree for each m-th of the coordinates."""
    name = f"tree({fan_in})" if m == 1 else f"shards({m}) x tree({fan_in})"
    return layered(n, widths(n, fan_in), m, trigger, inner, name)


def layered(
    n: int,
    levels: Sequence[int],
    m: int = 1,
    trigger: Trigger = Eager(),
    inner: Trigger | None = None,
    name: str = "",
) -> Plan:
    """Levels of so many folds each, inputs dealt out evenly; e.g. (8, 1): eight leaves and a top.

    Args:
        levels: number of folds of each level and shard, from the leaves to the top, which is 1.
        m: shards.
        trigger: of the leaves.
        inner: of the folds above; None for the same as the leaves.
    """
    _at_least("m", m, 1)
    if not levels or levels[-1] != 1 or any(w < 1 for w in levels):
        raise ConfigError("levels", f"must end with one top, got {tuple(levels)}")
    above = trigger if inner is None else inner
    folds: list[Fold] = []
    for s in range(m):
        names: tuple[str, ...] = ()
        for level, width in enumerate(levels):
            below = n if level == 0 else len(names)
            if width > below:
                raise ConfigError("levels", f"{width} folds for {below} inputs in {tuple(levels)}")
            new = []
            for i in range(width):
                part = range(i * below // width, (i + 1) * below // width)
                own, shard = f"s{s}.l{level}.{i}", (s, s + 1)
                if level == 0:
                    new.append(Fold(own, part, (), shard, trigger))
                else:
                    new.append(Fold(own, (), names[part.start : part.stop], shard, above))
            folds += new
            names = tuple(fold.id for fold in new)
    return Plan(n, tuple(folds), m, name or f"layered{tuple(levels)}")


def widths(n: int, fan_in: int) -> tuple[int, ...]:
    """Folds of each level of a tree: ceil(n / k), ceil(n / k^2), ..., 1."""
    _at_least("n", n, 1)
    _at_least("fan_in", fan_in, 2)
    found = [-(-n // fan_in)]
    while found[-1] > 1:
        found.append(-(-found[-1] // fan_in))
    return tuple(found)


def _at_least(field: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(field, f"must be at least {least}, got {value!r}")
