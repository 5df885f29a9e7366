import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    """Finds a file of the folder with real data, or skips the test."""
    folder = Path(
        os.environ.get("SHOAL_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data")
    )

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"no {name} in {folder}")
        return folder / name

    return find
