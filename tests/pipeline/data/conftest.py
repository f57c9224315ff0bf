"""Small stand-ins: labelled files, and installed libraries whose docstrings can be read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

WriteJsonl = Callable[[str, list[dict[str, object]]], str]
Install = Callable[..., None]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteJsonl:
    def write(name: str, rows: list[dict[str, object]]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install("name", {"name/a.py": source}, version="1.0"): a distribution with a RECORD, on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install_library(name: str, sources: dict[str, str], *, version: str = "1.0") -> None:
        for path, source in sources.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(source)
        for stale in site.glob(f"{name}-*.dist-info"):
            stale.rename(site / f"old-{stale.name}.gone")
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in sources))

    return install_library
