"""The server without IO: `(input, now) -> effects`.

It owns the complete server state, carries out a coordinator's actions, and enforces the engine's
semantics: every update is aggregated, discarded or held; one task per client at a time; a repeated
answer counts once.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal import exchange as ex
from shoal import messages as m
from shoal.core import Coordinator, Plane
from shoal.crowd import Crowd
from shoal.downlink import Downlink, Whole
from shoal.errors import ModelError, ProtocolError, Stalled, UpdateError
from shoal.tensors import Tensors, difference
from shoal.validation import check_payload
from shoal.view import View, add, has, remove, roster

LEASE, TIMER = "lease ", "timer "


@dataclass(frozen=True, slots=True)
class Held:
    """An update between its arrival and its end."""

    update: m.Update
    task: m.Task
    arrived: float
    nbytes: int


class Node:
    """One server, or one relay, as a state machine.

    Args:
        coordinator: who trains when.
        plane: where tensors are held and folded.
        model: the model to start from.
        seed: names every draw together with its purpose.
        crowd: a population that is present from the start without joining; None for none.
        downlink: how models are sent; whole if None.

    Raises:
        ModelError: if the model holds NaN or infinity.
    """

    def __init__(
        self, coordinator: Coordinator[Any], plane: Plane, model: Tensors, seed: int = 0,
        crowd: Crowd | None = None, downlink: Downlink | None = None,
    ) -> None:  # fmt: skip
        if not model.finite():
            raise ModelError("the initial model holds NaN or infinity: check its initialization")
        self.coordinator, self.plane, self.seed = coordinator, plane, seed
        plane.start(model, 0)
        self.state: Any = coordinator.init()
        self.now = 0.0
        self.version, self.started = 0, False
        self.stopped: str | None = None
        self.evaluating = 0
        self.next_id = 0
        self.crowd, self.downlink = crowd, downlink if downlink is not None else Whole()
        self.clients, self.idle = roster(crowd), roster(crowd)
        self.tasks: dict[int, m.Task] = {}
        self.cancelled: dict[int, m.Task] = {}
        self.held: dict[int, Held] = {}
        self.numbers: dict[str, int] = {}
        self.timers: dict[str, float] = {}
        self.parent: m.Task | None = None
        self.base = model
        # (examples, steps) for a relay's answer: committed since its task, and folded since then.
        self.committed = self.folded = (0, 0)
        self.recent: deque[m.Event] = deque(maxlen=12)
        self._effects: list[ex.Effect] = []

    @property
    def done(self) -> bool:
        """Whether the run has stopped and every evaluation asked for has come."""
        return self.stopped is not None and not self.evaluating

    @property
    def model(self) -> Tensors:
        """The current model."""
        return self.plane.model

    def handle(self, given: ex.Input, now: float) -> list[ex.Effect]:
        """Take one input at a time in seconds that never falls; what is to be done about it.

        Raises:
            ProtocolError: if the coordinator breaks a rule.
            Stalled: on `Quiet` before the coordinator stopped.
        """
        if now < self.now:
            raise ProtocolError(f"time ran backwards: {now} after {self.now}")
        self.now = now
        effects: list[ex.Effect] = []
        self._effects = effects
        if self.stopped is None or type(given) is ex.Assessed:
            _INPUTS[type(given)](self, given)
        return effects

    # Inputs

    def _begin(self, given: ex.Begin) -> None:
        self.started = True
        self._tell(m.Started())

    def _given(self, given: ex.Given) -> None:
        self.parent, self.base = given.task, given.model
        self.committed = self.folded = (0, 0)
        self.plane.start(given.model, self.version)
        self.downlink.changed()
        self._begin(ex.Begin())

    def _join(self, given: ex.Join) -> None:
        client = given.client
        if has(self.clients, client):
            out = (*self.tasks.values(), *self.cancelled.values())
            self.downlink.forget(client, [task for task in out if task.client == client])
            return
        add(self.clients, client)
        add(self.idle, client)
        self._effects.append(m.ClientRecord(self.now, client, "joined"))
        if self.started:
            self._tell(m.Joined(client))

    def _leave(self, given: ex.Leave) -> None:
        client = given.client
        if not remove(self.clients, client):
            return
        self._effects.append(m.ClientRecord(self.now, client, "left"))
        remove(self.idle, client)
        for task in (*self.tasks.values(), *self.cancelled.values()):
            if task.client == client:
                self._lose(task, "the client left")
        self.downlink.forget(client)
        self._tell(m.Left(client))

    def _push(self, given: ex.Push) -> None:
        task = self._answered(given)
        if task is None:
            return
        payload = given.payload
        try:
            update = check_payload(task, payload, self.plane.model, self.now)
        except UpdateError as error:
            self._end(task, "rejected", str(error), given.nbytes)
            self._tell(m.Failed(task, f"rejected: {error}"))
            return
        if update.kind == "train":
            self.plane.put(task.id, payload)
            self.held[task.id] = Held(update, task, self.now, given.nbytes)
        else:
            self._end(task, "answered", "", given.nbytes)
        self._tell(m.Updated(update))

    def _fail(self, given: ex.Fail) -> None:
        task = self._answered(given)
        if task is not None:
            self._end(task, "failed", given.reason)
            self._tell(m.Failed(task, given.reason))

    def _answered(self, given: ex.Push | ex.Fail) -> m.Task | None:
        """The task that an answer belongs to, now over; None for answers that do not count."""
        task_id, client = given.task, given.client
        task = self.tasks.get(task_id) or self.cancelled.get(task_id)
        if task is None or task.client != client:
            return None
        add(self.idle, client)
        self.downlink.told(task, type(given) is ex.Push)
        if task.lease is not None:
            self.timers.pop(f"{LEASE}{task_id}", None)
        if self.tasks.pop(task_id, None) is not None:
            return task
        del self.cancelled[task_id]
        self._end(task, "cancelled", "cancelled by the coordinator")
        self._tell(m.Failed(task, "cancelled"))
        return None

    def _lose(self, task: m.Task, reason: str) -> None:
        """End a task that will not be answered."""
        self.timers.pop(f"{LEASE}{task.id}", None)
        was_cancelled = self.cancelled.pop(task.id, None) is not None
        self.tasks.pop(task.id, None)
        self.downlink.told(task, False)
        self._end(task, "cancelled" if was_cancelled else "failed", reason)
        self._tell(m.Failed(task, reason))

    def _tick(self, given: ex.Tick) -> None:
        if self.timers.get(given.timer) != given.at:
            return
        del self.timers[given.timer]
        if given.timer.startswith(TIMER):
            self._tell(m.TimedOut(given.timer.removeprefix(TIMER)))
            return
        task_id = int(given.timer.removeprefix(LEASE))
        task = self.tasks.get(task_id) or self.cancelled[task_id]
        add(self.idle, task.client)
        self._lose(task, f"its lease of {task.lease} s ended")

    def _assessed(self, given: ex.Assessed) -> None:
        self.evaluating -= 1
        self._effects.append(m.EvaluationRecord(self.now, given.version, given.metrics))
        if self.stopped is None:
            self._tell(m.Evaluated(given.version, given.metrics))

    def _quiet(self, given: ex.Quiet) -> None:
        what = f"{len(self.tasks)} tasks in flight" if self.tasks else "nothing in flight"
        raise Stalled(
            f"{type(self.coordinator).__name__} stalled at {self.now} s, version {self.version}: "
            f"{len(self.clients)} clients, {what}, no timer, not stopped. "
            f"Last events: {', '.join(map(repr, self.recent)) or 'none'}"
        )

    # Actions

    def _tell(self, event: m.Event) -> None:
        """Hand an event to the coordinator and perform its actions in order."""
        if self.stopped is not None:
            return
        self.recent.append(event)
        self.state, actions = self.coordinator.handle(self.state, event, View(self))
        for action in actions:
            _ACTIONS[type(action)](self, action)
            if self.stopped is not None:
                return
        if self.held and self.held.keys() != set(self.coordinator.held(self.state)):
            leaked = sorted(self.held.keys() ^ set(self.coordinator.held(self.state)))
            raise ProtocolError(
                f"{type(self.coordinator).__name__}: updates {leaked} after {event!r} are neither "
                "aggregated, nor discarded, nor in `held(state)`"
            )

    def _dispatch(self, action: m.Dispatch) -> None:
        client = action.client
        if not remove(self.idle, client):
            state = "is busy" if has(self.clients, client) else "is not here"
            raise ProtocolError(f"cannot dispatch to {client!r}: it {state}")
        number = self.numbers.get(client, 0)
        self.numbers[client] = number + 1
        task = m.Task(
            self.next_id, client, self.version, number, action.kind, action.config, self.now,
            action.lease, action.part,
        )  # fmt: skip
        self.next_id += 1
        self.tasks[task.id] = task
        if task.lease is not None:
            self._wake(f"{LEASE}{task.id}", self.now + task.lease)
        self._effects.append(self.downlink.assign(task, self.plane.model))

    def _cancel(self, action: m.Cancel) -> None:
        task = self.tasks.pop(action.task, None)
        if task is None:
            raise ProtocolError(f"cannot cancel task {action.task}: it is not in flight")
        self.cancelled[task.id] = task
        self._effects.append(ex.Revoke(task))

    def _aggregate(self, action: m.Aggregate) -> None:
        held = self._release(action.update)
        self.plane.fold(action.update, action.weight, held.update.client)
        examples, steps = self.folded
        self.folded = (examples + held.update.num_examples, steps + held.update.steps)
        self._end(held.task, "aggregated", "", held.nbytes, held, action.weight)

    def _discard(self, action: m.Discard) -> None:
        held = self._release(action.update)
        self.plane.drop(action.update)
        self._end(held.task, "discarded", action.reason, held.nbytes, held)

    def _release(self, update: int) -> Held:
        held = self.held.pop(update, None)
        if held is None:
            raise ProtocolError(f"update {update} is not held: aggregated or discarded before?")
        return held

    def _commit(self, action: m.Commit) -> None:
        updates = self.plane.folded
        model = self.plane.commit()
        self.version += 1
        self.downlink.changed()
        (examples, steps), (more_examples, more_steps) = self.committed, self.folded
        self.committed, self.folded = (examples + more_examples, steps + more_steps), (0, 0)
        if not model.finite():
            raise ModelError(
                f"the model became non-finite at version {self.version}: lower the server's "
                "learning rate, or clip updates"
            )
        busy = len(self.tasks) + len(self.cancelled)
        record = m.CommitRecord(self.now, self.version, updates, busy, len(self.clients))
        self._effects.append(record)

    def _abandon(self, action: m.Abandon) -> None:
        self.plane.abandon()
        self.folded = (0, 0)

    def _send(self, action: m.Send) -> None:
        if self.parent is None:
            raise ProtocolError("only a relay can send: this node has no parent's task")
        kind, model = str(self.parent.config.get("payload", "delta")), self.plane.model
        tensors = model if kind == "model" else difference(model, self.base)
        examples, steps = self.committed
        payload = m.Payload(tensors, max(examples, 1), max(steps, 1), kind)
        self._effects.append(ex.Deliver(self.parent, payload))
        self.parent = None
        for name in [name for name in self.timers if name.startswith(TIMER)]:
            del self.timers[name]

    def _timer(self, action: m.Timer) -> None:
        if action.at is None:
            self.timers.pop(TIMER + action.name, None)
        else:
            self._wake(TIMER + action.name, max(action.at, self.now))

    def _wake(self, name: str, at: float) -> None:
        self.timers[name] = at
        self._effects.append(ex.Wake(name, at))

    def _evaluate(self, action: m.Evaluate) -> None:
        self.evaluating += 1
        self._effects.append(ex.Assess(self.version, self.plane.model))

    def _stop(self, action: m.Stop) -> None:
        for held in list(self.held.values()):
            self._discard(m.Discard(held.update.id, "the run ended"))
        for task in (*self.tasks.values(), *self.cancelled.values()):
            self._end(task, "cancelled", "the run ended")
            self._effects.append(ex.Revoke(task))
        self.tasks.clear()
        self.cancelled.clear()
        self.timers.clear()
        self.stopped = action.reason
        self._effects.append(m.StopRecord(self.now, self.version, action.reason))

    def _end(
        self,
        task: m.Task,
        outcome: str,
        reason: str,
        bytes_up: int = 0,
        held: Held | None = None,
        weight: float = 0.0,
    ) -> None:
        """Record the whole life of a task."""
        update = held.update if held is not None else None
        record = m.TaskRecord(
            task=task.id,
            client=task.client,
            version=task.version,
            started=task.dispatched_at,
            arrived=self.now if held is None else held.arrived,
            ended=self.now,
            outcome=outcome,
            reason=reason,
            staleness=self.version - task.version,
            weight=weight,
            num_examples=0 if update is None else update.num_examples,
            steps=0 if update is None else update.steps,
            bytes_down=self.downlink.ended(task, self.plane.model),
            bytes_up=bytes_up,
            metrics=m.NOTHING if update is None else update.metrics,
        )
        self._effects.append(record)


# Not methods bound in the node: it would refer to itself, and its model would outlive it.
_INPUTS: dict[type, Callable[[Node, Any], None]] = {
    ex.Begin: Node._begin, ex.Join: Node._join, ex.Leave: Node._leave, ex.Push: Node._push,
    ex.Fail: Node._fail, ex.Tick: Node._tick, ex.Assessed: Node._assessed, ex.Given: Node._given,
    ex.Quiet: Node._quiet,
}  # fmt: skip
_ACTIONS: dict[type, Callable[[Node, Any], None]] = {
    m.Dispatch: Node._dispatch, m.Cancel: Node._cancel, m.Aggregate: Node._aggregate,
    m.Discard: Node._discard, m.Commit: Node._commit, m.Abandon: Node._abandon,
    m.Send: Node._send, m.Timer: Node._timer, m.Evaluate: Node._evaluate, m.Stop: Node._stop,
}  # fmt: skip
