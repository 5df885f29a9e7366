"""Client stores: the one that spills is the one in memory, at a bounded cost in memory."""

import gc
import sqlite3
import tempfile
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.client import ClientState
from shoal.encoded import Sparse
from shoal.errors import CheckpointError, ConfigError
from shoal.plain import same
from shoal.store import ClientStore, MemoryStore, SpillStore
from shoal.tensors import Tensors


@dataclass(frozen=True)
class Trained:
    """A trainer's state: a control variate, a best loss, and a history by task."""

    control: Tensors
    best: float
    history: tuple[int, ...] = ()


def state(seed: int, size: int = 3) -> ClientState:
    """A state of which everything depends on the seed, with awkward floats and shapes."""
    values = np.arange(size, dtype=np.float32) + seed
    control = Tensors.of({"w": values, "buffer/odd": np.full(3, seed, np.float16)})
    best = (float("inf"), float("nan"), 0.5)[seed % 3]
    sparse = Tensors.of({"w": values}).with_flat(
        Sparse(size, np.array([seed % size], np.int32), np.ones(1, np.float32))
    )
    return ClientState(Trained(control, best, tuple(range(seed % 4))), (sparse, None, seed))


LIKE = state(0)
clients = st.sampled_from(["a", "b", "c", "é\U0001f41f", "", "' OR 1", "nul\0"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=3
)


def contents(store: ClientStore) -> list[tuple[str, ClientState]]:
    return list(store.items())


class Stores(RuleBasedStateMachine):
    """Does the same to both stores and compares."""

    @initialize(budget=st.integers(1, 3))
    def open(self, budget: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.memory: ClientStore = MemoryStore()
        self.spill: ClientStore = SpillStore(Path(self.directory.name) / "states", LIKE, budget)
        self.budget = budget

    @rule(client=clients, seed=st.integers(0, 50))
    def put(self, client: str, seed: int) -> None:
        for store in (self.memory, self.spill):
            store.put(client, state(seed))

    @rule(client=clients)
    def get(self, client: str) -> None:
        a, b = self.memory.get(client), self.spill.get(client)
        assert (a is None) == (b is None) and (a is None or same(a, b))
        if b is not None:
            assert type(b.trainer) is Trained and isinstance(b.upload[0].flat, Sparse)

    @precondition(lambda self: contents(self.memory))
    @rule(data=st.data(), seed=st.integers(0, 50))
    def work(self, data: Any, seed: int) -> None:
        """As a task does: the state that was there becomes another."""
        client = data.draw(st.sampled_from([name for name, _ in self.memory.items()]))
        for store in (self.memory, self.spill):
            old = store.get(client)
            store.put(client, ClientState(old.trainer, (*old.upload[:2], seed)))

    @rule()
    def iterate(self) -> None:
        a, b = contents(self.memory), contents(self.spill)
        assert [client for client, _ in a] == [client for client, _ in b]
        assert all(same(x, y) for (_, x), (_, y) in zip(a, b, strict=True))

    @rule(client=clients)
    def use_while_iterating(self, client: str) -> None:
        for name, _ in self.spill.items():
            self.spill.get(client)
            self.spill.put(name, self.memory.get(name))

    @rule()
    def clear(self) -> None:
        self.memory.clear()
        self.spill.clear()

    @invariant()
    def few_are_in_memory(self) -> None:
        if hasattr(self, "spill"):
            assert len(self.spill._recent) <= self.budget

    def teardown(self) -> None:
        if hasattr(self, "spill"):
            self.iterate()
            self.memory.close()
            self.spill.close()
            self.directory.cleanup()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.fixture
def spill(tmp_path):
    store = SpillStore(tmp_path / "states", LIKE, budget=2)
    yield store
    store.close()


def on_disk(store: SpillStore) -> set[str]:
    with sqlite3.connect(store._path) as file:
        return {row[0] for row in file.execute("SELECT client FROM states")}


def test_the_least_recently_used_go_to_disk(spill):
    for client in "abc":
        spill.put(client, state(1))
    assert on_disk(spill) == {"a"}
    spill.get("b")
    spill.put("d", state(2))
    assert on_disk(spill) == {"a", "c"}
    spill.put("a", state(3))
    assert on_disk(spill) == {"a", "b", "c"}
    assert same(spill.get("a"), state(3)) and same(spill.get("c"), state(1))


def test_a_state_on_disk_is_replaced_by_a_newer_one(spill):
    for seed in range(3):
        for client in "abcd":
            spill.put(client, state(seed))
    assert [client for client, _ in spill.items()] == list("abcd")
    assert all(same(found, state(2)) for _, found in spill.items())


def test_what_is_in_memory_is_the_same_object(spill):
    mine = state(1)
    spill.put("a", mine)
    assert spill.get("a") is mine and spill.get("other") is None


def test_cleared_means_gone_from_disk_too(spill):
    for client in "abcd":
        spill.put(client, state(1))
    spill.clear()
    assert contents(spill) == [] and spill.get("a") is None and on_disk(spill) == set()
    spill.put("a", state(2))
    assert [client for client, _ in spill.items()] == ["a"]


def test_a_file_that_was_there_is_made_anew(tmp_path):
    (tmp_path / "states").write_bytes(b"something else" * 1000)
    store = SpillStore(tmp_path / "states", LIKE, budget=1)
    for client in "ab":
        store.put(client, state(1))
    assert same(store.get("a"), state(1))
    store.close()


def test_many_big_states_take_memory_for_the_budget_only(tmp_path):
    size = 250_000  # 1 MB each
    store = SpillStore(tmp_path / "states", LIKE, budget=2)
    gc.collect()
    tracemalloc.start()
    for i in range(30):
        store.put(f"c{i}", state(i, size))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 14 * size * 4
    assert (tmp_path / "states").stat().st_size > 28 * size * 4
    for i in (0, 17, 29):
        assert same(store.get(f"c{i}"), state(i, size))
    store.close()


def test_values_read_back_lie_aligned(spill):
    for client in "abc":
        spill.put(client, state(7))
    control = spill.get("a").trainer.control
    assert control.flat.flags.aligned and not control.flat.flags.owndata


# What goes wrong names the file, and loses nothing.


def test_a_full_disk_is_said_and_the_state_stays(spill):
    spill._file.execute("PRAGMA max_page_count = 20")
    big = 10_000

    def fill() -> None:
        for i in range(9):
            spill.put(f"c{i}", state(i, big))

    with pytest.raises(CheckpointError, match=r"states.*full.*Free space"):
        fill()
    kept = contents(spill)
    assert [client for client, _ in kept] == [f"c{i}" for i in range(len(kept))]
    assert len(kept) >= 3 and all(same(s, state(i, big)) for i, (_, s) in enumerate(kept))
    spill._file.execute("PRAGMA max_page_count = 100000")
    fill()
    assert len(contents(spill)) == 9 and len(spill._recent) == 2


def test_a_write_that_does_not_fit_spoils_nothing_on_disk(spill):
    for i in range(12):
        spill.put(f"c{i}", state(i, 2000))
    pages = spill._file.execute("PRAGMA page_count").fetchone()[0]
    spill._file.execute(f"PRAGMA max_page_count = {pages + 2}")
    spill.put("c0", state(40, 20_000))

    def evict() -> None:
        for i in range(1, 4):
            spill.put(f"c{i}", state(i, 2000))

    with pytest.raises(CheckpointError, match="full"):
        evict()
    assert spill._file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert same(spill.get("c0"), state(40, 20_000))
    assert all(same(spill.get(f"c{i}"), state(i, 2000)) for i in range(1, 12))


def test_a_closed_file_is_said(spill):
    for client in "abc":
        spill.put(client, state(1))
    spill.close()
    for call in (
        lambda: spill.get("a"),
        lambda: spill.put("d", state(1)),
        lambda: contents(spill),
        lambda: spill.clear(),
    ):
        with pytest.raises(CheckpointError, match=r"states.*closed"):
            call()


def test_a_damaged_state_is_said(spill):
    for client in "abc":
        spill.put(client, state(1))
    changes = (
        "UPDATE states SET plain = '{'",
        "UPDATE states SET plain = '{}'",
        "UPDATE states SET plain = '[1]'",
        "UPDATE states SET tensors = x'00'",
        "UPDATE states SET tensors = x'0800000000000000' || '[[1,2]] '",
        "UPDATE states SET tensors = x'ffffffffffffffff'",
        "UPDATE states SET tensors = NULL",
        "UPDATE states SET tensors = substr(tensors, 1, length(tensors) - 40)",
    )
    row = spill._file.execute("SELECT * FROM states").fetchone()
    for change in changes:
        spill._file.execute(change)
        with pytest.raises(CheckpointError, match=r"states is damaged"):
            spill.get("a")
        spill._file.execute("REPLACE INTO states VALUES (?, ?, ?)", row)
    assert same(spill.get("a"), state(1))


def test_a_damaged_file_is_said(tmp_path):
    store = SpillStore(tmp_path / "states", LIKE, budget=1)
    for i in range(20):
        store.put(f"c{i}", state(i, 2000))
    with (tmp_path / "states").open("r+b") as file:
        file.write(b"\xff" * (tmp_path / "states").stat().st_size)
    store._file.execute("PRAGMA cache_size = 0")
    store._file.execute("PRAGMA shrink_memory")
    with pytest.raises(CheckpointError, match="states"):
        contents(store)
    store.close()


@pytest.mark.parametrize("path", ["missing/states", "."])
def test_a_place_where_no_file_can_be_is_said(tmp_path, path):
    with pytest.raises(CheckpointError, match="cannot go to"):
        SpillStore(tmp_path / path, LIKE)


def test_the_budget_is_at_least_one(tmp_path):
    with pytest.raises(ConfigError, match="budget"):
        SpillStore(tmp_path / "states", LIKE, budget=0)


def test_the_memory_store_is_sorted_too():
    store = MemoryStore()
    for client in "cab":
        store.put(client, LIKE)
    assert [client for client, _ in store.items()] == list("abc")
    store.close()
