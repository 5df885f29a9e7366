"""Which plane and plan a run gets: by model, clients, memory and machine, with a reason."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import experiments
import shoal
from shoal.aggregators import GeometricMedian, Krum, Latest, Mean, Median
from shoal.core import NOTHING, Aggregator
from shoal.errors import ConfigError
from shoal.experiment import Experiment, build, from_toml, to_toml, with_settings
from shoal.parts import blank
from shoal.planes import Local
from shoal.planes.choice import Decision, Load, Machine, decide, expected, opened
from shoal.planes.functions import Functions
from shoal.planes.functions_service import FunctionService
from shoal.planes.processes import Processes
from shoal.planes.triggers import Triggered
from shoal.plans import Infeasible, Lazy, PlanError, Spec
from shoal.runner import execute
from shoal.tensors import Layout, equal
from shoal.tracking import read

SMALL = Machine(memory=16 << 30, cores=2, shared=8 << 30)
BIG = Machine(memory=256 << 30, cores=32, shared=128 << 30)
SERVICE = FunctionService()


def load(nbytes: float, clients: int = 10, rule: Aggregator[Any] = Mean()) -> Load:
    """A round of models of so many bytes, which take no memory here."""
    layout = Layout(("w",), ((int(nbytes) // 4,),), np.dtype(np.float32))
    return Load.of(blank(layout), clients, rule)


def chosen(
    load: Load, machine: Machine = BIG, plane: str = "auto", plan: str = "auto",
    memory: int | None = None, service: FunctionService = SERVICE,
) -> Decision:  # fmt: skip
    return decide(plane, plan, load, memory, service, machine)


# What is chosen


def test_small_models_are_folded_where_they_arrive() -> None:
    found = chosen(load(40e6))
    assert (found.plane, found.plan, found.budget) == ("local", Spec(), None)
    assert str(found) == "local, flat: models of 40 MB are folded fastest where they arrive"


def test_large_models_go_to_worker_processes_where_there_are_cores_and_memory() -> None:
    found = chosen(load(400e6))
    assert (found.plane, found.plan) == ("processes", Spec(32))
    assert "32 cores" in found.reason
    for machine, rule, memory, why in (
        (SMALL, Mean(), None, "2 cores"),
        (BIG, Median(), None, "Median keeps updates"),
        (BIG, Latest(3), None, "Latest keeps updates"),
        (BIG, Mean(), 1_000_000_000, "shared memory of 1 GB has no room for the 2.4 GB"),
        (replace(BIG, shared=64 << 20), Mean(), None, "shared memory of 67.1 MB"),
    ):
        found = chosen(load(400e6, rule=rule), machine, memory=memory)
        assert (found.plane, found.budget) == ("local", memory)
        assert why in found.reason


@pytest.mark.parametrize("plane", ["processes", "ray"])
def test_what_remembers_updates_is_folded_here_and_says_why(plane: str) -> None:
    found = decide(plane, "auto", load(400e6, rule=Latest(3)), machine=BIG)
    assert found.plane == "local" and "Latest may remember updates over commits" in found.reason
    with pytest.raises(PlanError, match="Latest remembers updates"):
        decide(plane, "shards(2)", load(400e6, rule=Latest(3)), machine=BIG)


def test_what_a_rule_keeps_goes_to_disk_before_memory_is_full() -> None:
    found = chosen(load(400e6, 100, Median()), SMALL)
    assert (found.plane, found.budget) == ("local", 8 << 30)
    assert "100 updates that the rule keeps go to disk beyond 8.59 GB" in found.reason
    assert chosen(load(400e6, 3, Median()), SMALL).budget is None
    assert chosen(load(400e6, 100, Median()), SMALL, memory=1 << 31).budget == 1 << 31


def test_functions_get_the_cheapest_plan_that_their_ceiling_allows() -> None:
    for nbytes, ceiling, least in ((4e4, 1 << 30, 1), (1e9, 2 << 30, 2), (1e9, 1 << 29, 10)):
        service = FunctionService(memory=ceiling)
        found = chosen(load(nbytes, 50), plane="functions", service=service)
        assert found.plan.shards >= least
        assert "cheapest for 50 updates" in found.reason
        opened(found, Mean(), NOTHING, 0, replace(service, runner="inline")).close()
    assert chosen(load(1e9, 50, Median()), plane="functions").plan.fan_in == 0
    with pytest.raises(Infeasible, match=r"Krum needs whole updates, and 50 of 1 GB"):
        chosen(load(1e9, 50, Krum(1)), plane="functions")
    with pytest.raises(Infeasible, match=r"takes 101 MB by itself, and its ceiling is 67.1 MB"):
        chosen(load(1e9), plane="functions", service=FunctionService(memory=64 << 20))


def test_the_cohort_counts_where_it_is_known() -> None:
    assert expected(shoal.algorithms.FedAvg(cohort=7), 100) == 7
    assert expected(shoal.algorithms.FedAvg(cohort=7), 5) == 5
    assert expected(shoal.algorithms.FedAvg(), 100) == 100
    assert expected(shoal.algorithms.FedBuff(buffer=4), 100) == 4


# What is asked for


@pytest.mark.parametrize(
    ("plane", "plan", "kind", "spec", "leaves"),
    [
        ("auto", "flat", "local", Spec(), 1),
        ("local", "auto", "local", Spec(), 1),
        ("auto", "shards(4)", "processes", Spec(4), 1),
        ("auto", "tree(5)", "processes", Spec(1, 5), 2),
        ("processes", "shards(2) x tree(4)", "processes", Spec(2, 4), 3),
        ("processes", "flat", "processes", Spec(), 1),
        ("functions", "shards(2) x tree(4)", "functions", Spec(2, 4), 1),
        ("auto", "flat, lazy(4)", "local", Spec(trigger=Lazy(4)), 1),
    ],
)
def test_plans_that_are_asked_for(
    plane: str, plan: str, kind: str, spec: Spec, leaves: int
) -> None:
    found = chosen(load(4e6), plane=plane, plan=plan)
    assert (found.plane, found.plan, found.leaves) == (kind, spec, leaves)


@dataclass(frozen=True)
class Stubborn:
    """A rule over whole updates that cannot be computed in parts."""

    scope: str = "update"
    init = property(lambda self: GeometricMedian().init)


@pytest.mark.parametrize(
    ("plane", "plan", "rule", "error", "says"),
    [
        ("local", "shards(4)", Mean(), PlanError, "the local plane folds flat"),
        ("auto", "shards(2)", Stubborn(), PlanError, "Stubborn compares whole updates"),
        ("processes", "tree(8)", Median(), PlanError, "Median keeps every update"),
        ("auto", "shards(2000000)", Mean(), PlanError, "2000000 shards of 1000000 values"),
        ("functions", "shards(2)", Krum(1), PlanError, "Krum compares whole updates"),
        ("functions", "shards(2)", Latest(3), PlanError, "Latest remembers updates"),
        ("auto", "shards", Mean(), ConfigError, "is no plan"),
    ],
)
def test_plans_that_cannot_be_are_refused_before_work_starts(
    plane: str, plan: str, rule: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        chosen(load(4e6, rule=rule), plane=plane, plan=plan)


def test_ceilings_that_cannot_be_met_are_refused_with_the_numbers() -> None:
    with pytest.raises(
        Infeasible, match=r"about 100 GB .* model of 20 GB.* this machine has 17.2 GB"
    ):
        chosen(load(20e9), SMALL)
    service = FunctionService(memory=1 << 29)
    with pytest.raises(Infeasible, match=r"holds about 4.1 GB of 50 updates.*537 MB.*shards\(10\)"):
        chosen(load(1e9, 50), plane="functions", plan="flat", service=service)
    with pytest.raises(ConfigError, match="budget: 1000 bytes are less than"):
        build(replace(experiments.softmax(), memory=1000))


def test_planes_are_made_as_decided() -> None:
    rules = (Mean(), NOTHING, 0)
    local = opened(Decision("local", Spec(), "", 1 << 20), *rules)
    assert isinstance(local, Local) and local.budget == 1 << 20
    workers = opened(Decision("processes", Spec(3, 4), "", None, 2), *rules)
    assert isinstance(workers, Processes) and (workers.shards, workers.lanes) == (3, 2)
    calls = opened(Decision("functions", Spec(3, 4), ""), *rules)
    assert isinstance(calls, Functions) and (calls.shards, calls.fan_in) == (3, 4)
    lazy = opened(Decision("local", Spec(trigger=Lazy(4)), ""), *rules)
    assert isinstance(lazy, Triggered) and isinstance(lazy.plane, Local)
    for plane in (local, workers, calls, lazy):
        plane.close()


# Functions of an experiment


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"runner": "lambda", "store": "s3://bucket"}, "functions.function"),
        ({"runner": "lambda", "function": "fold"}, "Lambda cannot reach"),
        ({"store": "s3:///prefix"}, "names no bucket"),
        ({"memory": 0}, "memory"),
        ({"timeout": -1.0}, "timeout"),
    ],
)
def test_services_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        FunctionService(**wrong)


def test_stores_and_runners_are_made_as_described(tmp_path: Path) -> None:
    pytest.importorskip("boto3")
    far = FunctionService("s3://bucket/runs/", "http://localhost:1", "eu-west-1").open_store()
    assert (far.bucket, far.prefix) == ("bucket", "runs/")  # type: ignore[union-attr]
    assert far.endpoint_url == "http://localhost:1"  # type: ignore[union-attr]
    assert FunctionService("s3://bucket").open_store().prefix == ""  # type: ignore[union-attr]
    assert FunctionService().open_store() is None
    there = FunctionService(
        "s3://bucket", region="eu-west-1", runner="lambda", function="fold", memory=3 << 30
    )
    runner = there.open_runner()
    assert (runner.function, runner.memory) == ("fold", 3 << 30)  # type: ignore[attr-defined]


def short(**changed: Any) -> Experiment:
    return replace(experiments.softmax(), commits=4, evaluate_every=2, **changed)


def test_an_experiment_on_functions_gives_locals_bits_and_goes_through_toml(
    tmp_path: Path,
) -> None:
    service = FunctionService(store=str(tmp_path / "objects"), memory=1 << 29, timeout=30.0)
    apart = short(plane="functions", plan="shards(2) x tree(2)", functions=service)
    assert from_toml(to_toml(apart)) == apart
    assert 'plan = "shards(2) x tree(2)"' in to_toml(apart)
    changed = with_settings(apart, ["functions.timeout=9.5", "plan=auto"])
    assert (changed.functions.timeout, changed.plan) == (9.5, "auto")
    execute(short(), tmp_path / "local")
    execute(apart, tmp_path / "functions")
    models = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("local", "functions")
    ]
    assert models[0] == models[1]  # its mean is exact
    left = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert not left


@pytest.mark.parametrize("plan", ["shards(2)", "tree(4)", "shards(3) x tree(4), lazy(3)"])
def test_plans_of_an_experiment_change_no_bit_of_an_exact_mean(plan: str) -> None:
    built = [build(short(plan=plan)), build(short())]
    try:
        assert [b.decision.plane for b in built if b.decision] == ["processes", "local"]
        for each in built:
            shoal.transports.run(each.node, each.transport)
        assert equal(built[0].node.model, built[1].node.model)
    finally:
        for each in built:
            each.close()


def test_the_choice_is_recorded_and_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    execute(short(), tmp_path, say=said.append)
    meta = json.loads((tmp_path / "run.json").read_bytes())
    assert said == [meta["plan"]] == [read(tmp_path).meta.plan]
    assert said[0].startswith("local, flat: models of ")


def test_an_experiment_says_auto_unless_told_and_refuses_no_plan() -> None:
    experiment = short()
    assert (experiment.plane, experiment.plan) == ("auto", "auto")
    assert "plan" not in to_toml(experiment)
    with pytest.raises(ConfigError, match="is no plan"):
        short(plan="bush(3)")
