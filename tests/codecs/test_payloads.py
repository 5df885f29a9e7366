"""Every form that a buffer takes: promises, broken content, and bytes of anybody's making."""

import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal import wire
from shoal.codecs import (
    CODECS,
    Addressed,
    Bits,
    Cells,
    Clustered,
    Codebook,
    Coded,
    Gaps,
    Half,
    Joined,
    LowRank,
    Named,
    OneByte,
    Projected,
    Quantized,
    Seeded,
    Sketch,
    Sparse,
    ans,
)  # fmt: skip
from shoal.codecs.cells import added
from shoal.codecs.seeded import support
from shoal.encoded import Encoded
from shoal.errors import ModelError, UpdateError
from shoal.messages import Payload, Task
from shoal.sums import accumulate
from shoal.tensors import Layout, Tensors
from shoal.validation import check_payload

RNG = np.random.default_rng(2)
N = 600
F = RNG.standard_normal(N).astype(np.float32)
FEW = np.where(RNG.random(N) < 0.1, F, 0).astype(np.float32)
AT = np.flatnonzero(FEW)
CODES = RNG.integers(-7, 8, N).astype(np.int8)
NAMED = RNG.integers(0, 5, N).astype(np.uint8)
SCALES = np.ones(3, np.float32)
RARE = (NAMED == 0).astype(np.uint8)
BY_ANS = ans.encode(RARE, ans.frequencies(np.bincount(RARE, minlength=256)))
ZEROS = np.concatenate([np.array([BY_ANS.size + 1, 5], "<i8").view(np.uint8)[:9], BY_ANS])
LEAVES: dict[str, Encoded] = {
    "packed codes": Quantized(Bits.of(CODES, 4, 7), SCALES, 256),
    "one bit": Quantized(Bits.of(np.sign(F).astype(np.int8), 1, 1, 1), SCALES, 256),
    "eleven bits": Quantized(Bits.of(CODES.astype(np.int16), 11, 7), SCALES, 256),
    "wide codes": Quantized(CODES.astype(np.int16), SCALES, 256),
    "coded codes": Quantized(Coded.of(CODES), SCALES, 256),
    "coded wide codes": Quantized(Coded.of(CODES.astype(np.int16)), SCALES, 256),
    "ans": Quantized(Coded(ZEROS, N, "int8"), SCALES, 256),
    "coded runs": Quantized(Coded.of(np.where(NAMED, 0, CODES).astype(np.int8)), SCALES, 256),
    "zstd": Quantized(Coded.of(np.tile(CODES[:30], 20), zstd=True), SCALES, 256),
    "coded floats": Coded.of(F),
    "gaps": Sparse(N, Gaps.of(AT), FEW[AT]),
    "gaps and codes": Sparse(N, Gaps.of(AT), Quantized(Coded.of(CODES[AT]), SCALES[:1], 256)),
    "seeded": Seeded(N, F[:50], 2**63 + 1),
    "bf16": Half((F.view(np.uint32) >> 16).astype(np.uint16), "bf16"),
    "f16": Half(Coded.of(F.astype(np.float16).view(np.uint16)), "f16"),
    "codebook": Codebook(Bits.of(NAMED, 3, 0), F[:5]),
    "coded codebook": Codebook(Coded.of(NAMED), F[:5]),
    "low rank": LowRank(F[:40].reshape(20, 2), F[:60].reshape(30, 2)),
    "clustered": Clustered(N, NAMED[:75], F[:40].reshape(5, 8)),
    "projected": Projected(N, F[:3], 5, 2**40),
    "projected bytes": Projected(N, OneByte.of(F[:30]), 2**64 - 1, kind="uniform"),
    "addressed": Addressed(N, np.array([2, 599, 603, 1700]), F[:3]),
    "addressed gaps": Addressed(N, Gaps.of(np.array([2, 599, 603, 1700])), F[:3]),
    "cells": Cells(
        N, added(np.arange(1, AT.size + 1, dtype=np.int32), AT, 2 * AT.size, 5),
        np.packbits(FEW != 0, bitorder="little"), 0.5, 5,
    ),
    "sketch": Sketch(N, np.arange(90, dtype=np.int32), 3, 0.5, 5),
    "named": Named(N, np.array([3, 3, 599], np.uint16), F[:3]),
    "joined": Joined((Sparse(9, Gaps.of(np.array([1, 8])), F[:2]), F[: N - 9])),
    "joined sparse": Joined(
        (Seeded(N - 9, F[:7], 3), Sparse(9, np.array([1, 8]), F[:2]))
    ),
}  # fmt: skip
every = pytest.mark.parametrize("name", LEAVES)


