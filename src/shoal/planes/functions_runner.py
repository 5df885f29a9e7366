"""Where functions run: in this process, in local processes under ceilings, or on AWS Lambda.

All three pass the handler JSON and nothing else. A function that is killed, runs out of memory or
out of time is started again: what it does is the same however often it is done.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol

from shoal.errors import ConfigError, ShoalError, positive
from shoal.planes.handler import answer, handler
from shoal.planes.objects import aws_client


class FunctionError(ShoalError):
    """A function did not come to an end, however often it was started.

    Attributes:
        call: key of the object that it should have written.
        reasons: why each attempt ended.
    """

    def __init__(self, call: str, reasons: tuple[str, ...]) -> None:
        super().__init__(call, reasons)
        self.call, self.reasons = call, tuple(reasons)

    def __str__(self) -> str:
        tries = "; ".join(self.reasons)
        return f"the function for {self.call!r} failed {len(self.reasons)} times: {tries}"


class Crash(ShoalError):
    """One attempt ended without an answer; says why."""


class Runner(Protocol):
    """What starts functions."""

    @property
    def concurrency(self) -> int:
        """How many may run at once."""

    @property
    def memory(self) -> int | None:
        """Bytes that one may take; None where nobody enforces a ceiling."""

    def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        """Call the function and wait for its answer; may be called from many threads.

        Raises:
            FunctionError: if it failed more often than it may be started again.
            ShoalError: what the function met, e.g. `ObjectError`, which no retry would change.
        """

    def close(self) -> None:
        """End what is running."""


class Inline:
    """Functions as plain calls in this process: no ceilings, no isolation.

    Args:
        concurrency: how many may run at once.
    """

    memory = None

    def __init__(self, concurrency: int = 2) -> None:
        positive("concurrency", concurrency)
        self.concurrency = concurrency

    def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        """Call the handler, through JSON as everywhere."""
        return answer(json.loads(json.dumps(handler(json.loads(json.dumps(event))))))

    def close(self) -> None:
        """Nothing to end."""


@dataclass(frozen=True)
class Ceilings:
    """What a local function may take.

    Attributes:
        memory: bytes of its whole process, enforced where the system can (`resource`).
        timeout: seconds of one attempt, after which it is killed.
        cold_start: seconds that a fresh process waits before its first call, beside its own start.
        concurrency: functions at once.
        retries: how often a function is started again after a crash.
    """

    memory: int = 1 << 30
    timeout: float = 60.0
    cold_start: float = 0.0
    concurrency: int = 2
    retries: int = 2

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive("memory", self.memory)
        positive("timeout", self.timeout)
        positive("cold_start", self.cold_start, zero=True)
        positive("concurrency", self.concurrency)
        positive("retries", self.retries, zero=True)


class LocalRunner:
    """Functions in processes of this machine, which stay warm between calls.

    Attributes:
        starts: processes started so far: cold starts.
        crashes: attempts that ended without an answer.
    """

    def __init__(self, ceilings: Ceilings | None = None) -> None:
        self.ceilings = ceilings or Ceilings()
        self.concurrency, self.memory = self.ceilings.concurrency, self.ceilings.memory
        self.starts = self.crashes = 0
        self._slots = threading.Semaphore(self.concurrency)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._busy: list[_Process] = []

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that are at work."""
        with self._lock:
            return tuple(process.pid for process in self._busy)

    def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        """Call the function in a warm process, or in a fresh one."""
        with self._slots:
            return answer(retried(event, self.ceilings.retries, self._attempt))

    def close(self) -> None:
        """End all processes; warm ones are started again by the next call."""
        with self._lock:
            ending, self._idle = [*self._idle, *self._busy], []
        for process in ending:
            process.end()

    def _attempt(self, event: dict[str, Any]) -> Any:
        process = self._warm() or _Process(self.ceilings)
        with self._lock:
            self.starts += process.fresh
            self._busy.append(process)
        try:
            reply = process.call(event)
        except Crash:
            self.crashes += 1
            process.end()
            raise
        finally:
            with self._lock:
                self._busy.remove(process)
        with self._lock:
            self._idle.append(process)
        return reply

    def _warm(self) -> "_Process | None":
        """A process that is waiting for work; None if there is none."""
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None or process.alive:
                return process
            process.end()  # it was killed while it waited


