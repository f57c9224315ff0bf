"""Distilling a tiny student: what is trained, what is left alone, and what a step sees."""

from pathlib import Path
from typing import Any

import pytest
import torch
from models import sentences, tiny_encoder, tiny_tokenizer

from pipeline.data.batches import Tokens, tokenize
from pipeline.distillation.objectives import HiddenObjective, RelationObjective
from pipeline.distillation.train import Recipe, batch_plan, distill
from pipeline.encoders.students import StudentConfig, build_student
from pipeline.errors import BadArtifact, BadRequest
from pipeline.progress import Silent
from pipeline.training import Checkpoints, Optimization

RELATION, HIDDEN = RelationObjective(relation_heads=8), HiddenObjective()


@pytest.fixture(scope="module")
def text() -> Tokens:
    return tokenize([(text,) for text in sentences(60)], tokenizer=tiny_tokenizer("bert"), max_length=16)


def distilled(
    text: Tokens, objective: Any, folder: Path, *, tokens: int = 4000, every_s: float = 1e9
) -> tuple[Any, Any, list[dict[str, float]]]:
    """(teacher, student, history) after a short distillation into a narrower, shallower student."""
    teacher = tiny_encoder(layers=3, width=48)
    student = build_student(teacher, StudentConfig(layers=2, width=32, heads=4, init="random"), seed=1)
    optimization = Optimization(learning_rate=3e-3)
    recipe = Recipe(objective=objective, tokens=tokens, batch_tokens=128, seed=0, optimization=optimization)
    checkpoints = Checkpoints(folder, every_s=every_s)
    history = distill(teacher, student, text, recipe, pad_id=0, checkpoints=checkpoints, reporter=Silent())
    return teacher, student, history


@pytest.mark.parametrize("objective", [RELATION, HIDDEN], ids=["relation", "hidden"])
def test_the_student_learns_and_the_teacher_stays_as_it_was(objective: Any, text: Tokens, tmp_path: Path) -> None:
    teacher, _, history = distilled(text, objective, tmp_path)

    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    untouched = tiny_encoder(layers=3, width=48).state_dict()
    assert all(torch.equal(weight, untouched[name]) for name, weight in teacher.state_dict().items())


def test_the_student_is_whole_again_afterwards_and_carries_no_projections(text: Tokens, tmp_path: Path) -> None:
    _, student, _ = distilled(text, HIDDEN, tmp_path, tokens=300)

    whole = tiny_encoder(layers=2, width=32, feed_forward=128)
    assert list(student.state_dict()) == list(whole.state_dict())
    assert student.pooler is not None


def test_what_relations_do_not_read_keeps_its_initialisation(text: Tokens, tmp_path: Path) -> None:
    _, student, _ = distilled(text, RELATION, tmp_path, tokens=600)

    config = StudentConfig(layers=2, width=32, heads=4, init="random")
    fresh = build_student(tiny_encoder(layers=3, width=48), config, seed=1).state_dict()
    changed = {name for name, weight in student.state_dict().items() if not torch.equal(weight, fresh[name])}
    assert "encoder.layer.1.attention.self.value.weight" in changed
    assert "encoder.layer.0.output.dense.weight" in changed
    assert not any(
        name.startswith(("pooler", "encoder.layer.1.output", "encoder.layer.1.intermediate")) for name in changed
    )


def test_every_row_of_the_curve_names_its_terms(text: Tokens, tmp_path: Path) -> None:
    _, _, history = distilled(text, RELATION, tmp_path, tokens=600)
    assert {"query", "key", "value", "loss", "step", "tokens"} <= history[0].keys()
    assert history[-1]["loss"] == pytest.approx(sum(history[-1][name] for name in ("query", "key", "value")))
    assert 600 <= history[-1]["tokens"] < 600 + 128


def test_a_killed_distillation_goes_on_to_the_very_same_student(
    text: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wanted, _ = distilled(text, HIDDEN, tmp_path / "whole", tokens=1500)
    real, asked = Tokens.batch, []

    def batch_of_a_process_killed_at_the_eighth(self: Tokens, rows: list[int], *, pad_id: int) -> Any:
        asked.append(rows)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return real(self, rows, pad_id=pad_id)

    monkeypatch.setattr(Tokens, "batch", batch_of_a_process_killed_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        distilled(text, HIDDEN, tmp_path / "cut", tokens=1500, every_s=0)
    _, resumed, _ = distilled(text, HIDDEN, tmp_path / "cut", tokens=1500, every_s=0)

    assert asked[7] == asked[8]  # the step that was not finished, and none before it
    assert all(torch.equal(weight, wanted.state_dict()[name]) for name, weight in resumed.state_dict().items())


# -- the plan of batches -----------------------------------------------------------------------------------------------


def test_the_plan_uses_up_the_tokens_asked_for_and_not_a_batch_more() -> None:
    lengths = [3, 9, 4, 7, 5] * 4
    plan = batch_plan(lengths, tokens=400, batch_tokens=20, seed=0)
    used = [sum(lengths[row] for row in rows) for rows in plan]
    assert sum(used) >= 400 > sum(used[:-1])


def test_the_plan_sees_every_text_once_an_epoch() -> None:
    lengths = [3, 9, 4, 7, 5] * 4
    plan = batch_plan(lengths, tokens=2 * sum(lengths), batch_tokens=20, seed=0)
    rows = [row for batch in plan for row in batch]
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20))


def test_the_plan_depends_on_the_seed_alone() -> None:
    lengths = [3, 9, 4, 7, 5] * 4
    plans = [batch_plan(lengths, tokens=200, batch_tokens=20, seed=seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


def test_text_that_gives_no_tokens_is_refused() -> None:
    with pytest.raises(BadArtifact) as refused:
        batch_plan([], tokens=10, batch_tokens=8, seed=0)
    assert str(refused.value) == "the distillation text is empty after tokenization; check the `text` source"


def test_a_text_longer_than_a_batch_is_refused() -> None:
    with pytest.raises(BadRequest, match="an example of 9 tokens does not fit a batch of 8"):
        batch_plan([3, 9], tokens=10, batch_tokens=8, seed=0)
