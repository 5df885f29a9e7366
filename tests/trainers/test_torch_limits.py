"""The PyTorch trainer in threads, and what it says about what does not fit."""

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch_modules import data, dropped, network, normed, train

from shoal.core import Examples
from shoal.errors import ConfigError, DataError, ModelError
from shoal.messages import Task
from shoal.rules import ControlVariate
from shoal.tensors import equal
from shoal.trainers.torch import SGD

TASK = Task(0, "c", 0)


def test_threads_have_modules_of_their_own():
    trainer = SGD(lr=0.1, epochs=5).bind(network)
    model = trainer.initial(0)
    want = [train(trainer, model, seed=s)[0].tensors for s in range(8)]
    got = [None] * 8

    def work(s):
        got[s] = train(trainer, model, seed=s)[0].tensors

    before = torch.get_rng_state()
    threads = [threading.Thread(target=work, args=(s,)) for s in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(equal(a, b) for a, b in zip(want, got, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_read_only_data_is_used_without_warning(recwarn):
    examples = data()
    examples.x.flags.writeable = examples.y.flags.writeable = False
    trainer = SGD(lr=0.1).bind(network)
    got, _ = train(trainer, trainer.initial(0), examples)
    assert equal(got.tensors, train(trainer, trainer.initial(0))[0].tensors)
    assert not recwarn.list


def test_a_bad_model_is_named():
    def broken():
        module = network()
        nn.init.constant_(module[2].weight, float("nan"))
        return module

    with pytest.raises(ModelError, match=r"2\.weight"):
        SGD(lr=0.1).bind(broken).initial(0)
    with pytest.raises(ModelError, match="no parameters"):
        SGD(lr=0.1).bind(nn.ReLU).initial(0)
    with pytest.raises(ModelError, match=r"0\.weight"):
        train(SGD(lr=0.1).bind(network), SGD(lr=0.1).bind(dropped).initial(0))
    with pytest.raises(ModelError, match="weight"):
        SGD(lr=0.1).bind(lambda: nn.LazyLinear(3)).initial(0)


def test_a_batch_that_the_module_refuses_names_the_client():
    trainer = SGD(lr=0.1, batch=21).bind(normed)  # 43 examples: the last batch has one
    with pytest.raises(DataError, match=r"client 'c'.*more than 1 value"):
        train(trainer, trainer.initial(0))


def test_a_target_out_of_range_names_the_client():
    examples = Examples(data().x, np.full(43, 3))
    trainer = SGD(lr=0.1).bind(network)
    with pytest.raises(DataError, match=r"client 'c'.*out of bounds"):
        train(trainer, trainer.initial(0), examples)


def test_a_diverging_run_sends_what_it_has():
    trainer = SGD(lr=1e30, epochs=3).bind(network)
    payload, _ = train(trainer, trainer.initial(0))
    assert not payload.tensors.finite()


def test_bad_hyperparameters_are_named():
    for name, value in (
        ("momentum", 1.0), ("weight_decay", -1.0), ("clip", 0.0), ("loss", "cross_entropi"),
        ("device", "toaster"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            SGD(lr=0.1, **{name: value})
    with pytest.raises(ConfigError, match="cross_entropy"):
        SGD(lr=0.1, loss="cross_entropi")
    with pytest.raises(ConfigError, match="momentum"):
        SGD(lr=0.1, momentum=0.9, rule=ControlVariate())
    with pytest.raises(ConfigError, match="bind"):
        SGD(lr=0.1).initial(0)
    trainer = SGD(lr=0.1).bind(network)
    with pytest.raises(DataError, match="no examples"):
        trainer.evaluate(trainer.initial(0), data(0))


def test_threads_are_put_back_and_do_not_change_the_default_bits():
    torch.set_num_threads(2)
    trainer = SGD(lr=0.1, batch=16).bind(network)
    model = trainer.initial(0)
    first, _ = train(trainer, model)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    second, _ = train(trainer, model)
    assert equal(first.tensors, second.tensors)
