"""What a fine-tuned teacher says of train: asked once, word by word where words are tagged, and only of this task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kinds import task_over
from models import LABELS, TAGS, Fitted, encoder_folder, task_of, tiny_encoder, tiny_tokenizer, tuned_folder
from pydantic import ValidationError

from pipeline import predicting
from pipeline.data.batches import tokenize
from pipeline.data.progress import silent
from pipeline.encoders.heads import load_tuned
from pipeline.encoders.sentences import Pooled, SentenceEncoder
from pipeline.encoders.teachers import load_tokenizer
from pipeline.errors import BadArtifact, BadRequest
from pipeline.predicting import seen_by
from pipeline.task_distillation import (
    Lessons,
    TaskDistillation,
    by_word,
    check_teacher,
    hidden_error,
    kept,
    lessons_from,
    projections_for,
    same_tokens,
)

TYPES = ("B-mood", "I-mood", "B-name", "I-name")
FITTED = {
    "classification": Fitted("classification", LABELS),
    "token-classification": Fitted("token-classification", ("O", *TYPES)),
    "embedding": Fitted("embedding", dimensions=48),
}
SETTINGS = TaskDistillation()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each teacher was asked about."""
    counts: list[int] = []
    real = predicting.predict

    def counted(model: Any, tokens: Any, **settings: Any) -> Any:
        counts.append(len(tokens))
        return real(model, tokens, **settings)

    monkeypatch.setattr(predicting, "predict", counted)
    return counts


