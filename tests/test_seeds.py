"""Named draws: the same for ever, independent of each other, uniform."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shoal import seeds

# Committed values: whoever changes one changes every run that was ever recorded.
GOLDEN_KEYS = {
    (0,): "7a7d9d42393e30fa8f7082f2ae9f37321e05a6023d23a7b40cdac13b540f9b4e",
    (7, "cohort", 3): "4b50765f87274e01cb46b98cabe8764d6c0404a7d5b2a6bdcb376bc76aa7ed0d",
    (-1, "cohort", "3"): "0a042993e8a2c3cbd9cfb222759375711f19c86f1d9f8c8408676615f5e63f01",
    (
        2**70,
        "Fußgänger \U0001f41f",
        -5,
    ): "960c051fa1d87055bfcd37d34b77d7b42ff45b4e9832990745527e1512951679",
}


@pytest.mark.parametrize(("name", "expected"), GOLDEN_KEYS.items())
def test_keys_are_what_they_always_were(name, expected):
    assert seeds.key(*name).hex() == expected


def test_draws_are_what_they_always_were():
    assert seeds.integer(7, "cohort", 3) == 2713483851821459200
    assert seeds.uniform(7, "cohort", 3) == 0.294196508714916
    assert seeds.normal(7, "cohort", 3) == pytest.approx(-0.5411662215649448, rel=1e-15)
    assert seeds.rng(7, "cohort", 3).random(3).tolist() == [
        0.03940952332525849,
        0.6140024466830106,
        0.5288198817090618,
    ]
    assert seeds.rng(7, "cohort", 3).integers(0, 1000, 5).tolist() == [832, 39, 167, 614, 415]
    items = [f"c{i}" for i in range(100)]
    assert seeds.choose(items, 1, 7, "cohort", 3) == ["c29"]
    assert seeds.choose(items, 5, 7, "cohort", 3) == ["c3", "c61", "c53", "c62", "c60"]
    assert seeds.choose(items[:6], 6, 7, "cohort", 3) == ["c0", "c4", "c1", "c2", "c5", "c3"]


def test_another_process_with_other_string_hashes_draws_the_same():
    code = "from shoal import seeds; print(seeds.key(1, 'a', 2).hex())"
    texts = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for salt in ("1", "2")
    ]  # fmt: skip
    assert texts == [seeds.key(1, "a", 2).hex()] * 2


def test_names_that_look_alike_differ():
    names = [
        ("a", "b"), ("a\x1fb",), ("a'\x1f'b",), ("'a'", "b"), ("ab",), ("a", "", "b"), ("b", "a"),
        (1,), ("1",), (1, 1), (11,), (-1,), ("",), (), ("", ""), ("1\x1f1",),
    ]  # fmt: skip
    keys = [seeds.key(seed, *name) for seed in (0, 1) for name in names]
    assert len(set(keys)) == len(keys)


purposes = st.lists(st.text() | st.integers(), max_size=4)


@given(st.tuples(st.integers(), purposes), st.tuples(st.integers(), purposes))
def test_different_names_give_different_keys(a, b):
    same = a[0] == b[0] and a[1] == b[1]
    assert (seeds.key(a[0], *a[1]) == seeds.key(b[0], *b[1])) == same


def test_characters_that_pythons_tables_may_not_know_yet_are_escaped():
    # What repr() escapes changes with the Unicode version; the key must not.
    import hashlib

    text = "3\x1f'\\U0001fae8 \\ud800'"
    expected = hashlib.blake2b(text.encode(), digest_size=32).digest()
    assert seeds.key(3, "\U0001fae8 \ud800") == expected


@pytest.mark.parametrize("bad", [True, False, 1.0, None, b"x", ("a",), np.float32(1), np.True_])
def test_only_strings_and_integers_are_purposes(bad):
    with pytest.raises(TypeError, match="a string or an integer"):
        seeds.key(0, "cohort", bad)
    with pytest.raises(TypeError, match="a string or an integer"):
        seeds.key(bad, "cohort")


def test_numpys_integers_and_strings_are_the_same_names_as_pythons():
    plain = seeds.key(5, "c1", 3)
    assert seeds.key(np.int64(5), np.str_("c1"), np.uint8(3)) == plain


@given(st.integers(0, 2**63), st.integers(0, 2**31))
def test_scalars_lie_within_their_bounds(seed, n):
    assert 0 < seeds.uniform(seed, n) < 1
    assert 0 <= seeds.integer(seed, n) < 2**63
    assert np.isfinite(seeds.normal(seed, n))


@pytest.mark.parametrize("top", [b"\0" * 32, b"\xff" * 32])
def test_the_extreme_keys_stay_inside_the_open_interval(monkeypatch, top):
    monkeypatch.setattr(seeds, "key", lambda *_: top)
    assert 0 < seeds.uniform(0) < 1
    assert np.isfinite(seeds.normal(0))
    assert seeds.choose(["a", "b", "c"], 1, 0) == (["a"] if top[0] == 0 else ["c"])


def test_scalar_draws_follow_their_distributions():
    uniforms = [seeds.uniform(1, "u", i) for i in range(4000)]
    normals = [seeds.normal(1, "n", i) for i in range(4000)]
    assert stats.kstest(uniforms, "uniform").pvalue > 1e-3
    assert stats.kstest(normals, "norm").pvalue > 1e-3


def test_neighboring_purposes_are_independent():
    a = np.array([seeds.uniform(1, "a", i) for i in range(4000)])
    for other in (
        [seeds.uniform(2, "a", i) for i in range(4000)],
        [seeds.uniform(1, "b", i) for i in range(4000)],
        [seeds.uniform(1, "a", i + 1) for i in range(4000)],
    ):
        assert abs(np.corrcoef(a, other)[0, 1]) < 0.06  # four standard errors
    streams = [seeds.rng(1, "s", i).standard_normal(2000) for i in range(8)]
    off = np.corrcoef(streams) - np.eye(8)
    assert np.abs(off).max() < 0.1


def test_the_order_of_calls_does_not_matter():
    forward = [seeds.rng(1, i).random() for i in range(5)]
    backward = [seeds.rng(1, i).random() for i in reversed(range(5))]
    assert forward == backward[::-1]


@pytest.mark.parametrize(("size", "n"), [(10, 1), (10, 2), (40, 3), (10, 7), (6, 6)])
def test_every_item_is_chosen_equally_often_at_every_place(size, n):
    items = [str(i) for i in range(size)]
    picks = [seeds.choose(items, n, 5, size, n, i) for i in range(3000)]
    for place in range(n):
        counts = Counter(chosen[place] for chosen in picks)
        assert stats.chisquare([counts[item] for item in items]).pvalue > 1e-4, place
    everywhere = Counter(item for chosen in picks for item in chosen)
    assert sum(everywhere.values()) == 3000 * n
    if n < size:
        assert stats.chisquare([everywhere[item] for item in items]).pvalue > 1e-4


def test_every_order_is_equally_likely():
    orders = Counter(tuple(seeds.choose("abc", 3, 9, i)) for i in range(3000))
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > 1e-4


@given(st.integers(0, 60), st.data())
def test_choices_are_distinct_items(size, data):
    items = [f"c{i}" for i in range(size)]
    n = data.draw(st.integers(0, size))
    chosen = seeds.choose(items, n, data.draw(st.integers()), "x")
    assert len(chosen) == len(set(chosen)) == n
    assert set(chosen) <= set(items)


@pytest.mark.parametrize("n", [-1, 4])
def test_a_number_that_cannot_be_chosen_raises(n):
    with pytest.raises(ValueError, match=f"cannot choose {n} of 3"):
        seeds.choose(["a", "b", "c"], n, 0, "x")


def test_a_few_of_very_many_are_chosen_without_touching_all():
    class Names:
        """A million names that count how many were looked at."""

        looks = 0

        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, i: int) -> str:
            self.looks += 1
            return f"c{i}"

    names = Names()
    assert len(set(seeds.choose(names, 50, 1, "x"))) == 50
    assert names.looks == 50
