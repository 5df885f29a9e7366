"""CIFAR-10 by fixed features: what lets methods of many steps be compared on a small machine.

Coates, Lee and Ng, An analysis of single-layer networks in unsupervised feature learning, 2011:
    f_k = max(0, d_k . whitened patch - 0.25), and of -d_k; summed over the quadrants of the image
The d_k are random patches of training images. Nothing is learned from labels.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
PATCH, STRIDE, FILTERS, NOISE, RIDGE, LEVEL = 6, 2, 32, 0.01, 0.1, 0.25
WIDTH = 8 * FILTERS  # two signs, four quadrants


def features(source: Path, seed: int = 0) -> Path:
    """The features of a file's `x_train` and `x_test`, with its labels; computed once."""
    made = Path(tempfile.gettempdir()) / f"shoal-features-{source.stem}-{WIDTH}-{seed}.npz"
    if not made.is_file():
        with np.load(source, allow_pickle=False) as file:
            x, test = (file[n].astype(np.float32) / 255 for n in ("x_train", "x_test"))
            labels = {n: file[n] for n in ("y_train", "y_test")}
        seen = _responses(x, *_filters(x, seed))
        mean, scale = seen.mean(0), seen.std(0) + 1e-6
        other = _responses(test, *_filters(x, seed))
        part = made.with_suffix(".part.npz")
        np.savez(part, x_train=(seen - mean) / scale, x_test=(other - mean) / scale, **labels)
        part.replace(made)
    return made


def _filters(x: Array, seed: int) -> tuple[Array, Array]:
    """Filters on normalized patches, shape (filters, values), and what each takes off."""
    draws = np.random.default_rng(seed)
    images, rows, columns = (draws.integers(n, size=20_000) for n in (len(x), 27, 27))
    found = [
        x[i, r : r + PATCH, c : c + PATCH].ravel()
        for i, r, c in zip(images, rows, columns, strict=True)
    ]
    patches = np.stack(found)
    patches -= patches.mean(1, keepdims=True)
    patches /= np.sqrt(patches.var(1, keepdims=True) + NOISE)
    mean = patches.mean(0)
    values, vectors = np.linalg.eigh(np.cov((patches - mean).T))
    whiten = (vectors / np.sqrt(values + RIDGE)) @ vectors.T
    chosen = (patches[:FILTERS] - mean) @ whiten
    chosen /= np.linalg.norm(chosen, axis=1, keepdims=True)
    filters = chosen @ whiten
    return filters.astype(np.float32), (filters @ mean).astype(np.float32)


def _responses(x: Array, filters: Array, off: Array) -> Array:
    """Pooled responses, shape (n, WIDTH); patches are normalized by convolutions too."""
    import torch
    from torch.nn.functional import avg_pool2d, conv2d

    bank = torch.from_numpy(filters.reshape(-1, PATCH, PATCH, 3).transpose(0, 3, 1, 2).copy())
    total, rows = bank.sum((1, 2, 3)).view(1, -1, 1, 1), []
    for at in range(0, len(x), 500):
        images = torch.from_numpy(x[at : at + 500].transpose(0, 3, 1, 2).copy())
        mean = avg_pool2d(images, PATCH, STRIDE).mean(1, keepdim=True)
        square = avg_pool2d(images**2, PATCH, STRIDE).mean(1, keepdim=True)
        spread = (square - mean**2 + NOISE).sqrt()
        found: Any = (conv2d(images, bank, stride=STRIDE) - mean * total) / spread
        found = found - torch.from_numpy(off).view(1, -1, 1, 1)
        both = torch.cat([(found - LEVEL).relu(), (-found - LEVEL).relu()], 1)
        rows.append(avg_pool2d(both, both.shape[-1] // 2).flatten(1).numpy())
    return np.concatenate(rows)
