"""Costs by hand: bytes, joules and dollars of tasks, commits, clients and runs."""

import json
import sys
import types
from pathlib import Path

import pytest

from shoal.cli import main
from shoal.errors import ConfigError, DataError, MissingExtra
from shoal.messages import ClientRecord, CommitRecord, StopRecord, TaskRecord
from shoal.simulation import Constant, Devices
from shoal.tracking.cost import KWH, POWERS, Rates, account
from shoal.tracking.cost_view import dollars, energy
from shoal.tracking.host_energy import measured
from shoal.tracking.sinks import named

REF = f"{Path(__file__).parents[1] / 'experiments.py'}:softmax"


def task(number: int, client: str, start: float, end: float, up: int = 10**8) -> TaskRecord:
    outcome = "aggregated" if up else "failed"
    return TaskRecord(number, client, 0, start, end, end, outcome, bytes_down=10**9, bytes_up=up)


RECORDS = [
    ClientRecord(0.0, "a", "joined"),
    task(0, "a", 0.0, 100.0),
    task(1, "b", 0.0, 50.0, up=0),
    CommitRecord(100.0, 1, 1, 0, 2),
    task(2, "a", 100.0, 3600.0),
    StopRecord(3600.0, 1, "done"),
]


def test_a_run_by_hand() -> None:
    links = Devices(down=Constant(1e8), up=Constant(1e7))  # 10 s down, 10 s up
    rates = Rates(per_kwh=0.5, per_gb=0.1, per_server_hour=2.0, per_device_hour=3.6, pue=1.5)
    found = account(RECORDS, rates, links)
    first = found.of(RECORDS[1])
    assert (first.seconds, first.transfer) == (100.0, 20.0)
    assert first.device == 80 * 4.0 + 20 * 1.2
    assert first.network == pytest.approx(1.1 * 0.06 * KWH)
    assert first.dollars == pytest.approx(
        (first.device + first.network) / KWH * 0.5 + 0.1 + 100 / 3600 * 3.6
    )
    lost = found.of(RECORDS[2])
    assert (lost.transfer, lost.bytes_up) == (10.0, 0)
    assert found.server.server == 3600 * 200 * 1.5
    assert found.server.dollars == pytest.approx(0.3 * 0.5 + 2.0)
    total = found.total
    assert (total.tasks, total.bytes_up, total.bytes_down) == (3, 2 * 10**8, 3 * 10**9)
    assert total.seconds == 100 + 50 + 3500
    assert found.grams == pytest.approx(total.joules / KWH * 475)


def test_clients_and_commits_add_up_to_the_run() -> None:
    found = account(RECORDS)
    for parts in (found.clients, found.commits):
        for name in ("tasks", "bytes_down", "seconds", "device", "network"):
            whole = sum(getattr(cost, name) for cost in parts.values())
            assert whole == pytest.approx(getattr(found.total, name))
    assert found.clients["a"].tasks == 2
    assert {v: c.tasks for v, c in found.commits.items()} == {1: 2, 2: 1}
    assert found.total.transfer == 0.0  # without links all of it is computation


def test_classes_of_devices_differ_and_unknown_ones_are_refused() -> None:
    joules = [account(RECORDS, Rates(device=name)).total.device for name in POWERS]  # type: ignore[arg-type]
    assert joules == sorted(joules) and joules[0] == 3650 * 4.0
    with pytest.raises(ConfigError, match="did you mean phone"):
        Rates(device="phne")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pue"):
        Rates(pue=0.5)
    with pytest.raises(ConfigError, match="per_gb"):
        Rates(per_gb=-1.0)


def test_amounts_read_well() -> None:
    found = [energy(v) for v in (0.0, 0.01, 12.3, 7200.0, 9e6, 3.6e10)]
    assert found == ["0 Wh", "2.78 µWh", "3.42 mWh", "2 Wh", "2.5 kWh", "10,000 kWh"]
    assert [dollars(v) for v in (0.0, 0.0123, 1234.5)] == ["$0.00", "$0.012", "$1,234.50"]


def test_show_says_it_and_writes_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", REF, "--set", "commits=3"]) == 0
    assert "cost of softmax: " in capsys.readouterr().out
    (tmp_path / "runs/softmax/energy.json").write_text('{"kwh": 0.5, "grams": 1}', "utf-8")
    arguments = ["show", "cost", "runs/softmax", "--out", "c.csv"]
    assert main([*arguments, "--set", "device=laptop"]) == 0
    out = capsys.readouterr().out
    assert "of laptops" in out and "this machine drew 500 Wh" in out and "v1" in out
    rows = Path("c.csv").read_text("utf-8").splitlines()
    assert rows[-1].startswith("run,") and rows[0].startswith("what,name,tasks")
    assert main(["show", "cost", "runs/softmax", "--set", "devise=laptop"]) == 2
    assert "did you mean device" in capsys.readouterr().err
    assert main(["show", "cost"]) == 2


class Tracker:
    """Behaves as CodeCarbon's does."""

    def __init__(self, **options: object) -> None:
        self.options, self.calls = options, []
        self.final_emissions_data = types.SimpleNamespace(energy_consumed=0.25, duration=9.0)

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> float:
        self.calls.append("stop")
        return 0.1


def test_codecarbon_is_asked_for_by_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "shoal.tracking.energy", raising=False)
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(MissingExtra, match=r"shoal\[energy\]"):
        named("energy")
    made: list[Tracker] = []
    fake = types.SimpleNamespace(EmissionsTracker=lambda **o: made.append(Tracker(**o)) or made[0])
    monkeypatch.setitem(sys.modules, "codecarbon", fake)
    sink = named("energy").of_run("x", tmp_path)
    sys.modules.pop("shoal.tracking.energy")  # made with the fake package: nobody else may see it
    tracker = made[0]
    assert tracker.options["project_name"] == "x" and not tracker.options["save_to_file"]
    sink.write(RECORDS[0])
    sink.close()
    sink.close()
    assert tracker.calls == ["start", "stop"]
    assert measured(tmp_path) == {"kwh": 0.25, "grams": 100.0, "seconds": 9.0}
    assert measured(tmp_path / "none") == {}
    (tmp_path / "energy.json").write_text(json.dumps([1]), "utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        measured(tmp_path)
