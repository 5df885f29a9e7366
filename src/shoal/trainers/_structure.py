"""What a PyTorch module is made of, as far as it decides how its clients can be trained."""

import importlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from shoal.errors import ConfigError, nearest
from shoal.trainers import _dense
from shoal.trainers._replica import Replica, seeded

Loss = Callable[..., Tensor]
ACTIVATIONS = {nn.ReLU: _dense.RELU, nn.Tanh: _dense.TANH, nn.Sigmoid: _dense.SIGMOID}
# Means over examples, which say their parts with reduction="none".
LOSSES = {
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
    "soft_margin_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
}  # fmt: skip


def compiled_net(replica: Replica, loss: str, shape: tuple[int, ...]) -> _dense.Net | str:
    """The network for the compiled trainer on examples of this shape, or why it is none."""
    if _dense.MISSING:
        return _dense.MISSING
    if loss != "cross_entropy":
        return f"the loss is {loss}"
    if replica.device.type != "cpu" or replica.dtype != torch.float32 or replica.narrow[0]:
        return "it needs float32 on the CPU"
    layers = [layer for layer in _flattened(replica.module) if type(layer) is not nn.Identity]
    flat = next((i for i, layer in enumerate(layers) if _flattens(layer)), 0)
    convs = _convs(layers[:flat])
    dense = _dense_layers(layers[flat:])
    if isinstance(convs, str) or isinstance(dense, str):
        return convs if isinstance(convs, str) else str(dense)
    if len(kinds := convs[1] | dense[1]) > 1:
        return "it has several kinds of activations"
    linear = dense[0]
    widths = (linear[0].in_features, *(layer.out_features for layer in linear))
    biased = tuple(layer.bias is not None for layer in linear)
    net = _dense.Net(widths, biased, next(iter(kinds), _dense.RELU), convs[0])
    if convs[0]:
        if len(shape) != 3 or shape[0] != convs[0][0].channels:
            return f"examples have the shape {shape}"
        net = replace(net, shape=(shape[0], shape[1], shape[2]))
    if net.size != replica.layout.size or replica.buffer_names or _hooked(replica.module):
        return "it has hooks or shared parameters"
    return net if _dense.possible(net) else "its layers do not fit each other or are too large"


def _flattens(layer: nn.Module) -> bool:
    return type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)


def _dense_layers(layers: list[nn.Module]) -> tuple[list[nn.Linear], set[int]] | str:
    """Linear layers with activations between them, and the kinds of these."""
    linear: list[nn.Linear] = []
    kinds: set[int] = set()
    pending = True  # a linear layer may follow
    for layer in layers:
        if type(layer) is nn.Linear:
            if not pending:
                return "there is no activation between two layers"
            linear.append(layer)
            pending = False
        elif type(layer) in ACTIVATIONS and linear and not pending:
            kinds.add(ACTIVATIONS[type(layer)])
            pending = True
        elif linear or not _flattens(layer):
            return f"it holds {type(layer).__name__}, beside linear layers in a row"
    if not linear or pending:
        return "it is not linear layers with an activation between them"
    return linear, kinds


def _convs(layers: list[nn.Module]) -> tuple[tuple[_dense.Conv, ...], set[int]] | str:
    """Convolutions, each with an activation and perhaps a pooling, and the activations' kinds."""
    convs: list[_dense.Conv] = []
    kinds: set[int] = set()
    active = True  # another convolution may follow
    for layer in layers:
        if type(layer) is nn.Conv2d and active:
            if isinstance(conv := _conv(layer), str):
                return conv
            convs.append(conv)
            active = False
        elif type(layer) in ACTIVATIONS and convs and not active:
            kinds.add(ACTIVATIONS[type(layer)])
            active = True
        elif type(layer) is nn.MaxPool2d and convs and convs[-1].pool == 1:
            if isinstance(pool := _pool(layer), str):
                return pool
            convs[-1] = convs[-1]._replace(pool=pool)
        else:
            return f"it holds {type(layer).__name__} where compiled steps know none"
    return (tuple(convs), kinds) if active else "a convolution has no activation"


def _conv(layer: nn.Conv2d) -> _dense.Conv | str:
    kernel, other = layer.kernel_size
    border: tuple[int, ...] | str = layer.padding
    if border == "same":
        border = (kernel // 2,) if kernel % 2 else "uneven"
    border = (0,) if border == "valid" else border
    plain = layer.stride == layer.dilation == (1, 1) and layer.groups == 1 and kernel == other
    if (
        not plain
        or isinstance(border, str)
        or len(set(border)) > 1
        or layer.padding_mode != "zeros"
    ):
        return "a convolution has strides, groups, dilation or another border than zeros"
    biased = layer.bias is not None
    return _dense.Conv(layer.in_channels, layer.out_channels, kernel, border[0], biased=biased)


def _pool(layer: nn.MaxPool2d) -> int | str:
    size, stride = _pair(layer.kernel_size), _pair(layer.stride)
    rest = _pair(layer.padding) == (0, 0) and _pair(layer.dilation) == (1, 1)
    if size != stride or size[0] != size[1] or not rest or layer.ceil_mode or layer.return_indices:
        return "a pooling has windows that overlap or go beyond the border"
    return size[0]


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else value


def _flattened(module: nn.Module) -> list[nn.Module]:
    if type(module) is not nn.Sequential:
        return [module]
    return [layer for child in module for layer in _flattened(child)]


def _hooked(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(m, kind) for m in module.modules() for kind in kinds)


def obstacle(replica: Replica) -> str:
    """Why clients cannot be vectorized, as far as the module's parts say; "" if nothing does."""
    if replica.narrow[0]:
        return "it has parameters of several types"
    if replica.buffer_names:
        return "it has buffers that change in training"
    if any(isinstance(m, _NormBase) for m in replica.module.modules()):
        return "batch norm mixes the examples of a batch"
    return ""


def draws(replica: Replica, x: torch.Tensor) -> bool:
    """Whether the module draws from torch's generator while it trains (dropout)."""
    replica.module.train()
    with seeded(replica.device, 0), torch.no_grad():
        before = torch.default_generator.get_state()
        replica.module(x)
        return not torch.equal(before, torch.default_generator.get_state())


def loss_function(name: str) -> Loss:
    """The function of (outputs, targets) that a name stands for.

    Raises:
        ConfigError: if there is none.
    """
    module, _, function = name.rpartition(":")
    try:
        home = importlib.import_module(module or "torch.nn.functional")
    except ImportError as error:
        raise ConfigError("loss", f"{name!r}: {error}") from error
    found: Loss | None = getattr(home, function, None)
    if not callable(found):
        known = [n for n in vars(home) if "loss" in n or "entropy" in n]
        raise ConfigError(
            "loss", f"no function {function!r} in {home.__name__}; {nearest(function, known)}"
        )
    return found
