"""Records that look like those of real runs: clients of unequal speed under three schedules."""

import heapq
import math
from pathlib import Path

import numpy as np

from shoal.messages import (
    ClientRecord,
    CommitRecord,
    EvaluationRecord,
    Record,
    StopRecord,
    TaskRecord,
)
from shoal.tracking.history import Meta, Run, write_meta
from shoal.tracking.sinks import JsonLines

MODEL_BYTES = 178_000


class Schedule:
    """A small event loop: `quorum` of `cohort` per round, or a buffer of `goal` updates."""

    def __init__(self, clients: int, goal: int, cohort: int, rounds: bool, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.names = [f"client-{i:03d}" for i in range(clients)]
        paces = self.rng.lognormal(1.5, 0.8, clients).tolist()
        self.pace = dict(zip(self.names, paces, strict=True))
        self.goal, self.cohort, self.rounds = goal, cohort, rounds
        self.heap: list[tuple[float, int, str, TaskRecord | None]] = []
        self.records: list[Record] = []
        self.idle: set[str] = set()
        self.away: set[str] = set()
        self.held: list[TaskRecord] = []
        self.out: set[int] = set()
        self.version = self.count = self.order = 0
        self.skill = 0.0
        self.gain = 0.0

    def push(self, time: float, kind: str, task: TaskRecord | None = None, name: str = "") -> None:
        self.order += 1
        heapq.heappush(self.heap, (time, self.order, kind + name, task))

    def run(self, tasks: int) -> list[Record]:
        self.gain = 3.2 / tasks
        for name in self.names:
            self.records.append(ClientRecord(0.0, name, "joined"))
            self.idle.add(name)
            if self.rng.random() < 0.25:
                self.push(float(self.rng.exponential(200)), "leave:", name=name)
        self.evaluate(0.0)
        self.dispatch(0.0)
        now = 0.0
        while self.heap and self.count < tasks and self.skill < 1.75:
            now, _, kind, task = heapq.heappop(self.heap)
            if task is not None:
                self.arrive(now, task)
            elif kind.startswith("leave:"):
                self.leave(now, kind[6:])
            else:
                self.back(now, kind[5:])
        self.evaluate(now)
        self.records.append(StopRecord(now, self.version, "commits"))
        return self.records

    def dispatch(self, now: float) -> None:
        want = self.cohort - len(self.out)
        free = sorted(self.idle)
        for name in self.rng.permutation(free)[: max(0, want)]:
            client = str(name)
            took = self.pace[client] * float(self.rng.lognormal(0, 0.15)) + 0.3
            steps = int(self.rng.integers(8, 30))
            luck = self.rng.random()
            outcome = "failed" if luck < 0.03 else "rejected" if luck < 0.04 else "aggregated"
            if outcome == "failed":
                took *= float(self.rng.random())
            reason = {"failed": "dropped out", "rejected": "non-finite values"}.get(outcome, "")
            task = TaskRecord(
                *(self.count, client, self.version, now, now + took, now + took, outcome, reason),
                num_examples=0 if outcome == "failed" else steps * 10,
                steps=0 if outcome == "failed" else steps,
                bytes_down=MODEL_BYTES,
                bytes_up=0 if outcome == "failed" else MODEL_BYTES // 4,
                metrics={"loss": 2.3 * math.exp(-2 * self.skill)},
            )
            self.count += 1
            self.out.add(task.task)
            self.idle.discard(client)
            self.push(now + took, "task", task)

    def arrive(self, now: float, task: TaskRecord) -> None:
        late = task.task not in self.out
        self.out.discard(task.task)
        if task.client not in self.away:
            self.idle.add(task.client)
        if task.outcome != "aggregated":
            self.records.append(task)
        elif late:
            self.finish(task, now, "discarded", "late")
        else:
            self.held.append(task)
        if len(self.held) >= self.goal:
            self.commit(now)
            if self.rounds:
                self.out.clear()
            self.dispatch(now)
        elif not self.rounds or not self.out:
            self.dispatch(now)

    def finish(self, task: TaskRecord, now: float, outcome: str, reason: str = "") -> None:
        fields = {n: getattr(task, n) for n in TaskRecord.__slots__}
        stale = self.version - task.version
        self.records.append(
            TaskRecord(
                **fields | {"ended": now, "outcome": outcome, "reason": reason, "staleness": stale}
            )
        )

    def commit(self, now: float) -> None:
        gain = 0.0
        for task in self.held:
            stale = (self.version - task.version) / self.goal
            gain += 1 / (1 + stale) ** 0.3
            self.finish(task, now, "aggregated")
        self.skill += self.gain * gain
        self.version += 1
        busy = len(self.out)
        present = len(self.names) - len(self.away)
        self.records.append(CommitRecord(now, self.version, len(self.held), busy, present))
        self.held.clear()
        if self.version % max(1, 20 // self.goal) == 0:
            self.evaluate(now)

    def evaluate(self, now: float) -> None:
        noise = float(self.rng.normal(0, 0.006))
        accuracy = 0.96 - 0.86 * math.exp(-1.6 * self.skill) + noise
        loss = 0.12 + 2.18 * math.exp(-1.4 * self.skill) * (1 + noise)
        self.records.append(
            EvaluationRecord(now, self.version, {"accuracy": accuracy, "loss": loss})
        )

    def leave(self, now: float, name: str) -> None:
        if name in self.idle and len(self.idle) > 1:
            self.idle.discard(name)
            self.away.add(name)
            self.records.append(ClientRecord(now, name, "left"))
            self.push(now + float(self.rng.exponential(60)), "back:", name=name)
        else:
            self.push(now + 1.0, "leave:", name=name)

    def back(self, now: float, name: str) -> None:
        self.away.discard(name)
        self.idle.add(name)
        self.records.append(ClientRecord(now, name, "joined"))
        self.push(now + float(self.rng.exponential(300)), "leave:", name=name)
        if not self.rounds:
            self.dispatch(now)


KINDS = {
    "fedavg": {"goal": 8, "cohort": 10, "rounds": True},
    "fedbuff": {"goal": 10, "cohort": 30, "rounds": False},
    "fedasync": {"goal": 1, "cohort": 30, "rounds": False},
    "fedcompass": {"goal": 5, "cohort": 25, "rounds": False},
}


def make(kind: str, clients: int = 50, tasks: int = 2000, seed: int = 0) -> Run:
    """A run in memory."""
    records = Schedule(clients, **KINDS[kind], seed=seed).run(tasks)  # type: ignore[arg-type]
    meta = Meta(
        name=kind,
        algorithm=kind,
        experiment=f'[algorithm]\nname = "{kind}"\n\n[data]\nclients = {clients}\n',
        seed=seed,
        target_value=0.9,
        clients=clients,
        versions={"shoal": "0.1.0", "python": "3.11", "numpy": "2.1", "torch": "2.13"},
        started="2026-01-05T09:30:00+00:00",
        wall_seconds=14.2 + seed,
        status="done",
    )
    return Run(Path("runs") / kind, meta, records)


def save(run: Run, directory: Path) -> Path:
    """Write a run as a run directory."""
    write_meta(directory, run.meta)
    sink = JsonLines(directory / "records.jsonl")
    for record in run.records:
        sink.write(record)
    sink.close()
    return directory
