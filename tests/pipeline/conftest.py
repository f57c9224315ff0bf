"""One thread for torch in every test: on a busy machine its threads wait for each other, and tiny models take long. And
the exported cases, each made once a session."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported

import pytest
from models import EXPORTED, Exported, encoder_folder, exported_case


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
