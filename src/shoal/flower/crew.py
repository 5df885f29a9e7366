"""The SuperNodes of a server as clients of its runs: who has joined what, who does which task."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shoal import exchange as ex
from shoal import packing
from shoal.errors import ModelError
from shoal.flower import records
from shoal.flower.mail import Letter, Parcel, Press
from shoal.flower.nodes import Caller
from shoal.flower.uploads import through, unfit
from shoal.messages import Payload
from shoal.net.access import Denied
from shoal.net.desk import Desk, Session
from shoal.net.hall import Hall
from shoal.net.hosted import Answer, Message, Pushed, Work
from shoal.net.protocol import Refused
from shoal.seeds import key

_NOTHING = 1 << 62  # no task's number
log = logging.getLogger("shoal.net")


@dataclass(eq=False)
class Mate:
    """A node: where it has joined, what it was sent, what it sends.

    Attributes:
        letters: the newest by run, and `parcels` likewise, each with its upload session.
        states: of the upload pipeline, by run.
    """

    caller: Caller
    sessions: dict[str, Session] = field(default_factory=dict)
    letters: dict[str, Letter] = field(default_factory=dict)
    parcels: dict[str, tuple[str, Parcel]] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)


class Crew:
    """All nodes; on the loop's thread.

    Args:
        hall: the server's runs.
        note: told of a node's name, what it did ("joined", "left"), and the run.
    """

    def __init__(
        self, hall: Hall, note: Callable[[str, str, str], None] = lambda node, what, run: None
    ) -> None:
        self._hall, self._press, self._note = hall, Press(), note
        self._mates: dict[int, Mate] = {}
        self._legacy: set[str] = set()  # runs whose app wants the older records
        self._unfit: set[str] = set()

    def mate(self, caller: Caller) -> Mate:
        """The node behind a call, which is a sign of life."""
        mate = self._mates.get(caller.number)
        if mate is None:
            mate = self._mates[caller.number] = Mate(caller)
        for name in mate.sessions:
            if name in self._hall.desks:
                self._hall.desks[name].touch(caller.name)
        return mate

    def desk(self, number: int) -> Desk:
        """The run of a number.

        Raises:
            Refused: 403 if it is none that goes on; a node then lets go of it.
        """
        for name, desk in self._hall.desks.items():
            if run_number(name) == number and desk.running:
                return desk
        raise Refused(403, "over", f"run {number} does not go on here")

    def pushing(self, desk: Desk, nbytes: int) -> None:
        """Hold a part of an answer against the run's quota; raises `Denied` if it is used up."""
        self._hall.quotas.pushing(desk, nbytes)

    async def leave(self, mate: Mate) -> None:
        """A node goes."""
        for name, session in mate.sessions.items():
            desk = self._hall.desks.get(name)
            if desk is not None and _open(desk, session):
                await desk.leave(session.client)
                self._note(session.client, "left", name)
        self._mates.pop(mate.caller.number, None)

    async def letter(self, mate: Mate, seconds: float) -> Letter | None:
        """The next task of a node, from whichever run has one first; waits, None if none has."""
        desks = [desk for desk in self._hall.desks.values() if await self._joined(mate, desk)]
        if not desks:
            await asyncio.sleep(min(1.0, seconds))
            return None
        pulls = {
            asyncio.create_task(desk.pull(mate.sessions[desk.name], _NOTHING, seconds)): desk
            for desk in desks
        }
        try:
            await asyncio.wait(pulls, return_when="FIRST_COMPLETED")
            found = [(pull.result(), desk) for pull, desk in pulls.items() if pull.done()]
        finally:
            for pull in pulls:
                pull.cancel()
            await asyncio.gather(*pulls, return_exceptions=True)
        for work, desk in found:
            if work is not None:
                return await self._written(mate, desk, work)
        for desk in desks:
            if not desk.running:
                desk.told.add(mate.caller.name)
        return None

    async def deliver(self, mate: Mate, desk: Desk, parcel: Parcel) -> None:
        """A reply is complete: answer its task with it."""
        work, state = parcel.work, mate.states.get(desk.name)
        try:
            payload, problem = await _aside(parcel.open)
            if payload is None:
                await self._failed(mate, desk, work, problem)
                return
            raw, after = await _aside(lambda: _packed(desk, work, payload, state))
        except ModelError as error:
            await self.give_up(desk, work, str(error))
            return
        answer = await _ask(desk, work, raw)
        if answer.status in ("accepted", "repeated"):
            mate.states[desk.name] = after
        elif answer.status == "malformed":
            await self.give_up(desk, work, answer.problem)
        elif answer.status == "rejected":
            log.warning("%s: %s: %s", desk.name, work.task.client, answer.problem)

    async def give_up(self, desk: Desk, work: Work, problem: str) -> None:
        """Fail a task, and say why."""
        reason = (problem.splitlines() or ["no reason given"])[0][:2000]
        task = work.task
        desk.host.fail_note(task.client, task.id, reason, problem[:32_000])
        log.warning("%s: task %d of %s failed: %s", desk.name, task.id, task.client, reason)
        await desk.ask(lambda reply: Message(ex.Fail(task.id, task.client, reason), reply))

    async def _failed(self, mate: Mate, desk: Desk, work: Work, problem: str) -> None:
        if desk.name not in self._legacy and records.is_legacy(problem):
            self._legacy.add(desk.name)  # its next pull gives the same task in the other form
            return
        await self.give_up(desk, work, problem)

    async def _joined(self, mate: Mate, desk: Desk) -> bool:
        """Whether a node works for a run; it joins if it can."""
        if not desk.running:
            desk.told.add(mate.caller.name)
            return False
        session = mate.sessions.get(desk.name)
        if session is not None and _open(desk, session):
            return True
        served = desk.host.served
        problem = unfit(served.built.algorithm, served.node.model)
        if problem:
            if desk.name not in self._unfit:
                log.warning("%s: not for SuperNodes: %s", desk.name, problem)
                self._unfit.add(desk.name)
            return False
        try:
            self._hall.quotas.joining(desk, mate.caller.name)
        except Denied as denied:
            log.info("%s: %s has to wait: %s", desk.name, mate.caller.name, denied.problem)
            return False
        mate.sessions[desk.name] = await desk.join(mate.caller.name)
        self._note(mate.caller.name, "joined", desk.name)
        log.info("%s: %s joined", desk.name, mate.caller.name)
        return True

    async def _written(self, mate: Mate, desk: Desk, work: Work) -> Letter | None:
        where = (run_number(desk.name), mate.caller.number, desk.name in self._legacy)
        try:
            made: Letter = await _aside(lambda: self._press.letter(work, *where))
        except ModelError as error:
            await self.give_up(desk, work, str(error))
            return None
        mate.letters[desk.name] = made
        return made


def run_number(name: str) -> int:
    """A run's number in Flower's protocol."""
    return int.from_bytes(key(0, "flower", name)[:8], "big") >> 1


def _open(desk: Desk, session: Session) -> bool:
    try:
        return desk.session(session.id) is session
    except Refused:
        return False


def _packed(desk: Desk, work: Work, payload: Payload, state: Any) -> tuple[bytes, Any]:
    """The bytes of an answer behind the experiment's upload pipeline, and its next state."""
    served = desk.host.served
    known = (served.built.algorithm, work.task, work.volume.model)
    sent, after = through(*known, payload, state, served.experiment.seed)
    return packing.pack(sent), after


async def _ask(desk: Desk, work: Work, raw: bytes) -> Answer:
    task, client = work.task.id, work.task.client
    return await desk.ask(lambda reply: Pushed(task, client, raw, len(raw), "", reply))


async def _aside(call: Callable[[], Any]) -> Any:
    """Run something that computes beside the loop."""
    return await asyncio.get_running_loop().run_in_executor(None, call)
