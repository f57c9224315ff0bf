"""Distilling tiny students: what is trained, what is left alone, several in one pass, and what a kill changes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import sentences, text_batch, tiny_encoder, tiny_masked_lm, tiny_tokenizer
from pydantic import TypeAdapter

from pipeline.checkpoints import Checkpoints
from pipeline.data.feed import Feed, describe
from pipeline.data.layout import Masked
from pipeline.data.masking import Masking
from pipeline.data.stream import Portion, TextStream
from pipeline.distillation.attention_objectives import RelationObjective
from pipeline.distillation.objectives import HiddenObjective, Objective, OutputObjective
from pipeline.distillation.train import How, Pupil, Teacher, distill
from pipeline.encoders.students import StudentConfig, build_student
from pipeline.errors import BadRequest
from pipeline.optimization import Optimization
from pipeline.progress import Silent
from pipeline.training import Row

RELATION, HIDDEN = RelationObjective(relation_heads=8), HiddenObjective()
SMALL = StudentConfig(layers=2, width=32, heads=4, init="random")
TEXTS = sentences(60)
TIMED = {"tokens_per_s", "seconds"}


def feed(
    texts: Sequence[str] = TEXTS, *, masking: Masking | None = None, micro_batches: int = 1, packed: bool = False
) -> Feed:
    """Steps of 128 positions from the texts, in windows of some 200 tokens."""
    tokenizer = tiny_tokenizer("bert")
    portion = Portion(
        batch_tokens=128,
        max_length=16,
        micro_batches=micro_batches,
        seed=0,
        packed=packed,
        masking=masking,
        shuffle_tokens=200,
    )
    return Feed(
        lambda position: TextStream(lambda: iter(texts), tokenizer, portion, position=position), tokenizer=tokenizer
    )


def pupil(
    teacher: Any, objective: Any, *, tokens: int = 4000, rate: float = 3e-3, config: StudentConfig = SMALL
) -> Pupil:
    student = build_student(teacher, config, seed=1)
    return Pupil(student, objective, Optimization(learning_rate=rate), tokens, seed=2)


def run(
    pupils: Mapping[str, Pupil],
    teacher: Teacher,
    folder: Path,
    *,
    source: Feed | None = None,
    every_s: float = 1e9,
    how: How = How("fp32"),  # noqa: B008
) -> dict[str, list[Row]]:
    with source or feed() as steps:
        checkpoints = Checkpoints(folder, every_s=every_s)
        return distill(teacher, pupils, steps, how=how, checkpoints=checkpoints, reporter=Silent())


def distilled(
    objective: Any, folder: Path, *, tokens: int = 4000, every_s: float = 1e9, source: Feed | None = None
) -> tuple[Any, Any, list[Row]]:
    """(teacher, student, history) after a short distillation into a narrower, shallower student."""
    teacher = tiny_encoder(layers=3, width=48)
    one = pupil(teacher, objective, tokens=tokens)
    history = run({"student": one}, Teacher(teacher), folder, every_s=every_s, source=source)["student"]
    return teacher, one.encoder, history


def untimed(rows: Sequence[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())


@pytest.mark.parametrize("objective", [RELATION, HIDDEN], ids=["relation", "hidden"])
def test_the_student_learns_and_the_teacher_stays_as_it_was(objective: Any, tmp_path: Path) -> None:
    teacher, _, history = distilled(objective, tmp_path)

    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert same(teacher, tiny_encoder(layers=3, width=48))


def test_agreement_with_the_teacher_is_watched_and_rises(tmp_path: Path) -> None:
    _, _, history = distilled(HIDDEN, tmp_path)
    assert history[-1]["agreement/hidden_2_3"] > history[0]["agreement/hidden_2_3"] + 0.2
    assert all(row["agreement/hidden_2_3"] <= 1 for row in history)


def test_a_student_of_output_distributions_learns_and_its_head_begins_as_its_teachers(tmp_path: Path) -> None:
    teacher = tiny_masked_lm(layers=3, width=48)
    one = pupil(teacher.base_model, OutputObjective(temperature=1))

    history = run({"a": one}, Teacher(teacher.base_model, teacher), tmp_path, source=feed(masking=Masking()))["a"]

    assert history[-1]["output"] < 0.8 * history[0]["output"]
    assert same(teacher, tiny_masked_lm(layers=3, width=48))


def test_the_student_is_whole_again_afterwards_and_carries_no_projections(tmp_path: Path) -> None:
    _, student, _ = distilled(HIDDEN, tmp_path, tokens=300)

    whole = tiny_encoder(layers=2, width=32, feed_forward=128)
    assert list(student.state_dict()) == list(whole.state_dict())
    assert student.pooler is not None


def test_what_relations_do_not_read_keeps_its_initialisation(tmp_path: Path) -> None:
    _, student, _ = distilled(RELATION, tmp_path, tokens=600)

    fresh = build_student(tiny_encoder(layers=3, width=48), SMALL, seed=1).state_dict()
    changed = {name for name, weight in student.state_dict().items() if not torch.equal(weight, fresh[name])}
    assert "encoder.layer.1.attention.self.value.weight" in changed
    assert "encoder.layer.0.output.dense.weight" in changed
    assert not any(
        name.startswith(("pooler", "encoder.layer.1.output", "encoder.layer.1.intermediate")) for name in changed
    )


def test_every_row_of_the_curve_names_its_terms(tmp_path: Path) -> None:
    _, _, history = distilled(RELATION, tmp_path, tokens=600)
    assert {"query", "key", "value", "loss", "step", "tokens", "padding_share"} <= history[0].keys()
    assert history[-1]["loss"] == pytest.approx(sum(history[-1][name] for name in ("query", "key", "value")))
    assert 600 <= history[-1]["tokens"] < 600 + 128
    assert 0 <= history[-1]["padding_share"] < 0.3


def test_a_checkpoint_holds_no_teacher(tmp_path: Path) -> None:
    distilled(HIDDEN, tmp_path, tokens=300, every_s=0)

    state = Checkpoints(tmp_path).latest()

    assert state is not None
    names = set(state["parts"]["student"]["module"])
    assert {name.partition(".")[0] for name in names} == {"student", "projections"}
    sizes = sum(weight.numel() for weight in state["parts"]["student"]["module"].values())
    student = build_student(tiny_encoder(layers=3, width=48), SMALL, seed=1)
    assert sizes == sum(w.numel() for n, w in student.named_parameters() if "pooler" not in n) + 2 * 32 * 48


# -- several students of one pass --------------------------------------------------------------------------------------


def test_students_of_one_pass_equal_separate_runs_each_with_its_own_objective_rate_and_length(tmp_path: Path) -> None:
    teacher = tiny_encoder(layers=3, width=48)
    wide = StudentConfig(layers=1, width=48, heads=4, feed_forward=64, init="teacher-layers")

    def pupils() -> dict[str, Pupil]:
        return {
            "relations": pupil(teacher, RELATION, tokens=1500),
            "states": pupil(teacher, HiddenObjective(mapping="uniform+last"), tokens=2500, rate=1e-3),
            "wide": pupil(teacher, RelationObjective(relation_heads=12, teacher_layer=2), tokens=2000, config=wide),
        }

    together = pupils()
    histories = run(together, Teacher(teacher), tmp_path / "together")

    for name, alone in pupils().items():
        history = run({name: alone}, Teacher(teacher), tmp_path / name)[name]
        for weight, wanted in zip(together[name].encoder.parameters(), alone.encoder.parameters(), strict=True):
            torch.testing.assert_close(weight, wanted, atol=1e-6, rtol=1e-5)
        assert histories[name][-1]["tokens"] == history[-1]["tokens"]
        assert histories[name][-1]["loss"] == pytest.approx(history[-1]["loss"], rel=1e-4)


@pytest.mark.parametrize("name", ["half", "values", "train", "type"])
def test_a_student_may_be_called_what_torch_calls_its_own(name: str, tmp_path: Path) -> None:
    teacher = tiny_encoder(layers=3, width=48)
    assert run({name: pupil(teacher, HIDDEN, tokens=100)}, Teacher(teacher), tmp_path)[name]


def test_one_pass_runs_the_teacher_once_for_all(tmp_path: Path) -> None:
    teacher = tiny_encoder(layers=3, width=48)
    seen: list[int] = []
    teacher.embeddings.register_forward_hook(lambda *_: seen.append(1))
    pupils = {name: pupil(teacher, RELATION, tokens=500) for name in ("a", "b")}

    steps = run(pupils, Teacher(teacher), tmp_path)["a"][-1]["step"]

    assert len(seen) == steps


# -- killed and resumed ------------------------------------------------------------------------------------------------


class KilledAt(Feed):
    """A feed whose n-th step never comes."""

    def __init__(self, of: Feed, last: int) -> None:
        self.__dict__.update(of.__dict__)
        self._left = last

    def step_at(self, step: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().step_at(step)


@pytest.mark.parametrize("killed_at", [1, 8, 13])
@pytest.mark.parametrize("kind", ["hidden", "output", "packed"])
def test_a_killed_distillation_goes_on_to_the_very_same_student(kind: str, killed_at: int, tmp_path: Path) -> None:
    """The stream too: several windows and epochs of text, and what is masked."""

    def source() -> Feed:
        return feed(masking=Masking() if kind == "output" else None, packed=kind == "packed")

    def train(folder: str, steps: Feed) -> tuple[Any, list[Row]]:
        teacher = tiny_masked_lm(layers=3, width=48)
        one = pupil(teacher.base_model, OutputObjective() if kind == "output" else HIDDEN, tokens=2000)
        rows = run({"a": one}, Teacher(teacher.base_model, teacher), tmp_path / folder, every_s=0, source=steps)
        return one.encoder, rows["a"]

    wanted, history = train("whole", source())
    with pytest.raises(KeyboardInterrupt):
        train("cut", KilledAt(source(), killed_at))
    resumed, found = train("cut", source())

    assert same(resumed, wanted)
    assert untimed(found) == untimed(history)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_documents_of_its_step(tmp_path: Path) -> None:
    teacher = tiny_encoder(layers=3, width=48)
    with torch.no_grad():
        teacher.embeddings.word_embeddings.weight[teacher_word("plot")] = float("nan")
    texts = ["a good story and a sad actor"] * 30 + ["the dull plot"] + ["a good story and a sad actor"] * 30

    with pytest.raises(BadRequest) as refused:
        run({"a": pupil(teacher, HIDDEN)}, Teacher(teacher), tmp_path, source=feed(texts))

    assert "distill: the loss is nan at step " in str(refused.value)
    assert '30 ("the dull plot...")' in str(refused.value)


def teacher_word(word: str) -> int:
    return int(tiny_tokenizer("bert").convert_tokens_to_ids(word))


def test_documents_are_named_by_number_and_first_words() -> None:
    batch = text_batch("bert", ["a good story", "the plot of a slow and sad film", "great", "fine", "bad", "dull"])
    assert describe([batch], tiny_tokenizer("bert")).startswith('documents 0 ("a good story..."), 1 ("the plot ')
    assert describe([batch], tiny_tokenizer("bert")).endswith(', 3 ("fine..."), and 2 more')
    assert describe([text_batch("bert", ["great"])], tiny_tokenizer("bert")) == 'documents 0 ("great...")'


def test_what_is_masked_is_named_as_it_was() -> None:
    batch = text_batch("bert", ["a good story", "great"])
    ids_RC = batch.input_ids_RC.copy()
    masked = Masked(np.array([2]), ids_RC.reshape(-1)[[2]], np.array([0]))
    ids_RC[0, 2] = tiny_tokenizer("bert").mask_token_id

    told = describe([replace(batch, input_ids_RC=ids_RC, masked=masked)], tiny_tokenizer("bert"))

    assert told == 'documents 0 ("a good story..."), 1 ("great...")'


# -- how it is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"kind": "relation", "relation_heads": 8}, {"kind": "hidden"}])
def test_bf16_trains_to_nearly_the_same_loss(settings: dict[str, Any], tmp_path: Path) -> None:
    teacher = tiny_encoder(layers=3, width=48, initializer_range=0.1)
    losses = []
    for precision in ("fp32", "bf16"):
        one = pupil(teacher, TypeAdapter(Objective).validate_python(settings), tokens=2000)
        losses.append(run({"a": one}, Teacher(teacher), tmp_path / precision, how=How(precision))["a"][-1]["loss"])  # type: ignore[arg-type]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[1] != losses[0]
