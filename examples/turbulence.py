"""Aircraft learn to foresee turbulence: a Fourier neural operator over unreliable radio links.

Each aircraft has seen the air of one region, of its own viscosity: decaying turbulence in two
dimensions, solved here by Fourier modes. It predicts the vorticity a moment later. Uploads get
through by the signal-to-interference ratio of the aircraft's link, and are sent again until they
do. Compared after the same virtual time: weights by age (`shoal.wireless_afl`), the same weight for
all, and rounds that wait for everyone. As in Zeng et al. 2022, arXiv 2201.00626. Here mixing on
every arrival is far ahead of rounds; by age or not makes little difference on these links.

    python examples/turbulence.py
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import shoal
from shoal.core import Examples
from shoal.data import Federation
from shoal.seeds import rng
from shoal.staleness import Constant

GRID, MODES, WIDTH = 32, 6, 10
AIRCRAFT, FIELDS, LATER = 8, 24, 0.5
STEP = 0.02  # seconds of flow per step of the solver
Field = NDArray[np.float64]  # shape (n, GRID, GRID)


def flow(start: Field, viscosity: float, seconds: float) -> Field:
    """Vorticity after some time: dw/dt = -u . grad w + viscosity lap w, by Fourier modes."""
    k = np.fft.fftfreq(GRID, 1 / GRID)
    kx, ky = k[:, None], k[None, : GRID // 2 + 1].copy()
    ky[0, -1] = GRID / 2
    square = kx**2 + ky**2
    inverse = np.where(square > 0, 1 / np.where(square > 0, square, 1), 0)
    kept = (np.abs(kx) < GRID / 3) & (np.abs(ky) < GRID / 3)  # so that products do not alias

    def real(w: NDArray[np.complex128]) -> Field:
        return np.fft.irfft2(w, s=(GRID, GRID))

    def change(w: NDArray[np.complex128]) -> NDArray[np.complex128]:
        stream = w * inverse
        u, v = real(1j * ky * stream), real(-1j * kx * stream)
        carried = u * real(1j * kx * w) + v * real(1j * ky * w)
        return np.asarray(-np.fft.rfft2(carried) * kept)

    w = np.fft.rfft2(start)
    decay = np.exp(-viscosity * square * STEP)
    for _ in range(round(seconds / STEP)):
        half = w + STEP / 2 * change(w)
        w = decay * (w + STEP * change(half))
    return real(w)


def fields(count: int, viscosity: float, seed: int) -> Examples:
    """Turbulent fields of unit strength, and what they become."""
    k = np.fft.fftfreq(GRID, 1 / GRID)
    strength = np.hypot(k[:, None], k[None, :])
    spectrum = np.where(strength > 0, strength / (1 + (strength / 4) ** 4), 0)
    noise = rng(seed, "turbulence", str(viscosity)).standard_normal((count, GRID, GRID))
    start = np.fft.ifft2(np.fft.fft2(noise) * spectrum).real
    before = flow(4 * start / start.std(), viscosity, 0.2)  # until it looks like a flow
    after, size = flow(before, viscosity, LATER), before.std()
    x, y = (values[:, None].astype(np.float32) / size for values in (before, after))
    return Examples(x, y)


@dataclass(frozen=True)
class Turbulence:
    """A region of its own for each aircraft; the test set is of all regions.

    Attributes:
        aircraft: clients.
        count: fields of each.
    """

    aircraft: int = AIRCRAFT
    count: int = FIELDS

    def load(self, seed: int) -> Federation:
        """Solve the flows."""
        regions = np.geomspace(0.002, 0.05, self.aircraft).tolist()
        seen = [fields(self.count, region, seed) for region in regions]
        tests = [fields(4, region, seed + 1000) for region in regions]
        parts = {
            f"aircraft{i}": np.arange(i * self.count, (i + 1) * self.count)
            for i in range(self.aircraft)
        }
        return Federation(joined(seen), parts, joined(tests))


def joined(parts: list[Examples]) -> Examples:
    """Examples one after the other."""
    return Examples(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))


class Spectral(nn.Module):
    """A linear map of the lowest Fourier modes; weights are real and imaginary parts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, WIDTH, WIDTH, MODES, MODES, 2) / WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Values of shape (n, WIDTH, GRID, GRID)."""
        modes, weight = torch.fft.rfft2(x), torch.complex(self.weight[..., 0], self.weight[..., 1])
        out = torch.zeros_like(modes)
        for part, rows in enumerate((slice(0, MODES), slice(-MODES, None))):
            low = modes[:, :, rows, :MODES]
            out[:, :, rows, :MODES] = torch.einsum("nixy,ioxy->noxy", low, weight[part])
        back: Tensor = torch.fft.irfft2(out, s=x.shape[-2:])
        return back


class Operator(nn.Module):
    """A Fourier neural operator that adds what changes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.lower = nn.Conv2d(1, WIDTH, 1), nn.Conv2d(WIDTH, 1, 1)
        self.spectral = nn.ModuleList(Spectral() for _ in range(2))
        self.local = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Vorticity of shape (n, 1, GRID, GRID), now and a moment later."""
        h = self.lift(x)
        for spectral, local in zip(self.spectral, self.local, strict=True):
            h = nn.functional.gelu(spectral(h) + local(h))
        change: Tensor = self.lower(h)
        return x + change


def turbulence() -> list[shoal.Experiment]:
    """Weights by age, constant weights, and rounds, for the same virtual time."""
    trainer = shoal.torch.SGD(
        lr=2e-3, local_steps=4, batch=8, loss="mse_loss", optimizer="Adam", backend="sequential"
    )
    links = shoal.Retries(shoal.Connectivity(interferers=3, threshold=-3.0), every=4.0)
    by_age = shoal.Experiment(
        model=Operator, data=Turbulence(),
        algorithm=shoal.wireless_afl(8.0, trainer=trainer), seconds=200.0, evaluate_every=60,
        metric="loss", devices=shoal.Devices(speed=shoal.Uniform(0.5, 1.5), retries=links),
        name="weights by age",
    )  # fmt: skip
    same = shoal.fedasync(1.5 / AIRCRAFT, staleness=Constant(), trainer=trainer)
    rounds = shoal.fedavg(trainer=trainer)
    return [
        by_age,
        replace(by_age, algorithm=same, name="same weight for all"),
        replace(by_age, algorithm=rounds, evaluate_every=2, name="rounds of everyone"),
    ]


def main() -> None:
    """Run all three and print the error by virtual time."""
    print(f"{'seconds':>8} {'commits':>8} {'error':>7}   share of the field's variance")
    for experiment in turbulence():
        print(experiment.title)
        records = list(shoal.simulate(experiment))
        for record in records[:: max(1, len(records) // 6)]:
            print(f"{record.time:8.0f} {record.version:8d} {record.metrics['loss']:7.3f}")


if __name__ == "__main__":
    main()
