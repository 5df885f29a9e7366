"""What cannot work together is refused before a run, with what does; what works is let through."""

from dataclasses import replace

import numpy as np
import pytest

import shoal
from laws.examples import ALGORITHM_EXAMPLES
from shoal import fitting
from shoal.algorithms import ALGORITHMS
from shoal.core import Algorithm
from shoal.errors import ConfigError
from shoal.experiment import build
from shoal.rules import Blended, ControlVariate
from shoal.tensors import Tensors
from shoal.trainers.quadratic import Quadratic

TRAINER = Quadratic(lr=0.1, local_steps=2, start=(0.0, 0.0))
EXACT = shoal.Mean(exact=True)


def checked(algorithm: Algorithm, updates: int = 6) -> None:
    fitting.check(algorithm, algorithm.trainer.initial(0), updates)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_methods_of_the_library_are_let_through(name: str) -> None:
    checked(ALGORITHM_EXAMPLES[name]())


def test_changes_of_an_estimate_need_a_server_that_adds_them_up() -> None:
    ef21 = shoal.EF21(shoal.TopK(0.5))
    with pytest.raises(ConfigError, match=r"algorithm.upload: EF21 .*use shoal.ef21\(...\)"):
        checked(shoal.fedavg(trainer=TRAINER, upload=ef21))
    with pytest.raises(ConfigError, match="EControl"):
        checked(shoal.fedavg(trainer=TRAINER, upload=shoal.EControl(shoal.TopK(0.5), 0.1)))
    median = shoal.fedavg(
        trainer=TRAINER,
        upload=shoal.EF21(shoal.Quantize(8)),
        aggregator=shoal.Median(),
        optimizer=shoal.Accumulate(),
    )
    with pytest.raises(ConfigError, match="does not add up"):
        checked(median)
    checked(replace(median, aggregator=EXACT))


def test_noise_within_error_feedback_is_refused_and_in_front_is_not() -> None:
    clip, noise, feedback = shoal.Clip(1.0), shoal.Noise(1.0), shoal.ErrorFeedback
    inside = feedback(shoal.chain(clip, noise, shoal.Quantize(8)))
    with pytest.raises(ConfigError, match=r"takes Noise back .* put Clip and Noise in front"):
        checked(shoal.fedavg(trainer=TRAINER, upload=inside))
    before = shoal.chain(clip, noise, feedback(shoal.Quantize(8)))
    checked(shoal.fedavg(trainer=TRAINER, upload=before))


def test_robust_rules_need_enough_updates() -> None:
    krum = shoal.fedavg(5, trainer=TRAINER, aggregator=shoal.Krum(f=2))
    with pytest.raises(ConfigError, match=r"aggregator.f: Krum: .*need 7 updates.*at most 5"):
        checked(krum, 5)
    checked(krum, 7)
    trimmed = shoal.fedavg(4, trainer=TRAINER, aggregator=shoal.TrimmedMean(f=2))
    with pytest.raises(ConfigError, match=r"TrimmedMean: 2 needs more than 4"):
        checked(trimmed, 4)
    checked(replace(trimmed, aggregator=shoal.TrimmedMean(fraction=0.3)), 4)


def test_such_a_rule_is_refused_when_an_experiment_is_built() -> None:
    trainer = shoal.numpy.Softmax(lr=0.1, features=64, classes=10)
    experiment = shoal.Experiment(
        model=None, data=shoal.data.digits(clients=9),
        algorithm=shoal.fedavg(5, trainer=trainer, aggregator=shoal.Krum(f=2)), commits=2,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="need 7 updates"):
        build(experiment)


def test_a_rule_whose_values_nobody_moves_is_refused() -> None:
    blended = replace(TRAINER, rule=Blended(0.5))
    with pytest.raises(ConfigError, match="Mean never moves the 'momentum/' values that Blended"):
        checked(shoal.fedavg(trainer=blended))
    with pytest.raises(ConfigError, match="Sum never moves"):
        checked(shoal.fedasync(trainer=replace(TRAINER, rule=ControlVariate(sends=False))))
    checked(shoal.fedavg_m(beta=0.5, trainer=TRAINER))


def test_codecs_are_refused_where_control_variates_are_read_off_deltas() -> None:
    scaffold = shoal.scaffold(3, population=6, trainer=TRAINER)
    with pytest.raises(ConfigError, match=r"Slopes reads more .*TopK changes it"):
        checked(replace(scaffold, upload=shoal.ErrorFeedback(shoal.TopK(0.5))))
    checked(replace(scaffold, upload=shoal.Entropy()))  # lossless
    two = shoal.scaffold(3, population=6, trainer=TRAINER, wire="two", upload=shoal.TopK(0.5))
    checked(two)


def test_relays_are_refused_there_too() -> None:
    scaffold = shoal.scaffold(3, population=6, trainer=TRAINER)
    model = scaffold.trainer.initial(0)
    with pytest.raises(ConfigError, match=r'relays: Slopes .*wire="two"'):
        fitting.check_relays(scaffold, model)
    two = shoal.scaffold(3, population=6, trainer=TRAINER, wire="two")
    fitting.check_relays(two, two.trainer.initial(0))


def test_whether_only_sums_matter_is_tried_out() -> None:
    model = Tensors.of({"x": np.zeros(5)})
    for rule in (shoal.Mean(), shoal.Sum(), EXACT):
        assert fitting.additive(rule) and fitting.only_sums(rule, model)
    for rule in (shoal.Median(), shoal.GeometricMedian(), shoal.Krum(f=0), shoal.MajorityVote()):
        assert not fitting.only_sums(rule, model)
    scaffold = shoal.scaffold(3, population=6, trainer=TRAINER)
    assert not fitting.additive(scaffold.aggregator)
    assert fitting.only_sums(scaffold.aggregator, scaffold.trainer.initial(0))
    latest = shoal.afa_cs(3, clients=6, trainer=TRAINER).aggregator
    assert not fitting.only_sums(latest, model)  # only the second commit tells
