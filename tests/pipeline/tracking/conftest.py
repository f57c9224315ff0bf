"""A real sqlite store. Its migration takes seconds: one is shared, each test has its own model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.client import default_uri, talking_to


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def uri(root: Path) -> str:
    """Its registry."""
    return default_uri(root)


@pytest.fixture
def client(uri: str) -> Iterator[Any]:
    with talking_to(uri) as found:
        yield found
