"""What every test may use: the marker for data that lies beside the developers' checkouts."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `shared` skip with a reason where that data is absent."""
    if SHARED.is_dir():
        return
    absent = pytest.mark.skip(reason=f"the developers' data folder {SHARED} is not here")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(absent)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout."""
    return SHARED
