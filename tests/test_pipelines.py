"""Pipelines picked for a target keep it; what cannot work together is refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import wire
from shoal.aggregators import Mean, Median, Routed, TrimmedMean
from shoal.core import Context, Transform, chain
from shoal.errors import ConfigError
from shoal.experiment import build, from_toml, to_toml, with_settings
from shoal.pipelines import Auto, check, check_masked, pipeline, resolved
from shoal.runner import execute
from shoal.simulation import Constant, Devices
from shoal.tensors import Tensors
from shoal.tracking import read
from shoal.transforms import (
    CountSketch,
    Entropy,
    ErrorFeedback,
    FixedPoint,
    Half,
    Homomorphic,
    KMeansCodebook,
    PerTensor,
    PowerSGD,
    Quantize,
    RandK,
    Sign,
    TopK,
)  # fmt: skip

RNG = np.random.default_rng(1)
MODEL = Tensors.of(
    {
        "a": RNG.standard_normal((200, 300)), "b": RNG.standard_cauchy(300),
        "buffer/n": np.ones(10, np.float32),
    },
    np.float32,
)  # fmt: skip
WHOLE = wire.size(MODEL)


@pytest.mark.parametrize("share", [2, 0.99, 0.6, 0.3, 0.15, 0.05, 0.01])
@pytest.mark.parametrize("clustered", [False, True])
def test_the_target_is_kept(share: float, clustered: bool) -> None:
    nbytes = int(WHOLE * share) + (1500 if share < 0.05 else 0)
    auto = Auto(nbytes=nbytes)
    value = MODEL
    if clustered:
        flat = np.zeros(MODEL.layout.size, np.float32)
        flat[-5000:] = RNG.standard_normal(5000)
        flat[:10] = 1
        value = MODEL.with_flat(flat)
    state = auto.init(MODEL)
    for number in range(3):
        sent, state = auto.apply(value, state, Context(number=number))
        assert wire.size(sent) <= nbytes
        if share == 2:
            assert np.array_equal(sent.dense, value.dense)


def test_the_least_lossy_one_is_picked() -> None:
    size = 4 * MODEL.layout.size
    picked = [pipeline(MODEL, int(size * s) + 3000) for s in (1.1, 0.6, 0.3, 0.2, 0.05)]
    assert picked[0] == chain() and picked[1] == Half() and picked[2] == Quantize(8)
    assert picked[3] == ErrorFeedback(Quantize(4))
    assert "TopK(" in repr(picked[4])


def test_what_fits_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"upload.nbytes.*the least is \d+"):
        Auto(nbytes=100).init(MODEL)
    for bad in ({"nbytes": 1, "seconds": 1.0}, {"nbytes": 0}, {"seconds": -1.0}):
        with pytest.raises(ConfigError):
            Auto(**bad)
    for unknown in (Auto(seconds=1.0), Auto()):
        with pytest.raises(ConfigError, match="links"):
            unknown.init(MODEL)


def test_seconds_become_bytes_by_the_links() -> None:
    algorithm = shoal.fedavg(
        2, trainer=shoal.numpy.Softmax(lr=0.1, features=64, classes=10), upload=Auto(seconds=2.0)
    )
    data = {f"c{i}": range(1 + i) for i in range(20)}
    model = algorithm.trainer.initial(0)

    def chosen(links: Devices, upload: Transform[Any]) -> tuple[Any, str]:
        own = replace(algorithm, upload=upload)
        found, why = resolved(own, model, links, list(data), data, 0)
        return found.upload, why

    found, why = chosen(Devices(up=Constant(500.0)), Auto(seconds=4.0))
    assert found == Auto(nbytes=2000) and "2,000: 4 s on the links of three of four" in why
    with pytest.raises(ConfigError, match=r"upload.seconds.*no limit"):
        chosen(Devices(), Auto(seconds=1.0))
    assert chosen(Devices(), TopK(0.1)) == (TopK(0.1), "")
    # Without a target: as long as the median client computes (10 steps of a second), or 8 bits.
    found, why = chosen(Devices(up=Constant(2000.0)), Auto())
    steps = algorithm.trainer.steps(10, {})
    assert found == Auto(nbytes=2000 * steps) and "the median client computes so" in why
    found, why = chosen(Devices(up=Constant(1.0)), Auto())
    assert "TopK(" in why  # however slow they are, a hundredth of the values gets through
    found, why = chosen(Devices(), Auto())
    assert "Quantize(bits=8" in why and "no limit" in why
    assert pipeline(model, found.nbytes) == Quantize(8)


def experiment(upload: object) -> shoal.Experiment:
    return shoal.Experiment(
        model=None,
        data=shoal.data.digits(clients=4),
        algorithm=shoal.fedavg(
            2, trainer=shoal.numpy.Softmax(lr=0.1, features=64, classes=10), upload=upload
        ),
        devices=Devices(up=Constant(1000.0)),
        commits=2,
    )


def test_auto_is_a_word_in_experiments_toml_and_settings(tmp_path: Path) -> None:
    plain = replace(experiment(chain()), devices=Devices())
    given = replace(plain, upload="auto")
    assert 'upload = "auto"' in to_toml(given)
    assert from_toml(to_toml(given)) == given == with_settings(plain, ["upload=auto"])
    execute(given, tmp_path / "run")
    run = read(tmp_path / "run")
    assert "Quantize(bits=8" in run.meta.upload  # the reason is recorded
    whole = wire.size(plain.algorithm.trainer.initial(0))
    for task in run.tasks:
        assert 0 < task.bytes_up < whole / 1.5
    with pytest.raises(ConfigError, match="upload"):
        from_toml(to_toml(given).replace('"auto"', '"best"'))
    with pytest.raises(ConfigError, match=r"upload.*its own, TopK"):
        replace(experiment(TopK(0.1)), upload="auto")


def test_a_run_keeps_its_target_on_the_wire() -> None:
    given = experiment(Auto(seconds=2.2))
    assert from_toml(to_toml(given)) == given
    built = build(given)
    try:
        assert built.algorithm.upload == Auto(nbytes=2200)
    finally:
        built.close()
    assert [r.version for r in shoal.simulate(given)][-1] == 2


@pytest.mark.parametrize(
    ("upload", "rule", "names"),
    [
        (TopK(0.1), Median(), "upload"),
        (chain(ErrorFeedback(chain(TopK(0.1), Quantize())), Entropy()), TrimmedMean(f=1),
         "upload[0].codec[0]"),
        (RandK(0.1), Routed(Median()), "upload"),
        (chain(Quantize(), TopK(0.1)), Mean(), "upload[1]"),
        (chain(TopK(0.1), Entropy(), Quantize()), Mean(), "upload[2]"),
        (PerTensor(chain(Half(), RandK(0.5))), Mean(), "upload.codec[1]"),
    ],
)  # fmt: skip
def test_what_cannot_work_together_is_refused(upload, rule, names):
    with pytest.raises(ConfigError) as caught:
        check(upload, rule)
    assert caught.value.field == names
    if names == "upload":
        with pytest.raises(ConfigError):
            build(replace(experiment(upload), algorithm=replace(
                experiment(upload).algorithm, aggregator=rule)))  # fmt: skip


def test_what_works_together_passes() -> None:
    for upload in (chain(TopK(0.1), Quantize(), Entropy()), ErrorFeedback(Sign("mean")), chain()):
        check(upload, Mean())
    check(RandK(0.1, shared=True), Median())
    check(Sign(), shoal.MajorityVote())


def test_show_codecs_measures_an_update_of_an_experiment(capsys, tmp_path, monkeypatch):
    from shoal.cli import main

    (tmp_path / "mine.py").write_text(
        "import shoal\n\n"
        "def small():\n"
        "    return shoal.Experiment(model=None, data=shoal.data.digits(clients=4), commits=1,\n"
        "        algorithm=shoal.fedavg(\n"
        "            2, trainer=shoal.numpy.Softmax(lr=0.1, features=64, classes=10)))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["show", "codecs", "mine.py:small"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("an update of 650 values in 2 tensors")
    rows = {line[:44].strip(): line[44:].split() for line in lines[2:-1]}
    assert float(rows["Half()"][1]) > 1 and float(rows["TopK(0.1)"][2]) < 1
    assert main(["show", "codecs", "a", "b"]) != 0


@pytest.mark.parametrize(
    ("upload", "names"),
    [
        (chain(), r"upload: ends with floats"),
        (chain(TopK(0.1), FixedPoint(1.0)), r"upload\[0\]: TopK.*masks do not meet"),
        (chain(RandK(0.1), FixedPoint(1.0)), r"upload\[0\]: RandK.*shared=True"),
        (chain(FixedPoint(1.0), Entropy()), r"upload\[1\]: Entropy"),
        (ErrorFeedback(Quantize(8)), r"upload\.codec: Quantize"),
        (chain(TopK(0.1), KMeansCodebook(4), Homomorphic(9)), r"upload\[1\]: KMeansCodebook"),
        (PowerSGD(2), "PowerSGD"),
        (RandK(0.1, shared=True), "ends with floats"),
    ],
)
def test_what_masks_cannot_hide_is_refused_by_name(upload: Transform[Any], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        check_masked(upload)


@pytest.mark.parametrize(
    "upload",
    [
        FixedPoint(1.0),
        ErrorFeedback(chain(RandK(0.1, shared=True), FixedPoint(1.0))),
        ErrorFeedback(chain(TopK(0.1), Homomorphic(90))),
        CountSketch(9),
    ],
    ids=repr,
)
def test_sums_of_codes_that_masks_may_hide_are_codes_of_the_sum(upload: Transform[Any]) -> None:
    check_masked(upload)
