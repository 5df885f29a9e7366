"""Where a run folds and by which plan: as it says, or as suits model, clients and machine.

Small models are folded where they arrive: nothing is faster. Workers that share memory pay off for
large models on many cores; functions and Ray are for those who ask for them.
"""

import os
import shutil
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from shoal.aggregators import Routed
from shoal.core import Aggregator, Plane, Transform
from shoal.planes.functions import Functions
from shoal.planes.functions_limits import is_exact, needed
from shoal.planes.functions_service import FunctionService
from shoal.planes.functions_shards import ghost
from shoal.planes.local import Local
from shoal.planes.processes import Processes
from shoal.planes.processes_shards import LEAST
from shoal.planes.state import has_sets, remembers
from shoal.planes.triggers import Triggered
from shoal.plans import Eager, Infeasible, PlanError, Platform, Prices, Shape, Workload, fittest
from shoal.plans.builders import widths
from shoal.plans.cut import layouts_of
from shoal.plans.passes import obstacles
from shoal.plans.prices import WARM
from shoal.plans.quantities import bytes_text
from shoal.plans.spec import AUTO, Spec, parse
from shoal.tensors import Tensors

LARGE = 256e6  # bytes of a model from which worker processes are worth their messages
CORES = 4  # from which there are some left beside the server and what it decodes
SHARED = 4 << 30  # bytes of shared memory, unless a run says otherwise
SPARE = 1 << 30  # bytes of updates that no machine is asked for
ALL = 1 << 30  # a fan-in that no round reaches


@dataclass(frozen=True)
class Machine:
    """What there is to fold with.

    Attributes:
        memory: bytes of this machine or of the container; 0 if unknown.
        cores: that this process may use.
        shared: bytes that are free in shared memory.
    """

    memory: int
    cores: int
    shared: int


@dataclass(frozen=True)
class Load:
    """What a round brings.

    Attributes:
        bytes: of one update.
        values: trainable ones.
        clients: updates of a commit, as far as is known.
        rule: the aggregator.
        exact: it adds in 64 bits.
        sets: it keeps every update until the commit.
        keeps: it remembers updates over commits.
    """

    model: Tensors
    bytes: int
    clients: int
    rule: Routed
    exact: bool
    sets: bool
    keeps: bool

    @classmethod
    def of(cls, model: Tensors, clients: int, rule: Aggregator[Any]) -> "Load":
        """What a model and an aggregator make of so many updates."""
        routed = rule if isinstance(rule, Routed) else Routed(rule)
        size = sum(it.size * it.dtype.itemsize for it in layouts_of(model).values())
        small = routed.init(ghost(model, peaks=False))
        return cls(model, size, clients, routed, is_exact(small), has_sets(small), remembers(small))


@dataclass(frozen=True)
class Decision:
    """Where a run folds, by which plan, and why.

    Attributes:
        plane: "local", "processes", "functions" or "ray".
        reason: in a few words.
        budget: bytes of updates and accumulators; None for no limit.
        leaves: of each tree of worker processes.
    """

    plane: str
    plan: Spec
    reason: str
    budget: int | None = None
    leaves: int = 1

    def __str__(self) -> str:
        return f"{self.plane}, {self.plan.name}: {self.reason}"


def decide(
    plane: str,
    plan: str,
    load: Load,
    memory: int | None = None,
    service: FunctionService = FunctionService(),
    machine: Machine | None = None,
) -> Decision:
    """Where to fold, and by which plan.

    Args:
        plane: one of `Decision.plane`, or "auto".
        plan: "auto", or one that `shoal.plans.spec` can read.
        memory: bytes that a run allows; None for the machine's.
        machine: None for this one.

    Raises:
        ConfigError: if the plan cannot be read.
        PlanError: if the plane cannot run it, or the aggregator cannot be folded by it.
        Infeasible: if nothing meets the ceiling, with what it takes.
    """
    spec = None if plan == AUTO else parse(plan)
    if plane == AUTO and spec is not None and spec.shape != "flat":
        plane = "processes"
    if spec is not None:
        _check(spec, load)
    if plane in (AUTO, "local"):
        if plane == AUTO and spec is None and load.bytes >= LARGE:
            found = machine or here()
            reason = _against_processes(load, memory, found)
            if not reason:
                return _processes(None, load, memory, found)
        else:
            reason = "as asked" if spec is not None or plane != AUTO else _small(load)
        return _local(spec or Spec(), reason, load, memory, machine)
    if plane == "functions":
        return _functions(spec, load, service)
    if load.keeps:
        return _at_home(spec, plane, load, memory, machine)
    if plane == "processes":
        return _processes(spec, load, memory, machine or here())
    return _ray(spec, load, memory, machine or here())


