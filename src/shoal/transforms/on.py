"""A transform bound to one prefixed group instead of the trainable values."""

from dataclasses import dataclass, replace
from typing import Any

from shoal.core import Context, Transform
from shoal.errors import ConfigError, nearest
from shoal.seeds import integer
from shoal.tensors import PREFIXES, Tensors


@dataclass(frozen=True)
class On:
    """Apply a transform to a group, e.g. `On("control/", Clip(1.0))`; the rest passes through.

    Its draws are independent of those of the same transform elsewhere: equal noise on two groups
    would cancel in their difference.

    Attributes:
        prefix: of the group, e.g. "control/".
        transform: works on the group as if it were the trainable values.
    """

    prefix: str
    transform: Transform[Any]

    def __post_init__(self) -> None:
        """Check the prefix."""
        if self.prefix not in PREFIXES:
            raise ConfigError(
                "prefix", f"no group {self.prefix!r}; {nearest(self.prefix, [*PREFIXES])}"
            )

    def init(self, model: Tensors) -> Any:
        """The transform's state for the group.

        Raises:
            ConfigError: if the model has no such group.
        """
        if self.prefix not in model.groups:
            there = ", ".join(model.groups) or "none"
            raise ConfigError("prefix", f"the model has no group {self.prefix!r}; it has: {there}")
        return self.transform.init(model.groups[self.prefix])

    def apply(self, value: Tensors, state: Any, ctx: Context) -> tuple[Tensors, Any]:
        """The value with its group transformed; unchanged if it comes without the group."""
        group = value.groups.get(self.prefix)
        if group is None:
            return value, state
        own = replace(ctx, seed=integer(ctx.seed, "on", self.prefix))
        group, state = self.transform.apply(group, state, own)
        return value.with_group(self.prefix, group), state
