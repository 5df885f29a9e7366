"""The endpoints of operators and viewers: runs, their records, submit, stop, resume."""

import json

from shoal.net.app import PUBLIC, Handler, Routes
from shoal.net.calls import Call
from shoal.net.hall import Hall
from shoal.net.openapi import document
from shoal.net.protocol import field
from shoal.tracking.codec import to_line

WATCH = 30.0  # seconds that a watcher waits at most


class Operators:
    """What people ask of the runs in a hall."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        made: dict[tuple[str, str], tuple[str, Handler]] = {
            ("GET", "openapi.json"): (PUBLIC, self.openapi),
            ("GET", "runs"): ("list", self.runs),
            ("POST", "runs"): ("submit", self.submit),
            ("GET", "runs/{run}"): ("read", self.run),
            ("GET", "runs/{run}/records"): ("read", self.records),
            ("POST", "runs/{run}/stop"): ("stop", self.stop),
            ("POST", "runs/{run}/resume"): ("resume", self.resume),
        }
        self.routes: Routes = made

    async def openapi(self, call: Call) -> None:
        """This interface, described."""
        await call.reply(document())

    async def runs(self, call: Call) -> None:
        """Every run that the principal may see; a client learns which go on, and no more."""
        may = call.principal.runs
        found = [run for run in self._hall.listed() if not may or run["name"] in may]
        if call.principal.role == "client":
            found = [{"name": r["name"], "status": r["status"], "problem": ""} for r in found]
        await call.reply({"runs": found})

    async def run(self, call: Call) -> None:
        """One run."""
        await call.reply(self._hall.find(call.run))

    async def records(self, call: Call) -> None:
        """What happened from the record of a number on; waits for the first."""
        desk = self._hall.desk(call.run)
        start = call.number("from", 0)
        if desk.counted <= start and desk.running:
            await desk.watch(min(float(call.number("wait", 0)), WATCH))
        first = desk.counted - len(desk.records)
        found = list(desk.records)[max(0, start - first) :]
        table = {
            "from": max(first, min(start, desk.counted)),
            "next": desk.counted,
            "status": desk.status,
            "records": [json.loads(to_line(record)) for record in found],
        }
        await call.reply(table)

    async def submit(self, call: Call) -> None:
        """A new run."""
        table = await call.table()
        name = field(table, "name", str)
        await self._hall.submit(field(table, "experiment", str), name)
        await call.reply(self._hall.find(name), 201)

    async def stop(self, call: Call) -> None:
        """Let a run rest."""
        await call.body(0)
        await self._hall.stop(call.run)
        await call.reply(self._hall.find(call.run))

    async def resume(self, call: Call) -> None:
        """Go on with a run."""
        await call.body(0)
        await self._hall.resume(call.run)
        await call.reply(self._hall.find(call.run))
