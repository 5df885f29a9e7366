import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kernels.backends import native, same
from shoal.errors import ConfigError
from shoal.kernels import choose, compiled, threads
from shoal.sums import start
from shoal.tensors import Tensors


def test_choice() -> None:
    assert choose("", "") == choose("native", "") == "native"
    assert choose("numpy", "") == choose("", "no compiler") == "numpy"
    with pytest.raises(ConfigError, match="no compiler"):
        choose("native", "no compiler")
    with pytest.raises(ConfigError, match="SHOAL_KERNELS"):
        choose("cuda", "")


@pytest.mark.parametrize("bad", ["0", "-1", "two"])
def test_number_of_threads(bad: str) -> None:
    assert threads.count("3") == 3
    assert 1 <= threads.count("") <= 8
    with pytest.raises(ConfigError, match="SHOAL_KERNEL_THREADS"):
        threads.count(bad)


def output(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_environment_chooses_and_the_choice_is_announced() -> None:
    script = "from shoal import kernels; print(kernels.BACKEND, '|', kernels.about())"
    assert output(script, SHOAL_KERNELS="numpy") == "numpy | NumPy kernels: SHOAL_KERNELS=numpy"
    found = output(script, SHOAL_KERNELS="", SHOAL_KERNEL_THREADS="3")
    if compiled.MISSING:
        assert found.startswith("numpy | NumPy kernels: the compiled module")
    else:
        assert found == "native | native kernels, 3 threads"


@native
def test_threads_do_not_change_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal(300_001).astype(np.float32) for _ in range(20)]
    outs = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "COUNT", count)
        threads._pool.cache_clear()
        outs.append(np.zeros(300_001, np.float32))
        compiled.fold(outs[-1], rows, range(20))
    threads._pool.cache_clear()
    assert same(outs[0], outs[1]) and same(outs[0], outs[2])


@native
def test_many_callers_at_once() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal(200_000).astype(np.float32) for _ in range(8)]

    def work(_: int) -> np.ndarray:
        out = np.zeros(200_000, np.float32)
        for _ in range(5):
            compiled.fold(out, rows, [1.0] * 8)
        return out

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, range(12)))
    assert all(same(results[0], other) for other in results)


@native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own() -> None:
    script = """
import os, numpy as np
from shoal.kernels import compiled
def total():
    out = np.zeros(1 << 20, np.float32)
    compiled.fold(out, [np.ones(1 << 20, np.float32)] * 4, [1.0] * 4)
    return out.sum()
first = total()
child = os.fork()
if not child:
    os._exit(0 if total() == first else 1)
print(os.waitpid(child, 0)[1])
"""
    assert output(script, SHOAL_KERNEL_THREADS="2") == "0"


@native
def test_the_native_module_checks_what_it_is_given() -> None:
    from shoal.kernels import _native

    out, row = np.zeros(4, np.float32), np.ones(4, np.float32)
    good = (compiled.F32, row, None, 1)
    assert _native.prepare(0, 0, out, 4, 4096, [good], [1.0], None) is not None
    for source in ((9, row, None, 1), (-1, row, None, 1), (compiled.F64, row, None, 1),
                   (compiled.F32, row, None, 0), (compiled.I64, row, None, 1),
                   (compiled.I64, np.ones(4, np.int64), None, 1)):  # fmt: skip
        with pytest.raises(ValueError):
            _native.prepare(0, 0, out, 4, 4096, [source], [1.0], None)
    for op, type_, size, tile in ((4, 0, 4, 1), (0, 2, 4, 1), (0, 0, 5, 1), (0, 0, 4, 0),
                                  (0, 0, -1, 1), (1, 0, 4, 1), (3, 0, 4, 1)):  # fmt: skip
        with pytest.raises(ValueError):
            _native.prepare(op, type_, out, size, tile, [good], [1.0], None)
    with pytest.raises(ValueError):
        _native.run(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [None, 40])
@pytest.mark.parametrize("size", [10, 20_000])
def test_sums_of_many_updates_have_the_bits_of_one_after_another(
    bits: int | None, size: int
) -> None:
    rng = np.random.default_rng(0)
    model = Tensors.of({"a": np.zeros(size), "b": np.zeros(3)}, np.float32)
    whole = [model.with_flat(rng.standard_normal(size + 3).astype(np.float32)) for _ in range(9)]
    part = model.select(["b"]).with_flat(np.ones(3, np.float32))
    for values in (whole, [*whole[:4], part, *whole[4:]]):
        weights = rng.uniform(0.1, 3, len(values)).tolist()
        at_once, in_turn = (
            start(model.layout, bits).add_all(values, weights),
            start(model.layout, bits),
        )
        for value, weight in zip(values, weights, strict=True):
            in_turn = in_turn.add(value, weight)
        assert same(at_once.total, in_turn.total)
        assert (at_once.weight, at_once.bound) == (in_turn.weight, in_turn.bound)
        assert same(at_once.mean().dense, in_turn.mean().dense)


def test_a_refused_update_leaves_a_large_sum_as_it_was() -> None:
    model = Tensors.of({"a": np.zeros(20_000)}, np.float32)
    total = start(model.layout, 40).add(model.with_flat(np.full(20_000, 0.5, np.float32)), 2.0)
    before = total.total.copy()
    bad = np.ones(20_000, np.float32)
    for value, match in ((1e7, r"may reach 1e\+07"), (np.nan, "finite"), (np.inf, "finite")):
        bad[15_000] = value
        with pytest.raises(ConfigError, match=match):
            total.add(model.with_flat(bad.copy()), 1.0)
        np.testing.assert_array_equal(total.total, before)
