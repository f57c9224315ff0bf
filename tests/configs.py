"""Configs that could run, and what the checks before a run say of those that could not."""

from pathlib import Path

import pytest

from pipeline.checks import check
from pipeline.config import RunConfig
from pipeline.errors import BadRequest

WRITTEN = {
    "name": "a-run",
    "text": {"kind": "files", "files": "text.txt"},
    "task": {"kind": "classification", "data": {"kind": "files", "train": "train.csv", "test": "test.csv"}},
    "distill": {"student": {"layers": 1}, "objective": {"kind": "hidden"}, "max_length": 64},
    "finetune": {"max_length": 64},
}
GATE = ("accuracy >= 0.95 * teacher",)


def config(teacher: Path, **changes: object) -> RunConfig:
    """WRITTEN with this teacher, and another `gate` or other sections."""
    gate = changes.pop("gate", GATE)
    written = {**WRITTEN, "teacher": str(teacher), "register": {"name": "model", "gate": gate}, **changes}
    return RunConfig.model_validate(written)


def refusal(asked: RunConfig, cache: Path) -> str:
    """What the checks before a run say against it."""
    with pytest.raises(BadRequest) as refused:
        check(asked, cache=cache)
    return str(refused.value)
