"""finetune as a stage, for the student (an artifact) and for the teacher (a source)."""

import json
from pathlib import Path
from typing import Any

import pytest
from models import LABELS
from pydantic import ValidationError

from pipeline.artifact import Artifact
from pipeline.encoders.teachers import load_tokenizer
from pipeline.graph import Inputs
from pipeline.stages.finetune import FinetuneConfig


def test_it_leaves_a_classifier_with_labels_and_the_length_it_was_trained_for(chain: Any) -> None:
    path = chain.finetuned.path

    config = json.loads((path / "config.json").read_text())
    assert list(config["id2label"].values()) == list(LABELS)
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert load_tokenizer(path).model_max_length == 20
    assert (path / "evidence" / "curve.png").is_file()


def test_its_facts_are_counts_and_dev_scores_and_nothing_of_the_test_split(chain: Any) -> None:
    """The chain's task names a test split whose file does not exist."""
    facts = chain.finetuned.manifest.facts

    assert (facts["metric"], facts["train_texts"], facts["dev_texts"]) == ("accuracy", 230, 40)
    assert len(facts["dev_scores"]) == 2
    assert facts["best_epoch"] == 1 + facts["dev_scores"].index(max(facts["dev_scores"]))
    assert facts["schedule"] == {"epochs": 2, "batch_tokens": 128, "max_length": 20, "patience": 2, "seed": 0}


def test_the_same_step_leaves_the_same_bytes(chain: Any, tmp_path: Path) -> None:
    inputs = Inputs({"model": chain.distilled}, {"task": chain.task})
    again: Artifact = chain.finetune(inputs, "finetune-student", tmp_path)
    assert again.digest == chain.finetuned.digest


def test_a_teacher_is_fine_tuned_from_its_own_folder(chain: Any, tmp_path: Path) -> None:
    inputs = Inputs({}, {"model": chain.teacher, "task": chain.task})

    left: Artifact = chain.finetune(inputs, "finetune-teacher", tmp_path)

    assert json.loads((left.path / "config.json").read_text())["num_hidden_layers"] == 3
    assert left.manifest.facts["parameters"] > chain.finetuned.manifest.facts["parameters"]


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"patience": 0}, {"max_length": 513}, {"batch": 5}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FinetuneConfig.model_validate(settings)
