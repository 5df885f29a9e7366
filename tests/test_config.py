"""Experiments as TOML, settings, and what is said about mistakes in them."""

from dataclasses import replace

import pytest

import experiments
import shoal
from shoal import config, names
from shoal.errors import ConfigError
from shoal.experiment import Experiment, with_settings


def texts() -> list[Experiment]:
    one = experiments.softmax()
    trainer = one.algorithm.trainer
    chosen = [
        shoal.fedcompass(trainer=trainer),
        shoal.fedasync(trainer=trainer),
        shoal.fedadam(3, trainer=trainer),
        shoal.scaffold(4, population=20, trainer=trainer),
        shoal.fedfix(10.0, trainer=trainer),
        shoal.afa_cs(3, clients=20, trainer=trainer),
        shoal.fedprox(0.1, cohort=4, trainer=trainer),
    ]
    more = [replace(one, algorithm=algorithm) for algorithm in chosen]
    away = shoal.OnOff(shoal.Exponential(5.0), shoal.Constant(2.0), 0.8)
    devices = shoal.Devices(speeds={"c01": 2.0}, availability=away, up=shoal.Uniform(1e3, 1e4))
    return [*experiments.both(), experiments.tree(), replace(one, devices=devices), *more]


@pytest.mark.parametrize("experiment", texts(), ids=lambda e: e.algorithm.name)
def test_toml_is_the_exact_image(experiment: Experiment) -> None:
    text = shoal.to_toml(experiment)
    again = shoal.from_toml(text)
    assert again == experiment
    assert shoal.to_toml(again) == text


def test_a_factory_may_be_named_by_hand() -> None:
    text = """
        commits = 3
        data = { kind = "digits", clients = 10, partition = { kind = "iid" } }
        model = { none = true }
        [algorithm]
        kind = "fedavg"
        cohort = 4
        trainer = { kind = "softmax", lr = 0.1, features = 64, classes = 10 }
    """
    experiment = shoal.from_toml(text)
    assert experiment.algorithm == shoal.fedavg(
        4, trainer=shoal.numpy.Softmax(lr=0.1, features=64, classes=10)
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("commit=3", "commit: no such field; did you mean commits"),
        ("algorithm.coordinator.cohrt=3", "algorithm.coordinator.cohrt: no such field; did you"),
        ("algoritm.name=x", "algoritm: no such table; did you mean algorithm"),
        ("algorithm.coordinator.cohort=three", "algorithm.coordinator.cohort: expected int"),
        ("algorithm.coordinator.cohort=0", "cohort: "),
        ("data.partition.alpha=0", "data.partition: alpha: must be finite and above 0"),
        ("data.partition.alpha=-1", "alpha"),
        ("algorithm.kind=fedavgg", "algorithm.kind: unknown name 'fedavgg'; did you mean fedavg"),
        ("data.partition.kind=dirichle", "unknown name 'dirichle'; did you mean dirichlet"),
        ("algorithm.upload=3", "algorithm.upload: expected a table whose kind is one of Clip"),
        ("transport=carrier", "'carrier'"),
        ("evaluate_every=0", "evaluate_every"),
        ("seed", "path=value"),
        ("model=nowhere.py:f", "no file nowhere.py"),
        ("model=json:nothing", "json has no 'nothing'"),
        ("model=no_such_module_x:f", "cannot import 'no_such_module_x'"),
        ("commits={none=true}", "give commits, seconds or target"),
    ],
)
def test_mistakes_name_the_field_and_say_what_to_do(setting: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_settings(experiments.softmax(), [setting])
    assert words in str(caught.value)


def test_settings_reach_any_field() -> None:
    changed = with_settings(
        experiments.softmax(),
        ["seed=7", "algorithm.coordinator.cohort=3", "devices.speed.sigma=0.1", "name=other",
         "data.partition={kind='shards', per_client=3}"],
    )  # fmt: skip
    assert changed.seed == 7
    assert changed.algorithm.coordinator.cohort == 3  # type: ignore[attr-defined]
    assert changed.devices.speed == shoal.LogNormal(1.0, 0.1)
    assert changed.name == "other"
    assert changed.data.partition == shoal.data.shards(3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("commits = ", "not TOML"),
        ("colour = 1\ncommits = 1", "colour: unknown key"),
        ("commits = 1", "missing"),
        ("[data]\nkind = 'digits'\nclients = 'ten'\n", "data.clients: expected int, got str 'ten'"),
    ],
)
def test_bad_toml_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shoal.from_toml(text, "file.toml")
    assert words in str(caught.value)


def test_a_lambda_has_no_name() -> None:
    experiment = replace(experiments.softmax(), model=lambda: None)
    with pytest.raises(ConfigError, match="make it a function of its module"):
        shoal.to_toml(experiment)


def test_names_are_unique_in_each_scope_and_resolve() -> None:
    for hint, dictionary in names.SCOPES.items():
        for name in dictionary:
            if name not in ("torch", "sklearn"):
                value = names.resolve(name, hint=hint)
                assert callable(value)


def test_assign_reads_toml_values() -> None:
    table = {"a": {"b": 1}, "c": [1]}
    config.assign(table, "a.b=[1, 2]")
    config.assign(table, "c=text with = sign")
    assert table == {"a": {"b": [1, 2]}, "c": "text with = sign"}