class Lambda:
    """Functions on AWS Lambda, or whatever speaks its interface; needs the extra `aws`.

    Args:
        function: name or ARN of the deployed handler.
        memory: bytes that the function was deployed with.
        timeout: seconds that it was deployed with.
        concurrency: functions at once.
        retries: how often one is called again after a crash.
        region: None for the environment's.
        endpoint_url: of another service than Amazon's.
    """

    def __init__(
        self,
        function: str,
        *,
        memory: int = 2 << 30,
        timeout: float = 300.0,
        concurrency: int = 32,
        retries: int = 2,
        region: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        Ceilings(memory, timeout, 0.0, concurrency, retries)
        self.function, self.memory, self.concurrency = function, memory, concurrency
        self.retries = retries
        self._client, self._errors = aws_client("lambda", endpoint_url, region, timeout + 30.0)

    def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        """Call the function and wait for its answer."""
        return answer(retried(event, self.retries, self._attempt))

    def close(self) -> None:
        """Nothing to end: functions end by themselves."""

    def _attempt(self, event: dict[str, Any]) -> Any:
        try:
            found = self._client.invoke(
                FunctionName=self.function,
                InvocationType="RequestResponse",
                Payload=json.dumps(event).encode(),
            )
            text = found["Payload"].read()
        except self._errors as error:
            raise Crash(f"{self.function} cannot be called: {error}") from error
        if "FunctionError" in found:
            raise Crash(f"{found['FunctionError']}: {text[:500].decode(errors='replace')}")
        try:
            return json.loads(text)
        except ValueError as error:
            raise Crash(f"answered {text[:200]!r}") from error


def retried(
    event: dict[str, Any], retries: int, attempt: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """The answer of the first attempt that gives one.

    Raises:
        FunctionError: if none does.
    """
    reasons: list[str] = []
    while len(reasons) <= retries:
        try:
            reply: dict[str, Any] = attempt(event)
        except Crash as crash:
            reasons.append(str(crash))
        else:
            return reply
    raise FunctionError(str(event.get("call", {}).get("output")), tuple(reasons))


class _Process:
    """A child that answers calls, one line of JSON each; it ends when its input does."""

    def __init__(self, ceilings: Ceilings) -> None:
        self._ceilings = ceilings
        code = f"from shoal.planes.functions_runner import serve; serve({ceilings.memory})"
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env=environment,
            )  # fmt: skip
        except OSError as error:
            raise Crash(f"cannot be started: {error}") from error
        self.fresh = True
        time.sleep(ceilings.cold_start)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def call(self, event: dict[str, Any]) -> Any:
        self.fresh = False
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._child.kill()

        timer = threading.Timer(self._ceilings.timeout, stop)
        timer.start()
        try:
            _send(self._child.stdin, event)
            line = self._child.stdout.readline() if self._child.stdout else b""
        except OSError:  # a pipe whose other end is gone
            line = b""
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            raise Crash(self._reason(late.is_set()))
        reply = json.loads(line)
        if reply == {"crash": "memory"}:
            raise Crash(f"out of memory: its ceiling is {self._ceilings.memory} bytes")
        return reply

    def end(self) -> None:
        """Kill it and let go of its pipes."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was still to be sent has nobody to go to

    def _reason(self, late: bool) -> str:
        if late:
            return f"out of time: it may take {self._ceilings.timeout:g} s"
        code = self._child.wait()
        return f"killed by signal {-code}" if code < 0 else f"ended with status {code}"


def serve(memory: int) -> None:
    """The loop of a child: answer each line of the input, until there is no more."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints does not disturb the answers
    _limit(memory)
    for line in sys.stdin.buffer:
        try:
            reply: Any = handler(json.loads(line))
        except MemoryError:
            reply = {"crash": "memory"}
        _send(output, reply)
        if "crash" in reply:
            return


def _limit(memory: int) -> None:
    """Let this process take so many bytes of memory, where the system can enforce it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = [int(count) for count in file.read().split()[:2]]
        virtual, present = (count * resource.getpagesize() for count in pages)
    except OSError:
        virtual = present = 0
    if present >= memory:
        raise ConfigError("memory", f"{memory} bytes; Python and NumPy alone take {present}")
    # Address space that is reserved and never used costs nothing: only what comes on top counts.
    limit = virtual + memory - present
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _send(pipe: IO[bytes] | None, value: Any) -> None:
    if pipe is not None:
        pipe.write(json.dumps(value).encode() + b"\n")
        pipe.flush()


__all__ = ["Ceilings", "FunctionError", "Inline", "Lambda", "LocalRunner", "Runner"]