def lessons_of(
    kind: str, root: Path, *, family: str = "bert", settings: TaskDistillation = SETTINGS, student: Any = None
) -> tuple[Lessons, Any, Any]:
    """Lessons of a random teacher of the kind in `root`, with the task and its data."""
    task = task_over(root, kind, train=10, dev=4)
    data = task.load(root / "cache", silent)
    folder = tuned_folder(root / "teacher", family, FITTED[kind], layers=1)
    seen = seen_by(task, data.train, student or tiny_tokenizer("bert"), max_length=24)
    kept_at = root / "lessons" / "one.npz"
    return lessons_from(folder, task, data, seen, settings=settings, max_length=24, kept_at=kept_at), task, data


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FITTED)
def test_a_lesson_is_what_the_teacher_answers_on_the_text_alone(kind: str, tmp_path: Path) -> None:
    lessons, task, data = lessons_of(kind, tmp_path, family="roberta" if kind == "classification" else "bert")

    folder = tmp_path / "teacher"
    teacher, tokenizer = load_tuned(folder, task, data.label_names), load_tokenizer(folder)
    places = task.places(data.train, tokenizer, max_length=24)
    assert len(lessons.outputs) == len(data.train.items)
    for i, (item, output) in enumerate(zip(data.train.items, lessons.outputs, strict=True)):
        ids = torch.tensor([tokenizer(item[0]).input_ids])
        with torch.inference_mode():
            alone = teacher(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy()
        np.testing.assert_allclose(output, alone if places is None else alone[places[i][:, 0]], atol=1e-5)
    assert lessons.teacher is None


def test_words_that_the_teacher_has_no_token_for_have_no_answer() -> None:
    outputs = [np.arange(8, dtype=np.float32).reshape(4, 2), np.ones((2, 2), np.float32)]

    rows = by_word(outputs, [np.array([[1, 3], [-1, -1], [3, 4]]), np.array([[-1, -1]])])

    np.testing.assert_array_equal(rows[0], [[2, 3], [np.nan, np.nan], [6, 7]])
    np.testing.assert_array_equal(rows[1], [[np.nan, np.nan]])
    assert not np.isnan(outputs[0]).any()  # what was asked is left as it was
    assert by_word(outputs, None) == outputs


def test_a_words_lesson_stands_at_the_students_first_sub_token_of_it() -> None:
    """Two words, of which the student cuts the first in three, and cannot read the first of the other text."""
    lessons = Lessons(SETTINGS, [np.array([[1, 2], [3, 4]], np.float32), np.array([[5, 6], [7, 8]], np.float32)])

    batch = lessons.batch([1, 0], [np.array([[-1, -1], [1, 2]]), np.array([[1, 4], [4, 5]])], length=6).numpy()

    none = [np.nan, np.nan]
    np.testing.assert_array_equal(batch[0], [none, [5, 6], none, none, [7, 8], none])
    np.testing.assert_array_equal(batch[1], [none, [3, 4], none, none, none, none])


def test_a_texts_lesson_is_its_own_row() -> None:
    lessons = Lessons(SETTINGS, [np.array([1, 2], np.float32), np.array([3, 4], np.float32)])

    assert lessons.batch([1, 0, 1], None, 0).tolist() == [[3, 4], [1, 2], [3, 4]]


def test_a_teacher_of_tags_may_cut_words_otherwise_than_its_student(tmp_path: Path) -> None:
    """Both spell names, in letters; what a lesson says is of the word."""
    lessons, task, data = lessons_of("token-classification", tmp_path, family="xlm-roberta")

    words = [len(each.words) for each in data.train.labels]
    places = task.places(data.train, tiny_tokenizer("bert"), max_length=24)
    theirs = task.places(data.train, tiny_tokenizer("xlm-roberta"), max_length=24)
    assert [len(output) for output in lessons.outputs] == words
    assert any((one != other).any() for one, other in zip(places, theirs, strict=True))
    batch = lessons.batch([0], places, length=24)[0]
    np.testing.assert_array_equal(batch[places[0][:, 0]], lessons.outputs[0])


# -- asked once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FITTED)
def test_what_was_asked_before_is_read(kind: str, tmp_path: Path, asked: list[int]) -> None:
    first, _, data = lessons_of(kind, tmp_path)
    again, _, _ = lessons_of(kind, tmp_path)

    assert asked == [len(data.train.items)]
    for one, other in zip(first.outputs, again.outputs, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype == np.float32


@pytest.mark.parametrize("ragged", [False, True])
def test_a_kept_file_is_whole_or_absent(ragged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = [np.full((n + 1, 2) if ragged else 2, n, np.float32) for n in range(3)]
    path, real = tmp_path / "lessons" / "one.npz", np.savez

    def cut(file: Any, **arrays: Any) -> None:
        real(file, **arrays)
        Path(file).write_bytes(Path(file).read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", cut)
    with pytest.raises(KeyboardInterrupt):
        kept(path, lambda: outputs)
    assert list(path.parent.iterdir()) == []

    monkeypatch.setattr(np, "savez", real)
    kept(path, lambda: outputs)
    read = kept(path, lambda: pytest.fail("asked again"))

    assert [file.name for file in path.parent.iterdir()] == ["one.npz"]
    assert all((one == other).all() and one.shape == other.shape for one, other in zip(outputs, read, strict=True))


def test_two_that_ask_the_same_at_once_leave_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is done while the other has written and not yet named its file."""
    path, outputs, real = tmp_path / "one.npz", [np.ones(2, np.float32)], np.savez

    def while_another_does(file: Any, **arrays: Any) -> None:
        real(file, **arrays)
        monkeypatch.setattr(np, "savez", real)
        kept(path, lambda: outputs)

    monkeypatch.setattr(np, "savez", while_another_does)
    kept(path, lambda: outputs)

    assert [file.name for file in tmp_path.iterdir()] == ["one.npz"]
    assert [row.tolist() for row in kept(path, lambda: pytest.fail("asked again"))] == [[1.0, 1.0]]


# -- another teacher ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fitted", "labels", "kind", "message"),
    [
        (
            Fitted("regression"),
            LABELS,
            "classification",
            "the teacher was fine-tuned for regression, and the task is classification; name a teacher of this task",
        ),
        (
            Fitted("classification", ("good", "bad")),
            ("bad", "good"),
            "classification",
            "the teacher's labels are not the task's: number 0 is 'good' there and 'bad' here (2 and 2 labels); give "
            "task.labels in the teacher's order, or fine-tune a teacher on this data",
        ),
        (
            Fitted("multi-label", ("a", "b", "c"), thresholds=(0.5,) * 3),
            ("a", "b"),
            "multi-label",
            "the teacher's labels are not the task's: number 2 is 'c' there and none here (3 and 2 labels); give "
            "task.labels in the teacher's order, or fine-tune a teacher on this data",
        ),
        (
            Fitted("token-classification", ("O", "B-a", "I-a")),
            ("O", "B-a", "I-a", "B-b", "I-b"),
            "token-classification",
            "the teacher's labels are not the task's: number 3 is none there and 'B-b' here (3 and 5 labels); give "
            "task.labels in the teacher's order, or fine-tune a teacher on this data",
        ),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    fitted: Fitted, labels: tuple[str, ...], kind: str, message: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        check_teacher(fitted, labels, kind=kind)
    assert str(refused.value) == f"finetune.distill_from: {message}"
    assert refused.value.exit_code == 64


@pytest.mark.parametrize("fitted", FITTED.values(), ids=FITTED)
def test_a_teacher_of_the_task_is_not(fitted: Fitted) -> None:
    check_teacher(fitted, list(fitted.labels), kind=fitted.kind)


def test_a_teacher_is_refused_before_it_is_read_or_asked(tmp_path: Path, asked: list[int]) -> None:
    task = task_over(tmp_path, "classification", train=8, dev=4)
    data = task.load(tmp_path / "cache", silent)
    folder = tuned_folder(tmp_path / "teacher", "bert", Fitted("token-classification", TAGS), layers=1)
    (folder / "model.safetensors").unlink()
    seen: Any = None

    with pytest.raises(BadRequest, match="was fine-tuned for token-classification, and the task is classification"):
        lessons_from(folder, task, data, seen, settings=SETTINGS, max_length=24, kept_at=tmp_path / "one.npz")
    assert not asked


def test_a_folder_that_does_not_say_what_it_was_fine_tuned_for_is_no_teacher(tmp_path: Path) -> None:
    folder, seen = encoder_folder(tmp_path / "plain", layers=1), None
    task = task_over(tmp_path, "classification", train=8, dev=4)
    data: Any = task.load(tmp_path / "cache", silent)

    with pytest.raises(BadArtifact) as refused:
        lessons_from(folder, task, data, seen, settings=SETTINGS, max_length=24, kept_at=tmp_path / "one.npz")  # type: ignore[arg-type]
    told = str(refused.value)
    assert told.startswith(f"{folder / 'task.json'} does not say what the model was fine-tuned for: ")


# -- hidden states -----------------------------------------------------------------------------------------------------


def test_with_hidden_states_the_teacher_comes_along(tmp_path: Path) -> None:
    lessons, _, _ = lessons_of("classification", tmp_path, settings=TaskDistillation(hidden=0.1))

    assert lessons.teacher.config.num_hidden_layers == 1
    assert not lessons.teacher.training


def pruned() -> Any:
    """The same texts, other ids."""
    from transformers import BertTokenizer

    pieces = sorted(tiny_tokenizer("bert").vocab.items(), key=lambda piece: piece[1])
    return BertTokenizer(vocab={piece: place for place, (piece, _) in enumerate(pieces[:5] + pieces[9:])})


@pytest.mark.parametrize("student", [pruned, lambda: tiny_tokenizer("roberta")], ids=["pruned", "of another kind"])
def test_hidden_states_of_a_student_that_reads_other_tokens_are_refused(student: Any, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        lessons_of("classification", tmp_path, settings=TaskDistillation(hidden=0.1), student=student())
    assert str(refused.value) == (
        "finetune.distillation.hidden: the student reads other tokens than its teacher (its vocabulary was pruned, or "
        "the teacher is of another kind), so their states do not stand side by side; set it to 0"
    )


@pytest.mark.parametrize(("mine", "theirs", "same"), [("a b", "a b", True), ("a b", "a c", False), ("a b", "a", False)])
def test_tokens_are_the_same_where_every_id_is(mine: str, theirs: str, same: bool) -> None:
    one, other = (tokenize([(text,)], tokenizer=tiny_tokenizer("bert"), max_length=24) for text in (mine, theirs))
    assert same_tokens(one, other) == same


def test_the_error_of_hidden_states_is_a_mean_over_each_texts_own_tokens() -> None:
    """Student layers 1 and 2 beside teacher layers 2 and 4, by the plain formula over each text without its padding."""
    torch.manual_seed(0)
    lengths = (3, 5)
    of, to = [torch.randn(2, 5, 4) for _ in range(3)], [torch.randn(2, 5, 6) for _ in range(5)]
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    maps = [torch.nn.Linear(4, 6, bias=False) for _ in range(2)]

    found = hidden_error(of, to, mask, maps)

    wanted = 0.0
    for text, length in enumerate(lengths):
        for (i, j), learned in zip(((1, 2), (2, 4)), maps, strict=True):
            squares = (of[i][text, :length] @ learned.weight.T - to[j][text, :length]) ** 2
            wanted += float(squares.mean().detach()) / 2
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)


# -- projections -------------------------------------------------------------------------------------------------------


def projected(kind: str, *, mine: int, theirs: int, hidden: bool) -> dict[str, Any]:
    task, encoder = task_of(kind), tiny_encoder("bert", layers=2, width=mine)
    student = SentenceEncoder(encoder, Pooled("mean", normalize=True)) if kind == "embedding" else encoder
    width = theirs if kind == "embedding" else 2
    teacher = tiny_encoder("bert", layers=4, width=theirs) if hidden else None
    return projections_for(student, task, Lessons(SETTINGS, [np.zeros(width, np.float32)], teacher))


@pytest.mark.parametrize(
    ("kind", "mine", "theirs", "hidden", "wanted"),
    [
        ("classification", 32, 48, False, {}),
        ("classification", 32, 48, True, {"hidden": [(48, 32), (48, 32)]}),
        ("classification", 32, 32, True, {"hidden": [None, None]}),
        ("embedding", 32, 32, False, {}),
        ("embedding", 32, 48, False, {"output": (48, 32)}),
        ("embedding", 32, 48, True, {"output": (48, 32), "hidden": [(48, 32), (48, 32)]}),
    ],
)
def test_there_are_maps_where_widths_differ_and_nowhere_else(
    kind: str, mine: int, theirs: int, hidden: bool, wanted: dict[str, Any]
) -> None:
    found = projected(kind, mine=mine, theirs=theirs, hidden=hidden)

    def shape(module: Any) -> Any:
        return tuple(module.weight.shape) if hasattr(module, "weight") else None

    assert {
        name: shape(each) if name == "output" else [shape(one) for one in each] for name, each in found.items()
    } == wanted


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"weight": 0}, {"weight": 1.1}, {"hidden": -1}, {"alpha": 1}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TaskDistillation.model_validate(settings)
