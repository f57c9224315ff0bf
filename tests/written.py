"""A whole run's config over files that are not there: what the tests of configs, steps and keys share."""

from typing import Any

from pipeline.config import RunConfig
from pipeline.graph import Step, expand

WRITTEN: dict[str, Any] = {
    "name": "a-run",
    "teacher": "teachers/bert",
    "text": {"kind": "files", "files": "text.txt"},
    "task": {"kind": "classification", "data": {"kind": "files", "train": "train.csv", "test": "test.csv"}},
    "register": {"name": "model", "gate": ["accuracy >= 0.95 * teacher"]},
}


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(WRITTEN | changes)


def steps(**changes: Any) -> dict[str, Step]:
    """Its steps by label."""
    return {step.label: step for step in expand(config(**changes))}