def opened(
    decision: Decision,
    aggregator: Aggregator[Any],
    optimizer: Transform[Any],
    seed: int,
    service: FunctionService = FunctionService(),
) -> Plane:
    """The plane that was decided on."""
    rules, plan, budget = (aggregator, optimizer, seed), decision.plan, decision.budget
    plane: Plane
    if decision.plane == "local":
        plane = Local(*rules, budget=budget)
    elif decision.plane == "processes":
        plane = Processes(
            *rules, budget=budget or SHARED, shards=plan.shards, lanes=decision.leaves,
            fan_in=plan.fan_in or None,
        )  # fmt: skip
    elif decision.plane == "functions":
        plane = Functions(
            *rules, store=service.open_store(), runner=service.open_runner(),
            shards=plan.shards, fan_in=plan.fan_in or ALL,
        )  # fmt: skip
    else:
        from shoal.planes.ray_plane import Ray

        plane = Ray(*rules, shards=plan.shards, fan_in=plan.fan_in or None, budget=budget or SHARED)
    return plane if isinstance(plan.trigger, Eager) else Triggered(plane, plan.trigger)


def here() -> Machine:
    """This machine, or the container that it lends."""
    memory = 0
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        memory = min(memory or int(text), int(text))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shared = Path("/dev/shm")
    return Machine(memory, usable or 1, shutil.disk_usage(shared).free if shared.is_dir() else 0)


def expected(coordinator: Any, clients: int) -> int:
    """Updates of a commit: the coordinator's cohort or buffer where it has one, or all clients."""
    for name in ("cohort", "buffer"):
        value = getattr(coordinator, name, None)
        if isinstance(value, int) and value > 0:
            return min(value, clients)
    return clients


# Each plane


