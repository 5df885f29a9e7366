"""Fixtures of the functions plane: planes that are closed in the end, a server of S3, stores."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from planes.functions_support import EXACT, MODEL
from shoal.core import NOTHING, Aggregator
from shoal.planes import objects
from shoal.planes.functions import Functions
from shoal.planes.objects import DirectoryStore, ObjectStore, S3Store


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Callable[..., Functions]]:
    """Makes planes that are started, and closed in the end."""
    made: list[Functions] = []

    def make(rule: Aggregator[Any] = EXACT, step: Any = NOTHING, **how: Any) -> Functions:
        model = how.pop("model", MODEL)
        how.setdefault("store", DirectoryStore(str(tmp_path / "objects")))
        made.append(Functions(rule, step, **how))
        made[-1].start(model, 0)
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a real server of S3's protocol."""
    from moto.server import ThreadedMotoServer

    keys = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    before = {key: os.environ.get(key) for key in keys}
    os.environ.update(keys)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    objects.aws_client("s3", url, None)[0].create_bucket(Bucket="shoal")
    yield url
    server.stop()
    for key, value in before.items():
        if value is None:
            del os.environ[key]
        else:
            os.environ[key] = value


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        return DirectoryStore(str(tmp_path / "objects"))
    return S3Store("shoal", f"{tmp_path.name}/", request.getfixturevalue("s3"))
