"""The worker process: it folds and merges what a message names, and remembers nothing.

A piece of work with updates only makes a leaf; one with partial results makes a middle; one that
finishes makes the top. All read views of shared memory, write to the segment that the message
names, and leave what they read as it is, so that any worker can do a dead one's work again.
"""

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from shoal.core import Aggregator
from shoal.encoded import Array, Encoded, Quantized, Sparse, dense
from shoal.errors import ShoalError
from shoal.parts import blank
from shoal.planes.shared import Placed, Ref, Space, Stored, Writer, find, swap
from shoal.tensors import Layout, Leaf, Tensors, difference

WHOLE = "\0"  # an empty name that whole updates have and partial ones lack, wherever they are cut


@dataclass(frozen=True)
class Shard:
    """A range of coordinates of a model's trainable values and of each of its groups.

    Attributes:
        layouts: of the whole model, by prefix; "" for the trainable values.
        ranges: first coordinate and the one past the last, by prefix.
    """

    layouts: Mapping[str, Layout]
    ranges: Mapping[str, tuple[int, int]]

    def like(self) -> Tensors:
        """Names and shapes of a model that is cut to this range."""
        parts = {p: blank(_piece(self.layouts[p], *at)) for p, at in self.ranges.items()}
        main = parts.pop("")
        return Tensors(main.layout, main.flat, parts)

    def cut(self, value: Tensors) -> Tensors:
        """What lies in the range, without copying where that is possible."""
        main = self._cut(value, "")
        groups = {p: self._cut(g, p) for p, g in value.groups.items() if p in self.ranges}
        return Tensors(main.layout, main.flat, groups)

    def _cut(self, value: Tensors, prefix: str) -> Tensors:
        whole, (begin, end) = self.layouts[prefix], self.ranges[prefix]
        if value.layout == whole:
            return Tensors(_piece(whole, begin, end), _range(value.flat, begin, end))
        names, shapes, pieces = [], [], []
        for name in value.layout.names:
            at, _ = whole.slices[name]
            low, high = max(at.start, begin), min(at.stop, end)
            if low < high:
                shift = value.layout.slices[name][0].start - at.start
                names.append(name)
                shapes.append((high - low,))
                pieces.append(slice(low + shift, high + shift))
        layout = Layout(tuple(names), tuple(shapes), whole.dtype)
        return Tensors(layout, _gathered(value.dense, pieces))


@dataclass(frozen=True, slots=True)
class Input:
    """An update to fold."""

    update: int
    stored: Stored
    kind: str
    weight: float
    client: str


@dataclass(frozen=True, slots=True)
class Partial:
    """An accumulator in shared memory."""

    ref: Ref
    content: Any


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker is asked to do.

    Attributes:
        inputs: updates to fold, in this order, after
        partials: accumulators to merge, in this order.
        model: the current model; None if no update is relative to it.
        out: where the result goes.
        finish: whether the result is the aggregate, not an accumulator.
    """

    aggregator: Aggregator[Any]
    shard: Shard
    inputs: tuple[Input, ...]
    partials: tuple[Partial, ...]
    model: Stored | None
    out: Ref
    finish: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker answers.

    Attributes:
        content: of the result's segment.
        keys: of everything that went into it.
        seconds: of processor time.
        error: why there is no result, if there is none.
    """

    content: Any = None
    keys: tuple[bytes, ...] = ()
    seconds: float = 0.0
    error: ShoalError | None = None


def main(channel: "Connection[Any, Any]") -> None:
    """Work until told to stop, or until the other end is gone; waits without polling."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    space = Space()
    while True:
        try:
            message = channel.recv()
        except (EOFError, OSError):
            space.bury()
            return
        if message is None:
            return
        space.tidy()
        if isinstance(message, Work):
            try:
                channel.send(perform(message, space))
            except (BrokenPipeError, ConnectionResetError):
                space.bury()
                return


def perform(work: Work, space: Space) -> Done:
    """Do a piece of work; what was asked for wrongly is part of the answer."""
    began = time.process_time()
    try:
        content = _performed(work, space)
    except ShoalError as error:
        return Done(error=error)
    return Done(content, keys(work), time.process_time() - began)


def keys(work: Work) -> tuple[bytes, ...]:
    """The keys of everything that goes into a result."""
    partials = (partial.ref.key for partial in work.partials)
    return (*partials, *(item.stored.ref.key for item in work.inputs))


def _performed(work: Work, space: Space) -> Any:
    writer, rule = Writer(space.memory(work.out)), work.aggregator
    accumulators = [_found(partial, space) for partial in work.partials]
    acc = accumulators.pop(0) if accumulators else rule.init(work.shard.like())
    if not work.finish:
        acc = swap(acc, np.ndarray, writer.home)
    for other in accumulators:
        acc = rule.merge(acc, other)
    model = None
    if work.model is not None:
        model = work.shard.cut(find(work.model.content, space.memory(work.model.ref)))
    for item in work.inputs:
        acc = rule.fold(acc, _value(item, work.shard, model, space), item.weight, item.client)
    if work.finish:
        return writer.tensors(rule.finish(acc)[0])
    return swap(acc, np.ndarray, writer.put)


def accumulator(partial: Partial, memory: Array) -> Any:
    """An accumulator over views of its segment, which may not be written to."""
    return swap(partial.content, Placed, lambda placed: placed.view(memory))


def _found(partial: Partial, space: Space) -> Any:
    return accumulator(partial, space.memory(partial.ref))


def _value(item: Input, shard: Shard, model: Tensors | None, space: Space) -> Tensors:
    value = shard.cut(find(item.stored.content, space.memory(item.stored.ref)))
    if item.kind == "model" and model is not None:
        value = difference(value, model.select(value.layout.names))
    return value


@lru_cache(maxsize=256)
def _piece(whole: Layout, begin: int, end: int) -> Layout:
    """The names that lie in a range, one-dimensional, and the one that says it is all of them."""
    names, shapes = [], []
    for name, (at, _) in whole.slices.items():
        low, high = max(at.start, begin), min(at.stop, end)
        if low < high:
            names.append(name)
            shapes.append((high - low,))
    return Layout((*names, WHOLE), (*shapes, (0,)), whole.dtype)


def _range(leaf: Leaf, begin: int, end: int) -> Leaf:
    if isinstance(leaf, np.ndarray) or (begin == 0 and end == leaf.size):
        return leaf[begin:end] if isinstance(leaf, np.ndarray) else leaf
    if isinstance(leaf, Sparse):
        low, high = (int(at) for at in np.searchsorted(leaf.indices, (begin, end)))
        return Sparse(end - begin, leaf.indices[low:high] - begin, dense(leaf.values)[low:high])
    if isinstance(leaf, Quantized) and begin % leaf.block == 0:
        scales = leaf.scales[begin // leaf.block : -(-end // leaf.block)]
        return Quantized(leaf.codes[begin:end], scales, leaf.block)
    return _decoded(leaf)[begin:end]


def _decoded(leaf: Encoded) -> Array:
    return leaf.dense()


def _gathered(flat: Array, pieces: list[slice]) -> Array:
    """Some ranges of an array one after the other: a view if they adjoin."""
    if not pieces:
        return flat[:0]
    if all(a.stop == b.start for a, b in pairwise(pieces)):
        return flat[pieces[0].start : pieces[-1].stop]
    return np.concatenate([flat[piece] for piece in pieces])