def _local(
    spec: Spec, reason: str, load: Load, memory: int | None, machine: Machine | None
) -> Decision:
    if spec.shape != "flat":
        raise PlanError(
            spec.name, "the local plane folds flat: leave out `plane`, or set it to processes"
        )
    fixed = (5 + load.exact) * load.bytes  # model, next model, accumulator, aggregate, one update
    total = fixed + load.sets * load.clients * load.bytes
    if memory is not None or total <= SPARE:
        return Decision("local", spec, reason, memory)
    found = machine or here()
    if found.memory and fixed > found.memory:
        raise Infeasible(
            spec.name,
            f"a commit takes about {bytes_text(fixed)} of memory for a model of "
            f"{bytes_text(load.bytes)}, whatever the number of clients, and this machine has "
            f"{bytes_text(found.memory)}: train a part of it, e.g. an adapter, or use a larger one",
        )
    if found.memory and total > found.memory / 2:
        budget = max(found.memory // 2, fixed)
        said = f"{load.clients} updates that the rule keeps go to disk beyond {bytes_text(budget)}"
        return Decision("local", spec, f"{reason}; {said}", budget)
    return Decision("local", spec, reason)


def _at_home(
    spec: Spec | None, plane: str, load: Load, memory: int | None, machine: Machine | None
) -> Decision:
    if spec is not None and spec.shape != "flat":
        raise PlanError(spec.name, f"{_name(load)} remembers updates and is folded in one place")
    workers = "actors" if plane == "ray" else "worker processes"
    reason = f"{_name(load)} may remember updates over commits, which {workers} do not"
    return _local(spec or Spec(), reason, load, memory, machine)


def _processes(spec: Spec | None, load: Load, memory: int | None, machine: Machine) -> Decision:
    if spec is None:
        most = max(1, load.bytes // 4 // LEAST)
        count = 1 if obstacles(load.rule) else min(machine.cores, most)
        reason = (
            f"models of {bytes_text(load.bytes)} in one range for each of {machine.cores} cores"
        )
        return Decision("processes", Spec(count), reason, memory)
    leaves = widths(load.clients, spec.fan_in)[0] if spec.fan_in else 1
    return Decision("processes", spec, "as asked", memory, leaves)


def _functions(spec: Spec | None, load: Load, service: FunctionService) -> Decision:
    ceiling = None if service.runner == "inline" else service.memory
    whole = load.rule.scope == "update" or load.keeps
    if whole and spec is not None and spec.shards > 1:
        what = "compares whole updates" if load.rule.scope == "update" else "remembers updates"
        raise PlanError(spec.name, f"{_name(load)} {what}: functions fold it with one shard")
    if spec is not None:
        if ceiling is not None:
            _check_ceiling(spec, load, ceiling)
        return Decision("functions", spec, "as asked")
    least = 1 if ceiling is None else _least_shards(load, ceiling)
    if whole and least > 1:
        raise Infeasible(
            "plan", f"{_name(load)} needs whole updates, and {load.clients} of "
            f"{bytes_text(load.bytes)} do not fit a function of {bytes_text(ceiling or 0)}",
        )  # fmt: skip
    workload = Workload(load.bytes, load.clients, memory=2.0 * load.bytes / least)
    platform = Platform(memory=2.0 * load.bytes, seconds=service.timeout, cold=WARM)

    def allowed(shape: Shape) -> bool:
        return not (len(shape.levels) > 1 and (load.sets or load.keeps)) and not (
            shape.shards > 1 and whole
        )

    best = fittest(workload, platform, Prices(), allowed)
    tree = best.shape.fan_in or (best.shape.levels[0] if len(best.shape.levels) > 1 else 0)
    reason = (
        f"the cheapest for {load.clients} updates of {bytes_text(load.bytes)}: about "
        f"${best.dollars:.2g} a commit in {best.use.functions} calls"
    )
    return Decision("functions", Spec(best.shape.shards, tree), reason)


def _ray(spec: Spec | None, load: Load, memory: int | None, machine: Machine) -> Decision:
    if spec is not None:
        return Decision("ray", spec, "as asked", memory)
    one = obstacles(load.rule) or load.rule.scope == "update"
    count = 1 if one else min(machine.cores, max(1, load.bytes // 4 // LEAST))
    reason = f"models of {bytes_text(load.bytes)} in one range for each of {machine.cores} cores"
    return Decision("ray", Spec(count), reason, memory)


# Reasons and limits


def _small(load: Load) -> str:
    return f"models of {bytes_text(load.bytes)} are folded fastest where they arrive"


def _against_processes(load: Load, memory: int | None, machine: Machine) -> str:
    """Why a large model is not folded by worker processes; empty if it is."""
    if machine.cores < CORES:
        return f"{machine.cores} cores leave none for worker processes"
    if load.sets or load.keeps:
        return f"{_name(load)} keeps updates, and what has no room here goes to disk"
    needs = (6 + 2 * load.exact) * load.bytes  # accumulators twice, model, aggregate, updates
    if needs > min(memory or SHARED, machine.shared):
        room = bytes_text(min(memory or SHARED, machine.shared))
        return (
            f"shared memory of {room} has no room for the {bytes_text(needs)} of worker processes"
        )
    return ""


def _check(spec: Spec, load: Load) -> None:
    """Raise `PlanError` if the rule cannot be folded by a plan on any plane."""
    stuck, values = obstacles(load.rule), load.model.layout.size
    if spec.shards > 1 and stuck:
        raise PlanError(
            spec.name, f"{stuck[0]} compares whole updates and cannot be cut: use flat or tree(8)"
        )
    if spec.shards > values:
        raise PlanError(spec.name, f"{spec.shards} shards of {values} values")
    if spec.fan_in and (load.sets or load.keeps):
        raise PlanError(
            spec.name, f"{_name(load)} keeps every update, so that partial results would be no "
            "smaller: use flat or shards(4)",
        )  # fmt: skip


def _check_ceiling(spec: Spec, load: Load, ceiling: int) -> None:
    least = _least_shards(load, ceiling)
    if spec.shards < least:
        raise Infeasible(
            spec.name,
            f"a function holds about {bytes_text(_needed(load, spec.shards))} of "
            f"{load.clients} updates, and its ceiling is {bytes_text(ceiling)}: use "
            f"shards({least}), or raise `functions.memory`",
        )


def _least_shards(load: Load, ceiling: int) -> int:
    """The fewest shards that functions can hold.

    Raises:
        Infeasible: if the ceiling has no room for a function at all.
    """
    fixed = _needed(load, 0)
    if fixed >= ceiling:
        raise Infeasible(
            "plan",
            f"a function takes {bytes_text(fixed)} by itself, and its ceiling is "
            f"{bytes_text(ceiling)}: raise `functions.memory`",
        )
    return max(1, ceil((_needed(load, 1) - fixed) / (ceiling - fixed)))


def _needed(load: Load, shards: int) -> int:
    fixed, divisible = needed(
        layouts_of(load.model), load.clients, exact=load.exact, sets=load.sets
    )
    return fixed + (divisible // shards if shards else 0)


def _name(load: Load) -> str:
    return type(load.rule.default).__name__
