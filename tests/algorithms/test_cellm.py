"""CELLM: sparse messages, dense adapters; nothing but adapters travels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import shoal
from shoal.algorithms.cellm import cellm
from shoal.algorithms.fedopt import fedadam
from shoal.core import Context
from shoal.encoded import Sparse
from shoal.errors import ConfigError
from shoal.messages import TaskRecord
from shoal.runner import simulate
from shoal.tensors import Tensors, equal
from shoal.trainers.lora import lora
from shoal.transforms import Quantize, TopK


def base() -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    for parameter in module.parameters():
        parameter.data.uniform_(-0.2, 0.2, generator=generator)
    return module


def adapted() -> nn.Module:
    return lora(base(), rank=4)


def frozen() -> nn.Module:
    torch.manual_seed(1)
    return lora(base(), rank=4, freeze_a=True)


def experiment(algorithm: shoal.Algorithm, commits: int = 3, **more: object) -> shoal.Experiment:
    made = shoal.Experiment(
        model=adapted, data=shoal.data.digits(clients=4), algorithm=algorithm, commits=commits,
        evaluate_every=commits,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


TRAINER = shoal.torch.SGD(lr=0.1, local_steps=4, batch=64, backend="sequential")


def test_adapters_start_at_nothing_and_are_all_that_is_trained() -> None:
    x = torch.linspace(-1, 1, 128).reshape(2, 64)
    assert torch.equal(base()(x), adapted()(x))
    model = TRAINER.bind(adapted).initial(0)
    names = {name.rsplit(".", 1)[1] for name in model}
    assert names == {"lora_A", "lora_B"}
    assert model.layout.size == 4 * (64 + 32) + 4 * (32 + 10)
    assert {n.rsplit(".", 1)[1] for n in TRAINER.bind(frozen).initial(0)} == {"lora_B"}
    one = lora(base(), rank=2, layers=("3",))
    assert sum(p.requires_grad for p in one.parameters()) == 2
    with pytest.raises(ConfigError, match="layers"):
        lora(base(), layers=("attention",))
    with pytest.raises(ConfigError, match="rank"):
        lora(base(), rank=0)


def test_with_full_density_it_is_fedadam_on_adapters() -> None:
    dense = list(simulate(experiment(cellm(trainer=TRAINER, density=1.0))))
    plain = list(simulate(experiment(fedadam(trainer=TRAINER, lr=0.01))))
    assert [r.metrics for r in dense] == [r.metrics for r in plain]


def test_messages_are_sparse_both_ways_and_it_learns() -> None:
    from shoal.experiment import build
    from shoal.transports import steps

    given = experiment(
        cellm(trainer=TRAINER, density=0.25, feedback=True, codec=Quantize(8)), 12,
        downlink=TopK(0.25),
    )  # fmt: skip
    built = build(given)
    whole = built.node.model
    records = [e for es in steps(built.node, built.transport) for e in es]
    tasks = [e for e in records if isinstance(e, TaskRecord)]
    assert max(t.bytes_up for t in tasks) < 0.45 * tasks[0].bytes_down
    assert max(t.bytes_down for t in tasks[4:]) < 0.75 * tasks[0].bytes_down
    before, after = (built.algorithm.trainer.evaluate(m, built.federation.test)
                     for m in (whole, built.node.model))  # fmt: skip
    assert after["accuracy"] > before["accuracy"] + 0.2
    built.close()


def test_an_upload_keeps_the_largest_changes() -> None:
    made = cellm(trainer=TRAINER, density=0.25)
    value = Tensors.of({"w": np.random.default_rng(0).standard_normal(400).astype(np.float32)})
    sent, _ = made.upload.apply(value, made.upload.init(value), Context())
    assert isinstance(sent.flat, Sparse) and np.count_nonzero(sent.dense) == 100
    expected, _ = TopK(0.25).apply(value, None, Context())
    assert equal(sent.with_flat(sent.dense), expected.with_flat(expected.dense))


def test_only_with_a_frozen_a_the_mean_of_adapters_is_the_adapter_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 4, 64)), rng.standard_normal((2, 3, 32, 4))
    a, b = a[0], b[0]
    exact = np.mean([y @ x for x, y in zip(a, b, strict=True)], axis=0)
    assert np.abs(b.mean(0) @ a.mean(0) - exact).max() > 0.5
    same = np.mean([y @ a[0] for y in b], axis=0)
    np.testing.assert_allclose(b.mean(0) @ a[0], same, atol=1e-12)