def tensors(leaf: Encoded) -> Tensors:
    return Tensors(Layout(("x",), ((leaf.size,),), leaf.dtype), leaf)


def test_every_codec_has_a_name_and_an_example() -> None:
    used = {type(leaf) for leaf in LEAVES.values()}
    inner = {type(part) for leaf in LEAVES.values() for part in leaf.parts().values()}
    assert set(CODECS.values()) == (used | inner) - {np.ndarray}


@every
def test_it_keeps_the_promises_of_encoded(name: str) -> None:
    leaf = LEAVES[name]
    values = leaf.dense()
    assert leaf.check() == "" and leaf.size == N and values.shape == (N,)
    assert values.dtype == leaf.dtype == np.float32
    assert leaf.finite() and np.isfinite(values).all()
    assert leaf.nbytes == sum(part.nbytes for part in leaf.parts().values())
    again = type(leaf).build(dict(leaf.parts()), dict(leaf.fields()))
    assert again.dense().tobytes() == values.tobytes()
    plain = leaf.unpacked()
    assert (plain if isinstance(plain, np.ndarray) else plain.dense()).tobytes() == values.tobytes()
    out = np.ones(N, np.float32)
    leaf.add_to(out, 0.5)
    np.testing.assert_allclose(out, 1 + 0.5 * values, rtol=1e-6)


@every
def test_it_crosses_the_wire(name: str) -> None:
    data = wire.dump(tensors(LEAVES[name]))
    back, _ = wire.load(data)
    assert len(data) == wire.size(tensors(LEAVES[name]))
    assert back.dense.tobytes() == LEAVES[name].dense().tobytes()


@every
def test_it_is_folded_as_it_is(name: str) -> None:
    # Long enough for the kernels, which take what `unpacked` gives.
    leaf = Joined((LEAVES[name],) * 20)
    out = np.zeros(20 * N, np.float32)
    accumulate(out, leaf, 2.0)
    np.testing.assert_array_equal(out, 2 * np.tile(LEAVES[name].dense(), 20))


