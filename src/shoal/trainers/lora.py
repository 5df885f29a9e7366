"""Low-rank adapters on the linear layers of a PyTorch module; nothing else is trained or sent.

Hu et al., LoRA: Low-rank adaptation of large language models, 2021, arXiv 2106.09685.
    y = W x + (alpha / r) B A x,   W frozen, B = 0 at first
"""

from math import sqrt

from shoal.errors import ConfigError, MissingExtra, positive

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtra("torch", "torch") from error


class Adapted(nn.Module):
    """A linear layer with an adapter of low rank beside it."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, freeze_a: bool) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        kind, device = base.weight.dtype, base.weight.device
        first = torch.empty(rank, base.in_features, dtype=kind, device=device)
        nn.init.uniform_(first, -1 / sqrt(base.in_features), 1 / sqrt(base.in_features))
        self.lora_A = nn.Parameter(first, requires_grad=not freeze_a)
        last = torch.zeros(base.out_features, rank, dtype=kind, device=device)
        self.lora_B = nn.Parameter(last)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output and the adapter's."""
        y: Tensor = self.base(x)
        return y + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


def lora(
    module: nn.Module, rank: int = 16, *, alpha: float = 16.0, layers: tuple[str, ...] = (),
    freeze_a: bool = False,
) -> nn.Module:  # fmt: skip
    """The module with adapters on its linear layers, everything else frozen; changed in place.

    What is frozen never travels: the function that makes the module must give it the same values on
    every machine, from a file or under a seed of its own.

    Args:
        rank: of the adapters.
        alpha: their output counts alpha / rank.
        layers: parts of the names of the layers that get one, e.g. ("attention",); () for all.
        freeze_a: keep A as it is at first (it must then be the same everywhere, too). The mean of
            adapters is then the adapter of the mean, as B A is linear in B alone.

    Raises:
        ConfigError: if no layer fits.
    """
    positive("rank", rank)
    positive("alpha", alpha)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    found = [
        (name, layer)
        for name, layer in module.named_modules()
        if name and isinstance(layer, nn.Linear) and (not layers or any(p in name for p in layers))
    ]
    if not found:
        raise ConfigError("layers", f"no linear layer within the module is named like {layers}")
    for name, layer in found:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, Adapted(layer, rank, alpha, freeze_a))
    return module
