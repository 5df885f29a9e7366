"""What the laws of planes are tried on: a model with every group, and scripts of calls."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from shoal.encoded import Quantized, Sparse
from shoal.errors import ShoalError
from shoal.messages import Payload
from shoal.tensors import Tensors

MODEL = Tensors.of(
    {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.full(4, 0.5, np.float32),
        "buffer/mean": np.array([1.0, 2.0], np.float32),
        "control/a": np.array([0.25, -0.5, 2.0], np.float32),
        "counter/batches": np.array(7),
    }
)
D = MODEL.layout.size
ROW = st.lists(st.integers(-8, 8), min_size=D, max_size=D)


@dataclass(frozen=True)
class Put:
    """An update; small integers and weights in quarters make every sum exact in any order."""

    row: list[int]
    client: int
    kind: str = "delta"
    form: str = "dense"

    def payload(self) -> Payload:
        flat = np.array(self.row, np.float32)
        groups = {
            prefix: group.with_flat((flat[: group.layout.size]).astype(group.layout.dtype))
            for prefix, group in MODEL.groups.items()
        }
        groups["counter/"] = groups["counter/"].with_flat(np.abs(groups["counter/"].flat))
        value = Tensors(MODEL.layout, flat, groups)
        if self.form == "sparse":
            chosen = np.flatnonzero(flat)
            value = value.with_flat(Sparse(D, chosen, flat[chosen]))
        if self.form == "quantized":
            value = value.with_flat(Quantized(flat.astype(np.int8), np.ones(3, np.float32), 4))
        if self.form == "part":
            value = value.select(["b"])
        if self.form == "bare":
            value = Tensors(MODEL.layout, flat)
        return Payload(value, 1, 1, self.kind)


@dataclass(frozen=True)
class Fold:
    """Of one of those held."""

    at: int
    weight: float = 1.0


@dataclass(frozen=True)
class Do:
    """Whatever else a plane is asked."""

    what: str
    at: int = 0


PUT = st.builds(
    Put,
    ROW,
    st.integers(0, 5),
    st.sampled_from(["delta", "delta", "model"]),
    st.sampled_from(["dense", "dense", "sparse", "quantized", "bare", "part"]),
)
FOLD = st.builds(Fold, st.integers(0, 9), st.integers(1, 12).map(lambda quarters: quarters / 4))
OTHER = st.builds(Do, st.sampled_from(["drop", "abandon", "commit"]), st.integers(0, 9))
ITEM = st.one_of(*[st.tuples(PUT, FOLD)] * 4, st.tuples(PUT), st.tuples(OTHER))
ITEMS = st.lists(ITEM, max_size=8) | st.lists(st.tuples(PUT, FOLD), min_size=5, max_size=8)
ROUND = st.tuples(ITEMS, st.just((Do("commit"),)))
SCRIPT = st.lists(ROUND, min_size=1, max_size=3).map(
    lambda rounds: [step for items, end in rounds for item in (*items, end) for step in item]
)


@dataclass
class Driver:
    """A plane that is told what a script says."""

    plane: Any
    held: dict[int, str] = field(default_factory=dict)
    count: int = 0

    def tell(self, step: Put | Fold | Do) -> str:
        """The name of the error that came of it, if any."""
        try:
            self._tell(step)
        except ShoalError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _tell(self, step: Put | Fold | Do) -> None:
        if isinstance(step, Put):
            self.plane.put(self.count, step.payload())
            self.held[self.count] = f"c{step.client}"
            self.count += 1
        elif isinstance(step, Fold):
            if self.held:
                update = sorted(self.held)[step.at % len(self.held)]
                self.plane.fold(update, step.weight, self.held[update])
                del self.held[update]
        elif step.what == "commit":
            self.plane.commit()
        elif step.what == "abandon":
            self.plane.abandon()
        elif step.what == "drop" and self.held:
            update = sorted(self.held)[step.at % len(self.held)]
            self.plane.drop(update)
            del self.held[update]
