"""distill as a stage: what it refuses beforehand, what it leaves, and that it leaves the same twice."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import encoder_folder
from pydantic import ValidationError

from pipeline.artifact import Artifact
from pipeline.encoders.families import Shape
from pipeline.encoders.students import build_student
from pipeline.encoders.teachers import TeacherConfig, load_encoder, load_tokenizer, shape_in
from pipeline.errors import BadArtifact, BadRequest, Failure
from pipeline.stages.distill import DistillConfig, check


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherConfig:
    return TeacherConfig(source=str(encoder_folder(tmp_path_factory.mktemp("teacher") / "t", layers=2, width=48)))


def refusal(kind: type[Failure], teacher: TeacherConfig, cache: Path, **settings: Any) -> str:
    with pytest.raises(kind) as refused:
        check(DistillConfig.model_validate(settings), teacher, cache=cache)
    return str(refused.value)


def test_a_student_and_objective_that_fit_the_teacher_pass(teacher: TeacherConfig, tmp_path: Path) -> None:
    check(
        DistillConfig.model_validate(
            {"student": {"layers": 2, "width": 24, "heads": 4}, "objective": {"kind": "relation", "relation_heads": 12}}
        ),
        teacher,
        cache=tmp_path,
    )


def test_relation_heads_are_checked_before_anything_runs(teacher: TeacherConfig, tmp_path: Path) -> None:
    objective = {"kind": "relation", "relation_heads": 32}
    assert refusal(BadRequest, teacher, tmp_path, student={"layers": 2, "width": 32}, objective=objective) == (
        "distill.objective.relation_heads: 32 does not divide both the student's width 32 and the teacher's 48; "
        "these do: 1, 2, 4, 8, 16"
    )


@pytest.mark.parametrize("kind", ["relation", "hidden", "none"])
def test_a_student_that_would_copy_more_layers_than_there_are_is_refused(
    kind: str, teacher: TeacherConfig, tmp_path: Path
) -> None:
    assert refusal(BadRequest, teacher, tmp_path, student={"layers": 3}, objective={"kind": kind}) == (
        "layer mapping 'uniform': the student has 3 layers and the teacher only 2; "
        "set distill.student.layers to 2 or fewer"
    )


def test_a_teacher_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = TeacherConfig(source=str(tmp_path / "nowhere"))
    assert "there is no config.json in" in refusal(BadRequest, missing, tmp_path)


def test_a_teacher_whose_config_is_broken_is_refused(teacher: TeacherConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert "config.json is not JSON" in refusal(BadArtifact, TeacherConfig(source=str(tmp_path)), tmp_path)


def test_a_teacher_of_the_hub_is_not_fetched_for_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TeacherConfig, "folder", lambda *_: pytest.fail("fetched"))
    check(DistillConfig(), TeacherConfig(source="org/name"), cache=tmp_path)


@pytest.mark.parametrize("settings", [{"tokens": 0}, {"max_length": 1}, {"batch_tokens": 0}, {"steps": 5}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DistillConfig.model_validate(settings)


# -- what it leaves ----------------------------------------------------------------------------------------------------


def test_it_leaves_an_encoder_in_the_hubs_format_with_the_teachers_tokenizer(chain: Any) -> None:
    path = chain.distilled.path

    assert shape_in(path) == Shape(layers=2, width=32, heads=4, feed_forward=128)
    assert {file.name for file in path.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("evidence", "manifest.json"),
    }
    teachers = load_tokenizer(Path(chain.teacher.source))
    assert load_tokenizer(path)("a good story").input_ids == teachers("a good story").input_ids


def test_it_leaves_the_loss_curve_as_evidence(chain: Any) -> None:
    evidence = chain.distilled.path / "evidence"
    rows = [json.loads(line) for line in (evidence / "curve.jsonl").read_text().splitlines()]

    assert rows[0]["step"] == 1
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (evidence / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_its_facts_are_those_of_student_teacher_and_curve(chain: Any) -> None:
    facts = chain.distilled.manifest.facts
    last = json.loads((chain.distilled.path / "evidence" / "curve.jsonl").read_text().splitlines()[-1])

    student, teacher = load_encoder(chain.distilled.path), load_encoder(Path(chain.teacher.source))
    assert facts["parameters"] == sum(weight.numel() for weight in student.parameters())
    assert facts["teacher_parameters"] == sum(weight.numel() for weight in teacher.parameters())
    assert (facts["tokens"], facts["steps"], facts["final_loss"]) == (last["tokens"], last["step"], last["loss"])
    assert 2000 <= facts["tokens"] < 2000 + 256


def test_the_same_step_leaves_the_same_bytes(chain: Any, tmp_path: Path) -> None:
    """Keys below it use digests of what it made."""
    torch.rand(3)
    again: Artifact = chain.distill(tmp_path)
    assert again.digest == chain.distilled.digest


def test_another_seed_leaves_another_student(chain: Any, tmp_path: Path) -> None:
    other: Artifact = chain.distill(tmp_path, seed=1)
    assert other.digest != chain.distilled.digest


def test_without_an_objective_the_student_is_its_initialisation(chain: Any, tmp_path: Path) -> None:
    left: Artifact = chain.distill(tmp_path, objective={"kind": "none"})

    config = DistillConfig.model_validate({"student": {"layers": 2, "width": 32, "heads": 4}})
    wanted = build_student(load_encoder(Path(chain.teacher.source)), config.student, seed=0).state_dict()
    found = load_encoder(left.path).state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in found.items())
    assert left.manifest.facts["final_loss"] is None
    assert list((left.path / "evidence").iterdir()) == []