def test_joined_sparse_pieces_are_folded_without_a_dense_update() -> None:
    pieces = tuple(Sparse(10**6, Gaps.of(np.arange(50) * 7), F[:50]) for _ in range(10))
    out = np.zeros(10**7, np.float32)
    tracemalloc.start()
    accumulate(out, Joined(pieces), 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6 and np.count_nonzero(out) == 500


def attempt(data: bytes) -> None:
    """Load and use bytes that were tampered with: values, or ModelError."""
    try:
        found, _ = wire.load(data)
        if found.layout.size == N:  # the engine compares with the model before it decodes
            values = found.dense
            assert values.shape == (N,)
            found.finite()
            accumulate(np.zeros(N, values.dtype), found.flat, 1.0)
    except ModelError:
        pass


@settings(deadline=None, max_examples=500)
@given(name=st.sampled_from(sorted(LEAVES)), data=st.data())
def test_changed_bytes_are_survived(name: str, data: st.DataObject) -> None:
    changed = bytearray(wire.dump(tensors(LEAVES[name])))
    header = 8 + int.from_bytes(changed[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly in the content, whose first bytes say how the others are read.
        first = data.draw(st.sampled_from([0, header, header, header + 8]))
        at = data.draw(st.integers(first, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    with np.errstate(all="ignore"):
        attempt(bytes(changed))


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from(["coded", "gaps"]), start=st.integers(0, 5), noise=st.binary(max_size=80),
    size=st.integers(0, 70_000),
)  # fmt: skip
def test_noise_as_content_is_survived(kind: str, start: int, noise: bytes, size: int) -> None:
    content = np.frombuffer(bytes([start]) + noise, np.uint8)
    head = np.array([content.size], "<i8").view(np.uint8)
    leaf: Encoded = Gaps(content, size)
    if kind == "coded":
        leaf = Coded(np.concatenate([head, content]), size, "uint8")
    if leaf.check():
        return
    with suppress(ModelError):
        assert leaf.dense().shape == (size,)


def test_loading_allocates_nothing_for_declared_sizes() -> None:
    huge = 2**40
    leaf = Quantized(Coded(np.array([2, 0, 0, 0, 0, 0, 0, 0, 1, 0], np.uint8), huge, "int8"),
                     np.ones(1, np.float32), 2**31 - 1)  # fmt: skip
    assert "scales" in leaf.check()
    bomb = Coded(np.array([2, 0, 0, 0, 0, 0, 0, 0, 1, 0], np.uint8), huge, "uint8")
    data = wire.dump(Tensors(Layout(("x",), ((huge,),), np.dtype(np.float32)),
                             Codebook(bomb, np.ones(1, np.float32))))  # fmt: skip
    tracemalloc.start()
    loaded, _ = wire.load(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6 and loaded.layout.size == huge
    model = Tensors.of({"x": np.zeros(3, np.float32)})
    with pytest.raises(UpdateError, match="shape"):  # before anything is decoded
        check_payload(Task(0, "a", 0), Payload(loaded, 1, 1), model, 0.0)


def test_broken_content_is_the_clients_fault() -> None:
    coded = Coded.of(CODES)
    data = coded.data.copy()
    data[-1] ^= 255
    data[30:60] = 255
    leaf = Quantized(Coded(data, N, "int8"), SCALES, 256)
    assert leaf.check() == ""
    model = Tensors.of({"x": np.zeros(N, np.float32)})
    with pytest.raises(UpdateError, match=r"client 'a'.*Huffman"):
        check_payload(Task(0, "a", 0), Payload(tensors(leaf), 1, 1), model, 0.0)


Q = np.uint8
WRONG: list[tuple[Encoded, str]] = [
    (Bits(np.zeros(2, Q), 4, 17, 0), "17 bits"),
    (Bits(np.zeros(2, Q), 4, 0, 0), "0 bits"),
    (Bits(np.zeros(2, Q), 4, 4, 9), "bias"),
    (Bits(np.zeros(2, Q), 4, 4, -1), "bias"),
    (Bits(np.zeros(3, Q), 4, 4, 8), "3 bytes"),
    (Bits(np.zeros(2, Q), 4.0, 4, 8), "whole numbers"),
    (Bits(np.zeros(2, Q), 4, "4", 8), "whole numbers"),
    (Bits(np.zeros(2, np.int32), 4, 4, 8), "uint8"),
    (Coded(np.zeros(8, Q), 4, "object"), "kind"),
    (Coded(np.zeros(7, Q), 4, "int8"), "8 or more"),
    (Coded(np.zeros(8, Q), -1, "int8"), "size -1"),
    (Gaps(np.zeros(23, Q), 4), "24 or more"),
    (Sparse(3, Gaps(np.zeros(24, Q), 4), np.ones(4, np.float32)), "4 of 3"),
    (Sparse(3, LowRank(F[:1].reshape(1, 1), F[:1].reshape(1, 1)), F[:1]), "flat array of integers"),
    (Seeded(3, F[:4], 0), "4 of 3"),
    (Seeded(3, F[:1], -1), "seed -1"),
    (Seeded(2**40, F[:1], 0), "2**32"),
    (Half(np.zeros(3, np.uint16), "f8"), "kind"),
    (Half(np.zeros(3, Q), "f16"), "uint16"),
    (Codebook(np.array([2], Q), F[:2]), "beyond"),
    (Codebook(np.array([0], Q), F[:0]), "1 to 256"),
    (Codebook(np.array([0], np.int32), F[:2]), "uint8"),
    (LowRank(F[:2].reshape(1, 2), F[:3].reshape(1, 3)), "ranks"),
    (LowRank(F[:2], F[:3]), "matrices"),
    (Clustered(9, np.zeros(2, Q), F[:8].reshape(2, 4)), "2 rows of 4"),
    (Clustered(8, np.full(2, 2, Q), F[:8].reshape(2, 4)), "beyond"),
    (Clustered(8, np.zeros(2, Q), F[:8]), "matrix"),
    (Joined(()), "no pieces"),
    (Joined((F, F.astype(np.float64))), "dtypes"),
    (Joined((CODES,)), "floats"),
]


@pytest.mark.parametrize(("leaf", "says"), WRONG)
def test_parts_that_do_not_fit_are_noticed(leaf: Encoded, says: str) -> None:
    assert says in leaf.check()


@given(
    size=st.integers(1, 2000),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
    more=st.booleans(),
)
def test_a_support_is_that_many_different_positions(
    size: int, share: float, seed: int, more: bool
) -> None:
    count = int(share * size)
    found = support(seed, size, count)
    assert found.size == count and (np.diff(found) > 0).all()
    assert not count or (found[0] >= 0 and found[-1] < size)
    assert np.array_equal(found, support(seed, size, count))


@pytest.mark.parametrize("count", [3, 12])
def test_every_position_is_as_likely(count: int) -> None:
    draws, size = 4000, 16
    hits: Any = np.zeros(size)
    for seed in range(draws):
        hits[support(seed, size, count)] += 1
    share = count / size
    assert (np.abs(hits / draws - share) < 5 * (share * (1 - share) / draws) ** 0.5).all()
