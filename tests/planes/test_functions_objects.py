"""Stores, and objects that say themselves whether they are whole."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from planes.functions_support import MODEL, model_of
from shoal.errors import ConfigError
from shoal.planes import objects
from shoal.planes.objects import DirectoryStore, ObjectError, ObjectStore, S3Store, load, save
from shoal.tensors import equal

pytest_plugins = ("planes.functions_fixtures",)


def test_a_store_keeps_ranges_lists_and_deletes(store: ObjectStore) -> None:
    store.put("a/1", b"0123456789")
    store.put("a/1", b"abcdefghij")  # replaced
    store.put("a/2", b"")
    store.put("b/1", b"x")
    assert store.get("a/1", 0, 100) == b"abcdefghij"
    assert store.get("a/1", 3, 6) == b"def"
    assert store.get("a/1", 10, 20) == b""
    assert sorted(store.keys("a/")) == ["a/1", "a/2"]
    store.delete(["a/1", "never/there"])
    assert sorted(store.keys("")) == ["a/2", "b/1"]
    with pytest.raises(ObjectError, match=r"'a/1': is not in the store"):
        store.get("a/1", 0, 10)
    store.delete(list(store.keys("")))
    if isinstance(store, DirectoryStore):  # which leaves no empty directories behind
        assert [path.name for path in Path(store.path).iterdir()] == [".partial"]
    assert objects.open_store(json.loads(json.dumps(objects.describe(store)))) == store


def test_objects_come_back_and_damage_is_named(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PART", 256)  # so that several ranges are needed
    tensors = {"value": model_of(400), "other": MODEL}
    size = save(store, "k", {"contributors": [1]}, tensors)
    header, found = load(store, "k")
    assert header == {"contributors": [1]}
    assert all(equal(found[name], tensors[name]) for name in tensors)
    data = store.get("k", 0, size + 1)
    assert len(data) == size
    save(store, "again", {"contributors": [1]}, dict(reversed(tensors.items())))
    assert store.get("again", 0, size + 1) == data
    for cut in (0, 5, 55, 56, 300, size - 1):
        store.put("k", data[:cut])
        with pytest.raises(ObjectError, match=rf"'k': is cut short \({cut} of") as caught:
            load(store, "k")
        assert caught.value.found == cut
        if cut >= 56:
            assert caught.value.expected == size
    for at in (20, 30, 60, 700, size - 1):
        altered = bytearray(data)
        altered[at] ^= 1
        store.put("k", bytes(altered))
        with pytest.raises(ObjectError, match="'k': is"):
            load(store, "k")
    store.put("k", b"PK" + data)
    with pytest.raises(ObjectError, match="was not written by Shoal"):
        load(store, "k")


def test_large_objects_are_uploaded_in_parts(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MULTIPART", 1 << 20)
    store = S3Store("shoal", "large/", s3)
    data = random.Random(0).randbytes(9 << 20)
    store.put("k", data)
    assert store.get("k", 0, 10 << 20) == data
    found = objects.aws_client("s3", s3, None)[0].head_object(Bucket="shoal", Key="large/k")
    assert found["ETag"].strip('"').endswith("-2")  # of so many parts


def test_keys_stay_inside_the_directory(tmp_path: Path) -> None:
    for key in ("../x", "a/../../x", "/x", "", "a//b", ".partial/x", "a\\b"):
        with pytest.raises(ConfigError, match="is not the key of an object"):
            DirectoryStore(str(tmp_path)).put(key, b"")


def test_a_store_that_cannot_be_reached_is_an_error_with_the_key(s3: str) -> None:
    with pytest.raises(ObjectError, match=r"'k': cannot be written: .*NoSuchBucket"):
        S3Store("nowhere", "", s3).put("k", b"x")
    for data in (None, {"kind": "ftp"}, {"kind": "directory"}, {"kind": "s3", "bucket": 3}):
        with pytest.raises(ConfigError, match="store"):
            objects.open_store(data)


def test_directories_come_and_go_under_many_threads(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))

    def work(i: int) -> bool:
        key = f"a/b/{i % 3}/{i}"
        store.put(key, b"x")
        there = store.get(key, 0, 9) == b"x"
        store.delete([key])
        return there

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))
    assert list(store.keys("")) == []
