import importlib.util

import numpy as np
import pytest

from shoal.data import HuggingFace, TorchVision
from shoal.data.hub import stack
from shoal.errors import ConfigError, DataError, MissingExtra


@pytest.mark.parametrize(
    ("package", "described", "extra"),
    [
        ("datasets", HuggingFace("mnist"), "shoal[datasets]"),
        ("torchvision", TorchVision("MNIST"), "shoal[vision]"),
    ],
)
def test_a_missing_package_names_its_extra(package, described, extra):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(MissingExtra) as caught:
        described.load(0)
    assert extra in str(caught.value)


def test_unknown_torchvision_set():
    with pytest.raises(ConfigError, match=r"did you mean .*FashionMNIST"):
        TorchVision("FashionMnist")


def test_inputs_must_have_one_shape():
    assert stack([[1, 2], [3, 4]], "a").shape == (2, 2)
    with pytest.raises(DataError, match="photos: inputs of different shapes"):
        stack([np.zeros((2, 2)), np.zeros((3, 2))], "photos")


def test_a_local_folder_with_hugging_face(tmp_path):
    pytest.importorskip("datasets")
    rows = "".join(f"{i},{i % 2},{'xyz'[i % 3]}\n" for i in range(30))
    (tmp_path / "train.csv").write_text("value,label,who\n" + rows)
    described = HuggingFace(str(tmp_path), x="value", key="who", test="", clients=2)
    data = described.load(0)
    assert len(data.train) == 24 and data.classes == ("0", "1")
    with pytest.raises(DataError, match="no column 'image'"):
        HuggingFace(str(tmp_path), test="").load(0)


def test_torchvision_without_files_or_network(tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(DataError, match="MNIST"):
        TorchVision("MNIST", str(tmp_path), download=False).load(0)
