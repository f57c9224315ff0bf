"""Which source this is: the commit and whether the tree differs from it, from git or as baked into an image."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


# What a run executes; a new config or a note beside it does not make a model untraceable.
SOURCES = ("pipeline", "serving", "benchmarks", "requirements", "pyproject.toml")


@cache
def git_state() -> dict[str, Any]:
    """{"commit": ..., "dirty": ...}; an image carries it in build.json, a checkout asks git, neither: unknown."""
    baked = ROOT / "build.json"
    if baked.is_file():
        return dict(json.loads(baked.read_text()))
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *SOURCES)
    return {"commit": commit or "unknown", "dirty": status is None or bool(status)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
