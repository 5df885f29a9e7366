import gzip

import numpy as np
import pytest

from shoal.data import Csv, Iid, Natural
from shoal.data.csv_file import encode, read_columns
from shoal.errors import ConfigError, DataError

TEXT = "who,age,color,target,part\n" + "".join(
    f"{'ab'[i % 2]},{i if i != 3 else ''},{['red', 'blue', ''][i % 3]},{i % 2},"
    f"{'test' if i % 5 == 4 else 'train'}\n"
    for i in range(40)
)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(TEXT)
    return str(file)


def test_columns_become_inputs(path):
    data = Csv(path, "target", key="who", split="part", partition=Natural()).load(0)
    assert data.clients == ("a", "b") and data.classes == ("0", "1")
    assert len(data.train) == 32 and len(data.test) == 8
    assert data.train.x.shape[1] == 3  # age, blue, red
    assert data.train.x[:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert data.train.x[0, 1:].tolist() == [0.0, 1.0]
    assert data.train.x[2, 1:].tolist() == [0.0, 0.0]
    assert data.train.x[3, 0] == 0.0


def test_gzip_and_a_held_out_fifth(path, tmp_path):
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    one = Csv(path, "target", drop=("part",), clients=4, partition=Iid()).load(0)
    two = Csv(str(packed), "target", drop=("part",), clients=4, partition=Iid()).load(0)
    assert np.array_equal(one.train.x, two.train.x) and len(one.test) == 8


def test_thresholds_and_real_values(path):
    above = Csv(path, "age", drop=("part", "who"), above=19.5, clients=2)
    with pytest.raises(DataError, match="row 4 has no 'age'"):
        above.load(0)
    real = Csv(path, "target", drop=("part", "who", "color"), regression=True, clients=2).load(0)
    assert real.train.y.dtype == np.float32 and real.classes == ()
    assert real.train.y.mean() == pytest.approx(0, abs=1e-6)
    with pytest.raises(DataError, match="'who' is not made of numbers"):
        Csv(path, "who", drop=("part",), above=1.0, clients=2).load(0)
    sides = Csv(path, "target", drop=("part", "who"), above=0.5, clients=2).load(0)
    assert sides.classes == ("target <= 0.5", "target > 0.5") and sides.test.y.mean() == 0.5
    with pytest.raises(ConfigError, match="above"):
        Csv(path, "target", above=1.0, regression=True)


def test_numeric_classes_sort_by_value(tmp_path):
    (tmp_path / "n.csv").write_text(
        "x,y\n" + "".join(f"{i},{[10, 9, 2][i % 3]}\n" for i in range(9))
    )
    assert Csv(str(tmp_path / "n.csv"), "y", clients=2).load(0).classes == ("2", "9", "10")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"label": "targt"}, "no column 'targt'; did you mean target"),
        ({"key": "owner"}, "no column 'owner'"),
        ({"drop": ("agee",)}, "no column 'agee'; did you mean age"),
        ({"split": "color"}, "'red' in 'color'"),
        ({"drop": ("who", "age", "color", "part")}, "no column is left"),
    ],
)
def test_wrong_columns_are_named(path, change, problem):
    fields = {"label": "target", "clients": 2} | change
    with pytest.raises(DataError, match=problem):
        Csv(path, **fields).load(0)


@pytest.mark.parametrize(
    "content",
    [b"", b"a,b\n", b"a,a\n1,2\n", b"a,b\n1\n", b"a,b\n\xff\xfe\n"],
    ids=["empty", "no rows", "same names", "short row", "bytes"],
)
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.csv"):
        read_columns(tmp_path / "bad.csv")
    (tmp_path / "bad.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n")[:-4])
    with pytest.raises(DataError, match=r"bad\.csv\.gz"):
        read_columns(tmp_path / "bad.csv.gz")


def test_infinite_numbers_are_not_inputs():
    assert encode(["inf", "1", "2"], np.arange(3)).shape == (3, 3)


def test_four_real_hospitals(real_data):
    data = Csv(
        str(real_data("uci_heart_4hospitals.csv.gz")), "num", key="hospital", above=0,
        partition=Natural(),
    ).load(0)  # fmt: skip
    assert data.clients == ("cleveland", "hungarian", "switzerland", "va")
    assert len(data.train) + len(data.test) == 920 and data.train.x.shape[1] == 13
    sizes = {client: len(data[client]) for client in data.clients}
    assert sizes == pytest.approx(
        {"cleveland": 242, "hungarian": 235, "switzerland": 98, "va": 160}, abs=3
    )
    assert data.classes == ("num <= 0", "num > 0")
    assert np.isfinite(data.train.x).all()


def test_real_census_with_its_official_split(real_data):
    data = Csv(
        str(real_data("uci_adult.csv.gz")), "income", key="education", drop=("fnlwgt",),
        split="split", partition=Natural(),
    ).load(0)  # fmt: skip
    assert len(data.train) == 32561 and len(data.test) == 16281 and len(data.clients) == 16
    assert data.classes == ("<=50K", ">50K")
