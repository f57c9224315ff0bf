"""distill as a stage: what it refuses beforehand, what it leaves, and that it leaves the same twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import encoder_folder, masked_lm_folder
from pydantic import TypeAdapter, ValidationError

from pipeline.artifact import Artifact
from pipeline.data.corpus import CorpusSource
from pipeline.encoders.families import Shape
from pipeline.encoders.masked_lm import has_mlm_head
from pipeline.encoders.students import build_student
from pipeline.encoders.teachers import load_encoder, load_tokenizer, read_config, shape_in
from pipeline.errors import BadRequest
from pipeline.graph import Inputs, Tools
from pipeline.progress import Silent
from pipeline.stages import distill
from pipeline.stages.distill import DistillConfig, check


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("teacher") / "t", layers=2, width=48)


def checked(folder: Path, **settings: Any) -> None:
    """The check, as a plan makes it of a local teacher."""
    check(
        DistillConfig.model_validate(settings),
        read_config(folder),
        shape_in(folder),
        teacher="the-teacher",
        masked_lm=has_mlm_head(folder),
    )


def refusal(folder: Path, **settings: Any) -> str:
    with pytest.raises(BadRequest) as refused:
        checked(folder, **settings)
    return str(refused.value)


HEADS_12 = {"kind": "relation", "relation_heads": 12}
NARROW = {"layers": 2, "width": 24, "heads": 4}


def test_a_student_and_objective_that_fit_the_teacher_pass(folder: Path) -> None:
    checked(folder, student=NARROW, objective=HEADS_12)


def test_relation_heads_are_checked_before_anything_runs(folder: Path) -> None:
    objective = {"kind": "relation", "relation_heads": 32}
    assert refusal(folder, student={"layers": 2, "width": 32}, objective=objective) == (
        "distill.objective.relation_heads: 32 does not divide both the student's width 32 and the teacher's 48; "
        "these do: 1, 2, 4, 8, 16"
    )


@pytest.mark.parametrize("kind", ["relation", "hidden", "none"])
def test_a_student_that_would_copy_more_layers_than_there_are_is_refused(kind: str, folder: Path) -> None:
    assert refusal(folder, student={"layers": 3}, objective={"kind": kind}) == (
        "layer mapping 'uniform': the student has 3 layers and the teacher only 2; "
        "set distill.student.layers to 2 or fewer"
    )


def test_output_distributions_of_a_teacher_without_a_head_are_refused_with_what_gives_it_one(folder: Path) -> None:
    said = refusal(folder, student={"layers": 2}, objective={"kind": "output"})
    assert said.startswith("teacher 'the-teacher' has no masked-language-model head")
    assert "`retort pretrain CONFIG`" in said


def test_a_teacher_with_a_head_may_teach_its_output_distribution(tmp_path: Path) -> None:
    checked(masked_lm_folder(tmp_path / "t"), student={"layers": 2}, objective={"kind": "output"})


def test_relations_of_a_sliding_window_layer_are_refused_with_the_layers_that_can_be_read(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "modern", "modernbert", layers=5)
    config = read_config(folder)
    kinds = config["layer_types"]
    allowed = [i for i, kind in enumerate(kinds, start=1) if kind == "full_attention"]
    sliding = next(i for i, kind in enumerate(kinds, start=1) if kind != "full_attention")
    said = refusal(
        folder, student={"layers": 1}, objective={"kind": "relation", "relation_heads": 8, "teacher_layer": sliding}
    )
    assert str(sliding) in said
    assert ", ".join(map(str, allowed)) in said


def test_of_several_students_the_one_that_cannot_be_is_named(folder: Path) -> None:
    students = {"good": {"objective": HEADS_12}, "odd": {"objective": {"kind": "hidden", "mapping": [[1, 5]]}}}
    assert refusal(folder, student=NARROW, students=students) == (
        "distill.students.odd: distill.objective.mapping: the pair [1, 5] (student layer, teacher layer) names teacher "
        "layer 5, and the teacher has 2 layers"
    )


def test_a_student_is_not_called_teacher(folder: Path) -> None:
    assert refusal(folder, student=NARROW, students={"teacher": {"objective": HEADS_12}}) == (
        "distill.students.teacher: that is the teacher's own name; call the student otherwise"
    )


def test_each_student_has_its_own_settings_and_else_the_common_ones() -> None:
    config = DistillConfig.model_validate(
        {
            "tokens": 1000,
            "student": NARROW,
            "optimization": {"learning_rate": 0.1},
            "students": {"a": {"tokens": 500}, "b": {"student": {"layers": 1}, "objective": {"kind": "hidden"}}},
        }
    )
    each = config.each()

    assert list(each) == ["a", "b"]
    assert (each["a"].tokens, each["b"].tokens) == (500, 1000)
    assert (each["a"].student.width, each["b"].student.width) == (24, 24)
    assert (each["a"].student.layers, each["b"].student.layers) == (2, 1)
    assert (each["a"].objective.kind, each["b"].objective.kind) == ("relation", "hidden")
    assert {one.optimization.learning_rate for one in each.values()} == {0.1}
    assert all(one.students == {} for one in each.values())
    assert DistillConfig().each() == {"student": DistillConfig()}


@pytest.mark.parametrize(
    "settings", [{"tokens": 0}, {"max_length": 1}, {"batch_tokens": 0}, {"steps": 5}, {"students": {"A b": {}}}]
)
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
    assert "<svg" in (evidence / "report.html").read_text()


def test_its_facts_are_those_of_student_teacher_and_curve(chain: Any) -> None:
    facts = chain.distilled.manifest.facts
    last = json.loads((chain.distilled.path / "evidence" / "curve.jsonl").read_text().splitlines()[-1])

    student, teacher = load_encoder(chain.distilled.path), load_encoder(Path(chain.teacher.source))
    assert facts["parameters"] == sum(weight.numel() for weight in student.parameters())
    assert facts["teacher_parameters"] == sum(weight.numel() for weight in teacher.parameters())
    assert (facts["tokens"], facts["steps"], facts["final_loss"]) == (last["tokens"], last["step"], last["loss"])
    assert 2000 <= facts["tokens"] < 2000 + 256
    assert facts["vocabulary"] == facts["teacher_vocabulary"] == teacher.config.vocab_size
    assert facts["relation_kl"] in ("compiled", "torch")


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


# -- several students, and a vocabulary of their own -------------------------------------------------------------------


def together(chain: Any, seal: Any, root: Path, settings: dict[str, Any]) -> dict[str, Artifact]:
    """The students of a config in one pass, as the runner makes it."""
    config = DistillConfig.model_validate(settings)
    tools = Tools("key", root, root / "cache", root / "checkpoints", Silent())
    jobs = []
    for name, each in config.each().items():
        out = root / name
        (out / "evidence").mkdir(parents=True)
        jobs.append((each, out, replace(tools, label=f"distill-{name}")))
    inputs = Inputs({}, {"teacher": chain.teacher, "text": chain.text})
    facts = distill.together(jobs, inputs)
    return {
        name: seal(out, label=f"distill-{name}", facts=told)
        for (name, (_, out, _)), told in zip(zip(config.each(), jobs, strict=True), facts, strict=True)
    }


COMMON = {"student": {"layers": 2, "width": 32, "heads": 4}, "batch_tokens": 256, "max_length": 16, "tokens": 2000}


def test_students_of_one_pass_are_those_of_separate_runs(chain: Any, seal: Any, tmp_path: Path) -> None:
    students = {
        "attentive": {"objective": {"kind": "relation", "relation_heads": 8}},
        "plain": {"objective": {"kind": "none"}},
        "stateful": {"objective": {"kind": "hidden"}, "tokens": 1000, "student": {"layers": 1}},
    }
    found = together(chain, seal, tmp_path, {**COMMON, "students": students})

    for name, settings in students.items():
        alone: Artifact = chain.distill(
            tmp_path / "alone" / name,
            **{**COMMON, **settings, "student": {**COMMON["student"], **settings.get("student", {})}},
        )
        weights, wanted = load_encoder(found[name].path).state_dict(), load_encoder(alone.path).state_dict()
        assert weights.keys() == wanted.keys()
        for key, weight in weights.items():
            torch.testing.assert_close(weight, wanted[key], atol=1e-4, rtol=1e-3)
        assert found[name].manifest.facts["in_one_pass_with"] == sorted(students.keys() - {name})
        assert found[name].manifest.facts["tokens"] == alone.manifest.facts["tokens"]


def test_a_teacher_that_was_not_here_when_the_run_was_planned_is_checked_once_it_is(chain: Any, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"relation_heads: 7 does not divide both"):
        chain.distill(tmp_path, objective={"kind": "relation", "relation_heads": 7})
    with pytest.raises(BadRequest, match="has no masked-language-model head"):
        chain.distill(tmp_path / "other", objective={"kind": "output"})


def test_a_vocabulary_cut_to_the_text_leaves_a_smaller_student_that_reads_the_text_the_same(
    chain: Any, tmp_path: Path
) -> None:
    text = TypeAdapter(CorpusSource).validate_python({"kind": "files", "files": str(tmp_path / "few.txt")})
    (tmp_path / "few.txt").write_text("\n".join(["a good story", "the bad plot was good", "a sad story"] * 20))
    settings = {**COMMON, "objective": {"kind": "relation", "relation_heads": 8}, "vocabulary": {"kind": "corpus"}}
    inputs = Inputs({}, {"teacher": chain.teacher, "text": text})

    left: Artifact = chain.run("distill", "distill", DistillConfig.model_validate(settings), inputs, root=tmp_path)

    facts, config = left.manifest.facts, read_config(left.path)
    assert facts["vocabulary"] == config["vocab_size"] < facts["teacher_vocabulary"]
    teachers, students = load_tokenizer(Path(chain.teacher.source)), load_tokenizer(left.path)
    assert len(students) == facts["vocabulary"]
    for line in ("a good story", "the bad plot was good"):
        assert students.tokenize(line) == teachers.tokenize(line)
    embeddings = load_encoder(left.path).get_input_embeddings().weight
    assert len(embeddings) == facts["vocabulary"]
