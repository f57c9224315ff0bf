"""One thread for torch in every test: on a busy machine its threads wait for each other, and tiny models take long. And
the exported cases, each made once a session; and a registry, made once a module."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported

import pytest
from models import EXPORTED, Exported, encoder_folder, exported_case

from pipeline.tracking.client import default_uri, talking_to


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's exports lie."""
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def bert(base: Path) -> Exported:
    """A classifier with token types."""
    return exported_case("bert", base)


@pytest.fixture(params=EXPORTED)
def exported(request: pytest.FixtureRequest, base: Path) -> Exported:
    """Every case in turn."""
    return exported_case(request.param, base)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """An untrained one that reads up to 510 tokens."""
    return encoder_folder(tmp_path / "teacher", max_position_embeddings=512)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[Any]:
    """Of the workspace's own registry, a real sqlite store; its migration takes seconds."""
    with talking_to(default_uri(root)) as found:
        yield found
