"""Which source this is: asked of git, or baked into an image."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import build


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another place in which the source lies; what was remembered of the real one comes back afterwards."""
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    build.git_state.cache_clear()
    yield tmp_path
    build.git_state.cache_clear()


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def committed(root: Path) -> str:
    git(root, "init", "-q")
    (root / "a.py").write_text("a = 1\n")
    git(root, "add", "a.py")
    git(root, "commit", "-q", "-m", "first")
    return git(root, "rev-parse", "HEAD")


def test_a_clean_checkout_is_named_by_its_commit(root: Path) -> None:
    commit = committed(root)
    assert build.git_state() == {"commit": commit, "dirty": False}


@pytest.mark.parametrize(("name", "dirty"), [("pipeline/new.py", True), ("pyproject.toml", True), ("my.yaml", False)])
def test_a_checkout_is_dirty_where_what_a_run_executes_differs_from_the_commit(
    root: Path, name: str, dirty: bool
) -> None:
    commit = committed(root)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("a = 2\n")
    assert build.git_state() == {"commit": commit, "dirty": dirty}


def test_an_image_says_what_was_baked_into_it(root: Path) -> None:
    committed(root)
    (root / "build.json").write_text('{"commit": "abc", "dirty": false}')
    assert build.git_state() == {"commit": "abc", "dirty": False}


def test_a_folder_without_git_is_unknown_and_so_not_clean(root: Path) -> None:
    assert build.git_state() == {"commit": "unknown", "dirty": True}


def test_a_machine_without_git_is_unknown_and_so_not_clean(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed(root)
    monkeypatch.setenv("PATH", "")
    assert build.git_state() == {"commit": "unknown", "dirty": True}


def test_the_state_is_asked_once_a_process(root: Path) -> None:
    first = build.git_state()
    committed(root)
    assert build.git_state() == first
