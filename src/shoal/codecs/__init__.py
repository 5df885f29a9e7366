"""The forms that a flat buffer takes on the wire, and the kernels that make them: one name each."""

from collections.abc import Callable

from shoal.codecs.addressed import Addressed
from shoal.codecs.homomorphic import Cells
from shoal.codecs.joined import Joined
from shoal.codecs.packed import Bits, Coded, Gaps
from shoal.codecs.projected import Named, OneByte, Projected
from shoal.codecs.seeded import Seeded
from shoal.codecs.sketch import Sketch
from shoal.codecs.values import Clustered, Codebook, Half, LowRank
from shoal.encoded import Array, Encoded, Quantized, Sparse

CODECS: dict[str, type[Encoded]] = {
    "sparse": Sparse,
    "quantized": Quantized,
    "bits": Bits,
    "coded": Coded,
    "gaps": Gaps,
    "seeded": Seeded,
    "half": Half,
    "codebook": Codebook,
    "lowrank": LowRank,
    "clustered": Clustered,
    "joined": Joined,
    "projected": Projected,
    "one_byte": OneByte,
    "named": Named,
    "addressed": Addressed,
    "cells": Cells,
    "sketch": Sketch,
}

Leaf = Array | Encoded


def on_values(leaf: Leaf, change: Callable[[Array, int], Leaf]) -> Leaf:
    """The leaf with its plain values in another form: all of an array, those kept of a sparse one.

    Args:
        leaf: what is encoded otherwise stays as it is.
        change: given the values, and the number of the piece that they belong to.
    """
    return _changed(leaf, change, 0)


def _changed(leaf: Leaf, change: Callable[[Array, int], Leaf], at: int) -> Leaf:
    if isinstance(leaf, Joined):
        return Joined(tuple(_changed(p, change, at + i) for i, p in enumerate(leaf.pieces)))
    if isinstance(leaf, Sparse):
        return Sparse(leaf.size, leaf.indices, _changed(leaf.values, change, at))
    if isinstance(leaf, Seeded):
        return Seeded(leaf.size, _changed(leaf.values, change, at), leaf.seed)
    return leaf if isinstance(leaf, Encoded) else change(leaf, at)


__all__ = [
    "CODECS",
    "Addressed",
    "Bits",
    "Cells",
    "Clustered",
    "Codebook",
    "Coded",
    "Gaps",
    "Half",
    "Joined",
    "LowRank",
    "Named",
    "OneByte",
    "Projected",
    "Quantized",
    "Seeded",
    "Sketch",
    "Sparse",
    "on_values",
]  # fmt: skip
