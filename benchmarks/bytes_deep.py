"""How small FedZip and L-GreCo make the update of a deep network.

The paper names ratios of up to 1085 for three clusters and layers by themselves, on networks as
VGG-16; its update after one step on images of the CIFAR-10 subset is taken here.
"""

import numpy as np
from torch import nn

import shoal
from bytes_tasks import Size, cifar, mnist_model
from harness import Figure, at_least, quick
from shoal import wire
from shoal.core import Context, Examples
from shoal.messages import Task
from shoal.seeds import rng
from shoal.tensors import Tensors
from shoal.transforms import FedZip, LGreCo, PerTensor, TopK

SHARES = (0.1, 0.05, 0.01, 0.001)
ENCODINGS = ("huffman", "positions", "gaps", "smallest")


def vgg16() -> nn.Module:
    """Thirteen convolutions and a linear layer: 14,719,818 parameters."""
    layers, channels = list[nn.Module](), 3
    for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def update() -> Tensors:
    """A client's delta after one step; of a small network in a quick run."""
    trainer = shoal.torch.SGD(lr=0.05, local_steps=1, batch=20, device="cpu")
    if quick():
        data = Examples(np.ones((20, 1, 28, 28), np.float32), np.arange(20) % 10)
        bound = trainer.bind(mnist_model)
    else:
        data = next(iter(cifar(Size(10, 10, 1, 1, 20, 20, 1, 20))[0].values()))
        bound = trainer.bind(vgg16)
    model, task = bound.initial(0), Task(0, "c00", 0)
    return bound.train(model, data, bound.init(model), task, rng(0, "update"))[0].tensors


def ratios() -> tuple[str, list[Figure]]:
    """The part of the page, and the figure."""
    value = update()
    whole = wire.size(value)
    found = {
        (share, name): whole / wire.size(_zipped(value, share, name))
        for share in SHARES
        for name in ENCODINGS
    }
    rows = [f"| kept | {' | '.join(ENCODINGS)} |", "|---|---|---|---|---|"]
    for share in SHARES:
        cells = " | ".join(f"{found[share, name]:,.1f}" for name in ENCODINGS)
        rows.append(f"| {share:.1%} | {cells} |")
    best, smaller = max(found.values()), _planned(value)
    text = (
        "## The update of a deep network\n\nFedZip: times fewer bytes on the wire for the update "
        f"of VGG-16 ({whole / 1e6:.1f} MB) after one step, three clusters, each tensor by itself. "
        f"L-GreCo's choice of top-k rates for it is {smaller:.1f} times smaller than 1 % of every "
        "tensor at no more error: its thirteen convolutions differ far more than the two of the "
        "networks above, of whose values nearly all belong to one dense layer.\n\n"
    )
    figures = [
        at_least("FedZip: largest ratio", best, "x", 1 if quick() else 1085),
        at_least("VGG-16: L-GreCo, times smaller than uniform rates", smaller, "x",
                 1 if quick() else 1.5),
    ]  # fmt: skip
    return text + "\n".join(rows), figures


def _planned(value: Tensors) -> float:
    """Bytes at one rate over those of rates that L-GreCo chose, which must not lose more."""
    one = PerTensor(TopK(0.01))
    many = LGreCo(tuple(TopK(0.01 * 2.0**i) for i in range(-4, 5)), default=4)
    uniform = one.apply(value, one.init(value), Context())[0]
    planned = many.apply(value, many.init(value), Context())[0]
    if _lost(value, planned) > _lost(value, uniform):
        raise SystemExit("L-GreCo lost more than its default")
    return wire.size(uniform) / wire.size(planned)


def _lost(value: Tensors, sent: Tensors) -> float:
    rest = value.dense.astype(np.float64) - sent.dense
    return float(rest @ rest)


def _zipped(value: Tensors, share: float, encoding: str) -> Tensors:
    codec = PerTensor(FedZip(share, encoding=encoding))
    return codec.apply(value, codec.init(value), Context())[0]
