"""What worker processes fold between two commits.

Each shard has lanes. A lane is a chain of folds: each takes the accumulator that the one before
made, adds the updates that came meanwhile, and makes a new one. Inputs are let go of when the
result is there, so that whoever dies in between costs nothing. Updates go to lanes in turn, so that
the order of additions, and with it every bit, depends on their order alone; of one lane it is the
order of `Local`. The results of several are merged at the end, so many at a time, level by level.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from shoal.aggregators import Routed
from shoal.errors import ProtocolError, ShoalError
from shoal.planes.processes_pool import Job, Pool
from shoal.planes.processes_shards import eager, shards, whole
from shoal.planes.shared import ALIGN, Placed, SharedMemoryError, Store, Stored, find, room, swap
from shoal.planes.worker import Done, Input, Partial, Turn, Work, accumulator, keys
from shoal.plans import passes
from shoal.plans.cut import Shard, join, like_of
from shoal.tensors import Tensors, difference

BATCH = 16  # updates of a fold: their memory is free again when all are folded


@dataclass(frozen=True, eq=False)
class Plan:
    """How models of one layout are folded.

    Attributes:
        sizes: bytes of an accumulator, by shard.
        lanes: chains of a shard; 0 if nothing can be folded before all updates are there.
        fan_in: results of a merge, at most.
    """

    aggregator: Routed
    shards: tuple[Shard, ...]
    sizes: tuple[int, ...]
    lanes: int
    fan_in: int

    @classmethod
    def of(
        cls, aggregator: Routed, model: Tensors, workers: int, lanes: int, count: int | None,
        fan_in: int | None,
    ) -> "Plan":  # fmt: skip
        """So many shards; without a number as many as workers, if the model is large enough."""
        cut = shards(model, aggregator, workers, count)
        sizes = tuple(_bytes(aggregator.init(shard.like())) for shard in cut)
        growing = eager(aggregator.init(model).parts)
        return cls(aggregator, cut, sizes, lanes if growing else 0, fan_in or lanes)

    @property
    def middles(self) -> int:
        """Merges of a shard before the last one."""
        count, found = self.lanes, 0
        while count > self.fan_in:
            count = -(-count // self.fan_in)
            found += count
        return found


@dataclass
class _Chain:
    shard: Shard
    size: int
    queue: deque[Input] = field(default_factory=deque)
    last: Partial | None = None
    updates: set[int] = field(default_factory=set)  # that are in the last
    busy: bool = False


class Round:
    """The updates of one commit, from the first that is folded to the aggregate of all.

    Args:
        model: the current one.
    """

    def __init__(self, plan: Plan, model: Tensors, store: Store, pool: Pool) -> None:
        self.plan, self.store, self.pool = plan, store, pool
        self.active = 0  # pieces of work that are not done
        self.seconds = 0.0  # of workers
        self.over = False
        self._values = model
        self._updates: set[int] = set()
        self._model: Stored | None = None
        self._parts = False
        self._error: ShoalError | None = None
        self._chains = [
            [_Chain(shard, size) for _ in range(max(1, plan.lanes))]
            for shard, size in zip(plan.shards, plan.sizes, strict=True)
        ]
        self._closing = plan.lanes == 0

    @property
    def reserve(self) -> int:
        """Bytes that must stay free for accumulators, the model and the aggregate."""
        each = 2 * self.plan.lanes + self.plan.middles
        growing = sum(self.plan.sizes) * each * (2 if self._parts else 1)
        if self.in_passes:  # the points of two of them, which may be wider than the model
            growing += sum(2 * _points(shard) for shard in self.plan.shards)
        return growing + 2 * room(self._values)

    @property
    def in_passes(self) -> bool:
        """Whether shards must compare what they measure; see `processes_passes`."""
        rule = self.plan.aggregator
        return len(self.plan.shards) > 1 and rule.scope == "update"

    def check(self, update: int) -> None:
        """Raise `ProtocolError` if an update of this id was folded before."""
        if update in self._updates:
            raise ProtocolError(f"update {update} was folded before in this commit")

    def add(self, update: int, stored: Stored, kind: str, weight: float, client: str) -> None:
        """Have an update folded, and release it when that is done."""
        if kind == "model" and self._model is None:
            self._model = self.store.write(self._values)
        item = Input(update, stored, kind, weight, client)
        self.store.retain(stored.ref, len(self._chains) - 1)
        for lanes in self._chains:
            chain = lanes[len(self._updates) % len(lanes)]
            chain.queue.append(item)
            self._go_on(chain)
        self._updates.add(update)

    def hear(self, *, block: bool) -> None:
        """Take in what workers have done.

        Raises:
            ShoalError: what went wrong.
        """
        self.pool.hear(block=block)
        if self._error is not None:
            raise self._error

    def finished(self) -> Tensors:
        """The aggregate, copied; the round is as before, so that it can also go on.

        Raises:
            ShoalError: e.g. ConfigError, if the rule has too few updates.
        """
        # Several lanes are merged when each has all of its updates: one order, one result.
        self._settle(drain=self.plan.lanes > 1)
        works: list[Work] = []
        try:
            rows = self._merged(works)
            tops = [self._top(*each) for each in zip(self._chains, rows, strict=True)]
            works += tops
            return self.whole(tops, self.answers(tops))
        finally:
            self.let_go(works)

    def names(self) -> dict[int, str]:
        """Names that put the updates into one order in every shard."""
        items = {item.update: item for item in self._chains[0][0].queue}
        clients = {update: item.client for update, item in items.items()}
        return passes.row_names(clients, lambda update: self._delta(items[update]))

    def passing(self, names: Mapping[int, str], turns: Sequence[Turn]) -> list[Work]:
        """The work of a pass over all updates, of each shard."""
        found = []
        for (chain, *_), turn in zip(self._chains, turns, strict=True):
            inputs = tuple(replace(item, client=names[item.update]) for item in chain.queue)
            check_disjoint([chain.updates], inputs)
            found.append((chain.shard, inputs, turn))
        return [
            replace(self._work(shard, inputs, (), _points(shard)), turn=turn)
            for shard, inputs, turn in found
        ]

    def answers(self, works: Sequence[Work]) -> list[Done]:
        """What workers answer, once all of them have.

        Raises:
            ShoalError: the first that one of them met; nobody is at work then.
        """
        answers: dict[int, Done] = {}
        for i, work in enumerate(works):
            self._submit(work, partial(answers.__setitem__, i))
        while len(answers) < len(works):
            self.pool.hear(block=True)
        for i in range(len(works)):
            error = answers[i].error
            if error is not None:
                raise error
        return [answers[i] for i in range(len(works))]

    def whole(self, works: Sequence[Work], answers: Sequence[Done]) -> Tensors:
        """The aggregate, copied out of the segments of its shards."""
        memories = [self.store.memory(work.out) for work in works]
        if len(works) == 1:  # nothing to join, and so nothing that would copy
            memories = [memories[0].copy()]
        pieces = [find(a.content, m) for a, m in zip(answers, memories, strict=True)]
        return join(pieces, self.plan.shards, like_of(self._values, pieces))

    def let_go(self, works: Iterable[Work]) -> None:
        """Release what works were to write."""
        for work in works:
            self.store.release(work.out)

    def gathered(self, base: Any = None) -> Any:
        """The accumulator of all updates so far, merged with another, copied; nothing changes."""
        rule = self.plan.aggregator
        acc = rule.init(self._values) if base is None else swap(base, np.ndarray, np.copy)
        self._settle(drain=True)
        if not self._updates:
            return acc
        if not self.plan.lanes:
            for item in self._chains[0][0].queue:
                acc = rule.fold(acc, self._delta(item), item.weight, item.client)
            return acc
        pieces = []
        for lanes in self._chains:
            found = [self._copied(chain.last) for chain in lanes if chain.last is not None]
            piece = found.pop(0)
            for other in found:
                piece = rule.merge(piece, other)
            pieces.append(piece)
        return rule.merge(acc, whole(pieces, rule.init(self._values)))

    def give_up(self) -> None:
        """Release everything; what is at work now is released when it comes back."""
        self.over = True
        for chain in (chain for lanes in self._chains for chain in lanes):
            self._release(chain.queue)
            chain.queue.clear()
            if chain.last is not None and not chain.busy:
                self.store.release(chain.last.ref)
        self._release_model()

    def _settle(self, *, drain: bool) -> None:
        """Wait until no chain is at work, and if `drain`, until none has anything waiting."""
        chains = [chain for lanes in self._chains for chain in lanes]
        closing, self._closing = self._closing, self._closing or not drain
        try:
            for chain in chains:
                self._go_on(chain)  # unless closing
            while any(chain.busy for chain in chains):
                self.hear(block=True)
        finally:
            self._closing = closing
        self.hear(block=False)

    def _go_on(self, chain: _Chain) -> None:
        """Fold what a chain has waiting, unless it is at work."""
        if chain.busy or not chain.queue or self._closing or self.over:
            return
        inputs = tuple(chain.queue.popleft() for _ in range(min(BATCH, len(chain.queue))))
        partials = () if chain.last is None else (chain.last,)
        parts = any(self._is_part(item.stored) for item in inputs)
        self._parts = self._parts or parts
        size = max(chain.size, *(_bytes(one.content) for one in partials), 0)
        try:
            check_disjoint([chain.updates], inputs)
            work = self._work(chain.shard, inputs, partials, size + parts * chain.size)
        except ShoalError as error:
            self._error = error
            self._release(inputs)
            return
        chain.busy = True
        self._submit(work, lambda answer: self._folded(chain, work, answer))

    def _folded(self, chain: _Chain, work: Work, answer: Done) -> None:
        """A fold is done: its result takes the place of what went into it."""
        chain.busy = False
        self._release(work.inputs)
        if answer.error is not None:
            self._error = answer.error
        if self.over or answer.error is not None:
            self.store.release(work.out)
        else:
            chain.last = Partial(work.out, answer.content)
            chain.updates.update(item.update for item in work.inputs)
        if self.over or answer.error is None:
            for one in work.partials:
                self.store.release(one.ref)
        self._go_on(chain)

    def _merged(self, works: list[Work]) -> list[list[Partial]]:
        """What the top of each shard merges; the work of all middles is noted in `works`."""
        fan_in = self.plan.fan_in
        rows = [[one.last for one in lanes if one.last is not None] for lanes in self._chains]
        while max(map(len, rows)) > fan_in:
            groups = [[row[at : at + fan_in] for at in range(0, len(row), fan_in)] for row in rows]
            level = [
                self._work(lanes[0].shard, (), tuple(group), sum(_bytes(p.content) for p in group))
                for lanes, row in zip(self._chains, groups, strict=True)
                for group in row
            ]
            works += level
            done = iter(zip(level, self.answers(level), strict=True))
            rows = [
                [Partial(w.out, a.content) for _, (w, a) in zip(row, done, strict=False)]
                for row in groups
            ]
        return rows

    def _top(self, lanes: list[_Chain], partials: list[Partial]) -> Work:
        shard = lanes[0].shard
        check_disjoint([chain.updates for chain in lanes], [i for c in lanes for i in c.queue])
        inputs = tuple(item for chain in lanes for item in chain.queue)
        spans = ((p, end - begin) for p, (begin, end) in shard.ranges.items())
        size = sum(n * shard.layouts[p].dtype.itemsize + ALIGN for p, n in spans)
        return self._work(shard, inputs, tuple(partials), size, finish=True)

    def _work(
        self,
        shard: Shard,
        inputs: tuple[Input, ...],
        partials: tuple[Partial, ...],
        size: int,
        *,
        finish: bool = False,
    ) -> Work:
        model = self._model if any(item.kind == "model" for item in inputs) else None
        out = self.store.allocate(size)
        return Work(self.plan.aggregator, shard, inputs, partials, model, out, finish)

    def _submit(self, work: Work, done: Callable[[Done], None]) -> None:
        def heard(answer: Done) -> None:
            self.active -= 1
            self.seconds += answer.seconds
            if answer.error is None and answer.keys != keys(work):
                problem = f"{len(answer.keys)} of {len(keys(work))} keys were acknowledged"
                answer = Done(error=SharedMemoryError(problem))
            done(answer)
            if self.over:
                self._release_model()

        self.active += 1
        self.pool.submit(Job(work, heard))

    def _release(self, inputs: Iterable[Input]) -> None:
        for item in inputs:
            self.store.release(item.stored.ref)

    def _release_model(self) -> None:
        if self._model is not None and not self.active:
            self.store.release(self._model.ref)
            self._model = None

    def _is_part(self, stored: Stored) -> bool:
        content, model = stored.content, self._values
        return content.layout != model.layout or any(
            group.layout != model.groups[prefix].layout for prefix, group in content.groups.items()
        )

    def _delta(self, item: Input) -> Tensors:
        value = copied(item.stored, self.store)
        if item.kind == "model":
            return difference(value, self._values.select(value.layout.names))
        return value

    def _copied(self, result: Partial) -> Any:
        return accumulator(result, self.store.memory(result.ref).copy())


def check_disjoint(merged: Sequence[Set[int]], inputs: Sequence[Input]) -> None:
    """Raise `ProtocolError` if an update would be counted twice in one merge."""
    ids = [item.update for item in inputs]
    if len(merged) == 1:  # no need to go through all of them
        twice = {i for i in ids if i in merged[0]}
    else:
        counts = Counter(i for updates in merged for i in updates)
        counts.update(ids)
        twice = {i for i, count in counts.items() if count > 1}
    if twice or len(set(ids)) < len(ids):
        raise ProtocolError(f"updates {sorted(twice or ids)} would be counted twice in one merge")


def copied(stored: Stored, store: Store) -> Tensors:
    """Tensors out of shared memory."""
    return find(stored.content, store.memory(stored.ref).copy())


def _points(shard: Shard) -> int:
    """Bytes that the arrays of a pass take at most, or the aggregate."""
    total = 0
    for prefix, (begin, end) in shard.ranges.items():
        dtype = shard.layouts[prefix].dtype
        total += (end - begin) * max(dtype.itemsize, 4 if dtype.kind == "f" else 8) + 2 * ALIGN
    return total


def _bytes(acc: Any) -> int:
    """Bytes of an accumulator's arrays, or of where they are placed."""
    sizes: list[int] = []
    swap(acc, np.ndarray, lambda array: sizes.append(array.nbytes + ALIGN))
    swap(acc, Placed, lambda at: sizes.append(int(np.prod(at.shape)) * at.dtype.itemsize + ALIGN))
    return sum(sizes)
