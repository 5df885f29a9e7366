import gzip
import struct

import numpy as np
import pytest

from shoal.data import Idx, Iid, Natural, Npz
from shoal.data.files import read_idx, read_npz
from shoal.errors import ConfigError, DataError


def idx_bytes(array: np.ndarray) -> bytes:
    code = {"u1": 8, "i4": 12, "f4": 13}[array.dtype.str[1:]]
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_mnist(folder, packed: bool):
    rng = np.random.default_rng(0)
    for part, n in (("train", 30), ("t10k", 10)):
        arrays = {
            "images-idx3": rng.integers(0, 256, (n, 4, 5), dtype=np.uint8),
            "labels-idx1": rng.integers(0, 3, n, dtype=np.uint8),
        }
        for kind, array in arrays.items():
            name = f"{part}-{kind}-ubyte" + (".gz" if packed else "")
            data = idx_bytes(array)
            (folder / name).write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("array", [
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    np.array([-5, 70000], np.int32),
    np.array([[1.5, -2.5]], np.float32),
], ids=["u1", "i4", "f4"])  # fmt: skip
def test_idx_round_trip(tmp_path, array):
    (tmp_path / "a").write_bytes(idx_bytes(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(array)))
    assert np.array_equal(read_idx(tmp_path / "a"), array)
    assert np.array_equal(read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_idx_files(tmp_path, packed):
    write_mnist(tmp_path, packed)
    data = Idx(str(tmp_path), clients=3).load(0)
    assert data.train.x.shape == (30, 1, 4, 5) and data.test.x.shape == (10, 1, 4, 5)
    assert data.train.x.dtype == np.float32 and data.train.x.max() <= 1.0
    assert data.train.y.dtype == np.int64 and data.classes == ("0", "1", "2")
    assert Idx(str(tmp_path), clients=3, image=False).load(0).train.x.shape == (30, 20)


def test_idx_by_owner(tmp_path):
    write_mnist(tmp_path, False)
    np.savez(tmp_path / "w.npz", writer=np.arange(30) % 4, short=np.arange(3))
    data = Idx(str(tmp_path), 0, Natural(), keys=str(tmp_path / "w.npz"), key="writer").load(0)
    assert data.clients == ("0", "1", "2", "3") and len(data["3"]) == 7
    with pytest.raises(DataError, match=r"'short' has shape \(3,\) for 30 examples"):
        Idx(str(tmp_path), 0, Natural(), keys=str(tmp_path / "w.npz"), key="short").load(0)
    with pytest.raises(ConfigError, match="client key"):
        Idx(str(tmp_path), 0, Natural()).load(0)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", b"PK\x03\x04 something else", idx_bytes(np.zeros((2, 2), np.uint8))[:-1],
     idx_bytes(np.zeros((2, 2), np.uint8)) + b"x", b"\0\0\x08\x03\0\0\0\x02"],
    ids=["empty", "header", "other", "short", "long", "half a header"],
)  # fmt: skip
def test_broken_idx_names_the_file(tmp_path, content):
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(DataError, match="broken"):
        read_idx(tmp_path / "broken")
    for name, data in (("cut.gz", gzip.compress(content)[:-6]), ("not.gz", b"plain")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            read_idx(tmp_path / name)


def test_missing_idx_names_both_places(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*no such file, nor .*\.gz"):
        Idx(str(tmp_path)).load(0)


def test_npz_with_and_without_a_test_set(tmp_path):
    path = tmp_path / "d.npz"
    x = np.arange(40 * 6, dtype=np.uint8).reshape(40, 2, 3, 1)
    y = np.arange(40) % 4
    np.savez_compressed(path, x_train=x, y_train=y, x_test=x[:5], y_test=y[:5], who=y * 10)
    data = Npz(str(path), clients=4, scale=1 / 255, image=True).load(0)
    assert data.train.x.shape == (40, 1, 2, 3) and len(data.test) == 5
    assert data.train.x.max() == pytest.approx(x.max() / 255)
    held = Npz(str(path), x_test="", y_test="", key="who", clients=0, partition=Natural()).load(0)
    assert len(held.train) == 32 and np.bincount(held.test.y).tolist() == [2, 2, 2, 2]
    assert held.clients == ("0", "10", "20", "30")
    for client in held.clients:
        assert set(held[client].y * 10) == {int(client)}


def test_npz_refuses_pickles_and_names_what_is_missing(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, x_train=np.array([{"a": 1}], dtype=object), y_train=np.zeros(1))
    with pytest.raises(DataError, match=r"evil\.npz"):
        read_npz(path, ["x_train"])
    with pytest.raises(DataError, match="no array 'y_trian'; did you mean y_train"):
        read_npz(path, ["y_trian"])
    (tmp_path / "half.npz").write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"half\.npz"):
        read_npz(tmp_path / "half.npz", ["x_train"])
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        read_npz(tmp_path / "one.npy", ["x_train"])
    with pytest.raises(DataError, match="no such file"):
        Npz(str(tmp_path / "none.npz")).load(0)


def test_npz_of_text_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", x_train=np.array(["a", "b"]), y_train=np.arange(2))
    with pytest.raises(DataError, match="expected numbers"):
        Npz(str(tmp_path / "t.npz"), x_test="", y_test="", clients=1).load(0)


def test_real_mnist_by_writer(real_data):
    folder, writers = real_data("mnist_idx"), real_data("mnist_writers.npz")
    data = Idx(str(folder), 0, Natural(), keys=str(writers), key="writer_train").load(0)
    assert len(data.train) == 60000 and len(data.test) == 10000 and len(data.clients) == 539
    sizes = [len(part) for part in data.parts.values()]
    assert (min(sizes), max(sizes), sum(sizes)) == (19, 131, 60000)
    assert np.bincount(data.train.y)[:2].tolist() == [5923, 6742]
    assert data.train.x.mean() == pytest.approx(0.1307, abs=1e-4)
    assert data.train.x.std() == pytest.approx(0.3081, abs=1e-4)


def test_real_images_and_windows(real_data):
    data = Npz(str(real_data("cifar10_subset.npz")), scale=1 / 255, image=True).load(0)
    assert data.train.x.shape == (10000, 3, 32, 32) and len(data.test) == 2000
    har = Npz(
        str(real_data("uci_har_windows.npz")), "x", "y", "", "", key="subject", clients=0,
        partition=Natural(), scale=2e-4,
    ).load(0)  # fmt: skip
    assert len(har.clients) == 30 and har.train.x.shape[1:] == (128, 9)
    assert (
        len(Npz(str(real_data("cifar10_subset.npz")), clients=7, partition=Iid()).load(0).clients)
        == 7
    )
