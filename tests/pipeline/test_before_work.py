"""What can only fail shows before the first step of a whole run is executed, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kinds import ROWS, neutral, write_rows
from models import LABELS, Fitted, encoder_folder, sentences, tuned_folder

from pipeline.config import RunConfig
from pipeline.errors import BadArtifact, BadRequest
from pipeline.progress import Silent
from pipeline.runner import run
from pipeline.workspace import Workspace

Make = Callable[..., RunConfig]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run over small files that could go through, but for what is changed."""
    (tmp_path / "text.txt").write_text("\n".join(sentences(40)) + "\n")
    for split in ("train", "dev", "test"):
        rows = [ROWS["classification"](text, i) for i, text in enumerate(neutral(40, seed=len(split)))]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "dev", "test")}

    def config(*, data: dict[str, str] | None = None, task: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
        return RunConfig.model_validate(
            {
                "name": "early",
                "teacher": str(encoder_folder(tmp_path / "teacher", max_position_embeddings=64)),
                "text": {"kind": "files", "files": str(tmp_path / "text.txt")},
                "task": {"kind": "classification", "data": {"kind": "files", **files, **(data or {})}, **(task or {})},
                "distill": {"student": {"layers": 1}, "objective": {"kind": "hidden"}, "max_length": 64},
                "finetune": {"max_length": 64, **changes},
                "register": {"name": "m", "gate": ["size_mb <= 1"], "allow_dirty": True},
            }
        )

    return config


def refused(config: RunConfig, root: Path) -> str:
    """The message; nothing was made."""
    place = Workspace.open(root / "work")
    with pytest.raises((BadRequest, BadArtifact)) as caught:
        run(config, place, reporter=Silent())
    assert not [*(place.root / "artifacts").glob("*")]
    return str(caught.value)


def test_a_teacher_of_other_labels(make: Make, tmp_path: Path) -> None:
    tuned = tuned_folder(tmp_path / "tuned", "bert", Fitted("classification", LABELS[::-1]), layers=1)
    told = refused(make(distill_from=str(tuned)), tmp_path)
    assert told.startswith("finetune.distill_from: the teacher's labels are not the task's: number 0 is ")


def test_a_test_split_that_is_not_there(make: Make, tmp_path: Path) -> None:
    assert "none.jsonl" in refused(make(data={"test": str(tmp_path / "none.jsonl")}), tmp_path)


def test_texts_outside_that_are_not_there(make: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "outside.jsonl")
    outside = {"kind": "files", "train": str(tmp_path / "train.jsonl"), "test": path}
    assert "outside.jsonl" in refused(make(task={"refusal": {"data": outside}}), tmp_path)


def test_a_label_that_train_does_not_have(make: Make, tmp_path: Path) -> None:
    write_rows(tmp_path / "dev.jsonl", [{"text": "so so", "label": "middling"}] * 3)
    assert "middling" in refused(make(), tmp_path)
