"""Fine-tuning: every kind of task is learnt, from labels or from a teacher; the best epoch is kept, parts of a step and
an interruption change nothing, and the test split is not in reach.

The teacher's side is in test_task_distillation.py, the head in encoders/test_heads.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import kinds
import numpy as np
import pytest
import torch
from kinds import KINDS, task_over
from models import BAD, GOOD, encoder_folder, tiny_encoder, tiny_tokenizer
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from pipeline import finetuning
from pipeline.checkpoints import Checkpoints
from pipeline.data.batches import length_batches, tokenize
from pipeline.data.progress import silent
from pipeline.encoders.heads import load_for_task, load_tuned
from pipeline.encoders.sentences import Pooled, SentenceEncoder
from pipeline.encoders.teachers import load_encoder, load_tokenizer
from pipeline.errors import BadArtifact
from pipeline.finetuning import Outcome, as_it_is, checked_survey, finetune, finite
from pipeline.graph import Tools
from pipeline.optimization import Optimization
from pipeline.predicting import predict, seen_by
from pipeline.progress import Reporter, Silent
from pipeline.schedule import Schedule
from pipeline.task_distillation import Lessons, TaskDistillation
from pipeline.tasking.base import TUNING, Split, TaskData
from pipeline.tasks import TaskSplits
from serving.answers import probabilities

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BRISK = Optimization(learning_rate=1e-2)
GENTLE = Optimization(learning_rate=0.3, adam_eps=1.0)  # near to plain descent: rounding stays what it is
EPOCHS = {"classification": 4, "multi-label": 10, "regression": 20, "token-classification": 3, "embedding": 6}
GOOD_ENOUGH = {
    "classification": 0.95,
    "multi-label": 0.9,
    "regression": 0.7,
    "token-classification": 0.9,
    "embedding": 0.7,
}
LEARNT = KINDS[:-1]  # an embedding learns from a teacher alone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoder") / "bert", layers=1, width=32, initializer_range=0.2)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout: what is learnt depends on the data alone."""
    return encoder_folder(tmp_path_factory.mktemp("still") / "bert", layers=2, width=32, initializer_range=0.2, **STILL)


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on every machine."""
    monkeypatch.setattr("pipeline.precision.bf16_on", lambda _device: False)


def load(task: Any, root: Path) -> TaskData:
    data: TaskData = task.load(root / "cache", silent)
    return data


def of_kind(kind: str, root: Path, **settings: Any) -> tuple[Any, TaskData]:
    """A task of the kind with its data, in a folder of its own."""
    (root / kind).mkdir()
    task = task_over(root / kind, kind, **settings)
    return task, load(task, root)


def run(
    folder: Path,
    task: Any,
    data: TaskData,
    checkpoints: Path,
    *,
    optimization: Optimization = BRISK,
    every_s: float = 1e9,
    lessons: Lessons | None = None,
    reporter: Reporter | None = None,
    **changes: int,
) -> tuple[Any, Outcome]:
    told = {"epochs": 3, "batch_tokens": 64, "max_length": 24, "patience": 99, "seed": 0, **changes}
    model, tokenizer = load_for_task(folder, task, data.label_names, seed=told["seed"]), load_tokenizer(folder)
    train, dev = (seen_by(task, part, tokenizer, max_length=24) for part in (data.train, data.dev))
    outcome = finetune(
        model,
        data,
        train=train,
        dev=dev,
        pad_id=tokenizer.pad_token_id,
        schedule=Schedule(**told),
        optimization=optimization,
        checkpoints=Checkpoints(checkpoints, every_s=every_s),
        reporter=reporter or Silent(),
        title="finetune",
        lessons=lessons,
    )
    return model, outcome


def answers_of(folder: Path, model: Any, texts: list[str]) -> list[Any]:
    tokenizer = load_tokenizer(folder)
    tokens = tokenize([(text,) for text in texts], tokenizer=tokenizer, max_length=24)
    return predict(model, tokens, pad_id=tokenizer.pad_token_id)


@pytest.fixture
def data(tmp_path: Path) -> tuple[Any, TaskData]:
    return of_kind("classification", tmp_path)


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LEARNT)
def test_every_kind_that_single_words_decide_is_learnt(kind: str, folder: Path, tmp_path: Path) -> None:
    task, data = of_kind(kind, tmp_path)

    model, outcome = run(folder, task, data, tmp_path / "checkpoints", epochs=EPOCHS[kind])

    assert max(outcome.dev_scores) >= GOOD_ENOUGH[kind]
    losses = [row["loss"] for row in outcome.history]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert not model.training
    if kind == "token-classification":
        (tags,) = answers_of(folder, model, ["lovely the cold tom story"])  # [CLS], four words, t ##o ##m, story
        assert [data.label_names[tags[at].argmax()] for at in (1, 2, 3, 4, 7)] == [
            "B-mood",
            "O",
            "O",
            "B-name",
            "I-name",
        ]
    else:
        good, bad = answers_of(folder, model, ["a strong story lovely", "a strong story boring"])
        assert good[-1] > bad[-1]


def test_pairs_are_learnt_from_which_text_says_what(tmp_path: Path) -> None:
    """The words are the same in both classes: what counts is the text each stands in, which token types tell."""
    folder = encoder_folder(tmp_path / "bert", layers=1, width=32, initializer_range=0.2)
    words = [(good, bad) for good in GOOD for bad in BAD]
    rows = [{"one": bad, "two": good, "label": "good"} for good, bad in words]
    rows += [{"one": good, "two": bad, "label": "bad"} for good, bad in words]
    task = task_over(tmp_path, "classification", text=("one", "two"))
    for split in ("train", "dev"):
        kinds.write_rows(tmp_path / f"{split}.jsonl", rows)

    model, outcome = run(folder, task, load(task, tmp_path), tmp_path / "checkpoints", epochs=12)

    assert max(outcome.dev_scores) >= 0.9
    before = load_encoder(folder).embeddings.token_type_embeddings.weight[1]
    after = model.bert.embeddings.token_type_embeddings.weight[1]
    assert torch.cosine_similarity(before, after, dim=0) < 0.99  # weight decay alone would not turn it


# -- a teacher ---------------------------------------------------------------------------------------------------------


def knows_all(task: Any, data: TaskData) -> list[Any]:
    """The outputs of a teacher that is right and sure about every item of train."""
    if task.kind == "embedding":  # one vector for all that is good, and one across it
        return [np.eye(32, dtype=np.float32)[int(item[0].split()[-1] in GOOD)] for item in data.train.items]
    sure = {
        "classification": lambda label: 8 * np.eye(2)[label],
        "multi-label": lambda row: 16.0 * np.asarray(row) - 8,
        "regression": lambda score: np.asarray([score]),
        "token-classification": lambda tagging: 8 * np.eye(len(data.label_names))[list(tagging.tags)],
    }[task.kind]
    return [sure(label).astype(np.float32) for label in data.train.labels]


def misled(task: Any, data: TaskData) -> TaskData:
    """Train with labels that say nothing."""
    nothing: dict[str, Any] = {
        "classification": 0,
        "multi-label": (0, 0),
        "regression": 0.0,
        "token-classification": None,
        "embedding": 0.0,
    }
    labels = [
        replace(each, tags=(0,) * len(each.tags)) if task.kind == "token-classification" else nothing[task.kind]
        for each in data.train.labels
    ]
    return replace(data, splits={**data.splits, "train": Split(data.train.items, tuple(labels))})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_learnt_from_a_teacher_alone(kind: str, folder: Path, tmp_path: Path) -> None:
    """With all the weight on the teacher, labels that are wrong do no harm."""
    task, data = of_kind(kind, tmp_path)
    lessons = Lessons(TaskDistillation(weight=1.0), knows_all(task, data))
    data = misled(task, data)

    _, outcome = run(folder, task, data, tmp_path / "checkpoints", epochs=EPOCHS[kind], lessons=lessons)

    assert max(outcome.dev_scores) >= GOOD_ENOUGH[kind]
    assert "task" not in outcome.history[0]


@pytest.mark.parametrize("kind", ["classification", "token-classification"])
def test_the_loss_is_the_labels_share_and_the_teachers(kind: str, still: Path, tmp_path: Path) -> None:
    """Of the first step, against the plain formulas over each text alone."""
    task, data = of_kind(kind, tmp_path)
    lessons = Lessons(TaskDistillation(weight=0.25, temperature=3.0), knows_all(task, data))

    _, outcome = run(still, task, data, tmp_path / "checkpoints", epochs=1, lessons=lessons)

    fresh, tokenizer = load_for_task(still, task, data.label_names, seed=0), load_tokenizer(still)
    train = seen_by(task, data.train, tokenizer, max_length=24)
    step = first_step(train)
    outputs = predict(fresh, train.tokens, pad_id=0)
    if train.places is None:
        found, labels = torch.tensor(np.stack([outputs[i] for i in step])), [data.train.labels[i] for i in step]
        wanted = torch.tensor(np.stack([lessons.outputs[i] for i in step]))
    else:
        found = torch.tensor(np.concatenate([outputs[i][train.places[i][:, 0]] for i in step]))
        labels = [tag for i in step for tag in data.train.labels[i].tags]
        wanted = torch.tensor(np.concatenate([lessons.outputs[i] for i in step]))
    kl = kl_div(log_softmax(found / 3, -1), log_softmax(wanted / 3, -1), log_target=True, reduction="batchmean")
    row = outcome.history[0]
    assert row["teacher"] == pytest.approx(0.25 * 9 * float(kl), rel=1e-4)
    assert row["task"] == pytest.approx(0.75 * float(cross_entropy(found, torch.tensor(labels))), rel=1e-4)
    assert row["loss"] == pytest.approx(row["teacher"] + row["task"], rel=1e-5)


def first_step(train: Any) -> list[int]:
    """The rows of the first step of `run`."""
    return length_batches(train.tokens.lengths, token_budget=64, seed=0, epoch=0)[0]


def test_vectors_have_all_their_loss_from_the_teacher(still: Path, tmp_path: Path) -> None:
    """No labels have a share in it, whatever the weight."""
    task, data = of_kind("embedding", tmp_path, train=20, dev=8)
    lessons = Lessons(TaskDistillation(weight=0.25), knows_all(task, data))

    _, outcome = run(still, task, data, tmp_path / "checkpoints", epochs=1, lessons=lessons)

    train = seen_by(task, data.train, load_tokenizer(still), max_length=24)
    found = predict(load_for_task(still, task, (), seed=0), train.tokens, pad_id=0)
    wanted = [1 - found[row] @ lessons.outputs[row] for row in first_step(train)]  # both are of length 1
    assert outcome.history[0]["teacher"] == pytest.approx(float(np.mean(wanted)), rel=1e-4)
    assert outcome.history[0]["loss"] == outcome.history[0]["teacher"]


def with_hidden(task: Any, data: TaskData, *, width: int, hidden: float = 0.5) -> Lessons:
    """A teacher that knows all, with hidden states of a certain width to learn too."""
    states = tiny_encoder("bert", seed=3, layers=4, width=width, **STILL)
    return Lessons(TaskDistillation(hidden=hidden), knows_all(task, data), states)


def test_the_loss_of_hidden_states_is_a_mean_over_texts_tokens_and_layers(still: Path, tmp_path: Path) -> None:
    """Of the first step, against each text alone: student layers 1 and 2 beside the teacher's 2 and 4."""
    task, data = of_kind("classification", tmp_path, train=40, dev=8)
    lessons = with_hidden(task, data, width=32, hidden=3.0)

    _, outcome = run(still, task, data, tmp_path / "checkpoints", epochs=1, lessons=lessons)

    fresh = load_for_task(still, task, data.label_names, seed=0).eval()
    train = seen_by(task, data.train, load_tokenizer(still), max_length=24)
    step, errors = first_step(train), []
    for row in step:
        ids = torch.tensor(train.tokens.ids(row)[None].astype(np.int64))
        with torch.no_grad():
            mine, theirs = (
                model(input_ids=ids, output_hidden_states=True).hidden_states for model in (fresh, lessons.teacher)
            )
        errors += [float((mine[i] - theirs[j]).square().mean()) for i, j in ((1, 2), (2, 4))]
    assert len({len(train.tokens.ids(row)) for row in step}) > 1  # there was padding
    assert outcome.history[0]["hidden"] == pytest.approx(3.0 * np.mean(errors), rel=1e-4)


def test_projections_are_trained_beside_the_model(still: Path, tmp_path: Path) -> None:
    task, data = of_kind("classification", tmp_path, train=24, dev=8)

    run(still, task, data, tmp_path / "checkpoints", every_s=0, lessons=with_hidden(task, data, width=48))

    kept = [torch.load(path, weights_only=True) for path in sorted((tmp_path / "checkpoints").iterdir())]
    before, after = (each["parts"]["model"]["module"] for each in kept)
    learned = [name for name in after if name.startswith("projections.")]
    assert learned == ["projections.hidden.0.weight", "projections.hidden.1.weight"]
    assert not any(torch.equal(before[name], after[name]) for name in learned)


def test_hidden_states_come_nearer_to_the_teachers(still: Path, data: Any, tmp_path: Path) -> None:
    task, loaded = data
    lessons = with_hidden(task, loaded, width=32, hidden=5.0)

    model, outcome = run(still, task, loaded, tmp_path / "checkpoints", epochs=2, lessons=lessons)

    assert outcome.history[-1]["hidden"] < 0.8 * outcome.history[0]["hidden"]
    assert "projections" not in " ".join(model.state_dict())
    before = tiny_encoder("bert", seed=3, layers=4, width=32, **STILL).state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in lessons.teacher.state_dict().items())


def test_the_teacher_reads_token_types_where_the_student_has_none(tmp_path: Path) -> None:
    """Each is fed what it makes use of, over the same tokens."""
    folder = encoder_folder(tmp_path / "distilbert", "distilbert", layers=1, width=32, dropout=0.0)
    task, data = of_kind("classification", tmp_path, train=8, dev=8)
    lessons, fed = with_hidden(task, data, width=32), []
    lessons.teacher.register_forward_pre_hook(lambda _m, _a, told: fed.append(set(told)), with_kwargs=True)

    run(folder, task, data, tmp_path / "checkpoints", epochs=1, lessons=lessons)

    types = {"input_ids", "attention_mask", "token_type_ids", "output_hidden_states"}
    assert fed
    assert all(told == types for told in fed)


def test_a_student_of_another_width_learns_vectors_through_a_projection_that_is_not_kept(
    folder: Path, tmp_path: Path
) -> None:
    task, data = of_kind("embedding", tmp_path, train=60, dev=8)
    teacher = SentenceEncoder(tiny_encoder("bert", seed=5, layers=1, width=48), Pooled("mean", normalize=True))
    tokens = tokenize(data.train.items, tokenizer=tiny_tokenizer("bert"), max_length=24)
    lessons = Lessons(TaskDistillation(), predict(teacher, tokens, pad_id=0))

    model, outcome = run(folder, task, data, tmp_path / "checkpoints", lessons=lessons)
    model.save_pretrained(tmp_path / "saved")

    assert outcome.history[-1]["teacher"] < 0.5 * outcome.history[0]["teacher"]
    assert outcome.fitted.dimensions == 32
    assert model.state_dict().keys() == load_for_task(folder, task, (), seed=0).state_dict().keys()
    tiny_tokenizer("bert").save_pretrained(tmp_path / "saved")
    assert answers_of(folder, load_tuned(tmp_path / "saved", task), ["good"])[0].shape == (32,)


def test_vectors_that_nobody_teaches_are_measured_and_left_as_they_are(still: Path, tmp_path: Path) -> None:
    task, data = of_kind("embedding", tmp_path, train=8, dev=20)
    model, dev = load_for_task(still, task, (), seed=0), seen_by(task, data.dev, load_tokenizer(still), max_length=24)

    outcome = as_it_is(model, data, dev, pad_id=0)

    fresh = load_for_task(still, task, (), seed=0).state_dict()
    assert all(torch.equal(weight, fresh[name]) for name, weight in model.state_dict().items())
    vectors = np.stack(predict(model, dev.tokens, pad_id=0))
    cosines = (vectors[0::2] * vectors[1::2]).sum(axis=1)
    assert outcome.dev_scores == [pytest.approx(task.score("spearman", cosines, data.dev.labels))]
    assert (outcome.history, outcome.best_epoch, outcome.fitted.dimensions) == ([], 0, 32)


# -- parts of a step ---------------------------------------------------------------------------------------------------

IN_PARTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "class weights": ("classification", {"class_weights": "balanced", "label_smoothing": 0.1}, 0),
    "tags with class weights": ("token-classification", {"class_weights": "balanced"}, 0),
    "several labels": ("multi-label", {"class_weights": "balanced"}, 0),
    "a teacher with hidden states of another width": ("classification", {}, 48),
    "a teacher of tags with hidden states": ("token-classification", {}, 32),
}


@pytest.mark.parametrize("case", IN_PARTS)
def test_the_parts_of_a_step_are_the_step(case: str, still: Path, tmp_path: Path) -> None:
    kind, settings, width = IN_PARTS[case]
    task, data = of_kind(kind, tmp_path, train=24, dev=8, **settings)
    keep = [i for i in range(24) if i % 3]  # unequal classes, and steps that do not divide evenly
    train = Split(tuple(data.train.items[i] for i in keep), tuple(data.train.labels[i] for i in keep))
    data = replace(data, splits={**data.splits, "train": train})
    lessons = with_hidden(task, data, width=width) if width else None

    once, three = (
        run(
            still,
            task,
            data,
            tmp_path / f"{parts}",
            optimization=GENTLE,
            epochs=1,
            lessons=lessons,
            micro_batches=parts,
        )
        for parts in (1, 3)
    )

    before = load_for_task(still, task, data.label_names, seed=0).state_dict()
    whole, parted = once[0].state_dict(), three[0].state_dict()
    floating = [name for name, weight in whole.items() if weight.is_floating_point()]
    assert max((whole[name] - before[name]).abs().max() for name in floating) > 1e-2
    assert max((whole[name] - parted[name]).abs().max() for name in floating) <= 1e-6
    assert three[1].history[0]["loss"] == pytest.approx(once[1].history[0]["loss"], rel=1e-5)


def test_a_step_without_any_word_that_has_a_token_is_no_division_by_zero(folder: Path, tmp_path: Path) -> None:
    """The tokenizer drops the joiner; in a step of its own its text has nothing to learn."""
    task, data = of_kind("token-classification", tmp_path, train=8, dev=8)
    tagging = replace(data.train.labels[0], words=((0, 1),), tags=(0,))
    train = Split((*data.train.items, ("\u200d",)), (*data.train.labels, tagging))
    data = replace(data, splits={**data.splits, "train": train})
    lessons = Lessons(TaskDistillation(), [*knows_all(task, data)[:-1], np.full((1, 5), np.nan, np.float32)])

    _, outcome = run(folder, task, data, tmp_path / "checkpoints", epochs=1, batch_tokens=15, lessons=lessons)

    lengths = seen_by(task, data.train, load_tokenizer(folder), max_length=24).tokens.lengths
    assert [8] in length_batches(lengths, token_budget=15, seed=0, epoch=0)
    assert np.isfinite(outcome.history[-1]["loss"])


# -- which epoch -------------------------------------------------------------------------------------------------------


class Scores:
    """Dev scores told beforehand, and the weights the model had at each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
        self.scores, self.weights, self.model = list(scores), [], None
        monkeypatch.setattr(finetuning, "predict", self.predict)
        monkeypatch.setattr(finetuning, "score_on_dev", self.score)

    def predict(self, model: Any, *rest: Any, **settings: Any) -> Any:
        self.model = model
        return predict(model, *rest, **settings)

    def score(self, *_: Any) -> float:
        assert self.model is not None
        self.weights.append({name: weight.clone() for name, weight in self.model.state_dict().items()})
        return self.scores[len(self.weights) - 1]


def test_the_dev_metric_is_told_after_each_epoch(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Silent):
        dev: list[tuple[str, int, float]] = []  # noqa: RUF012

        def metrics(self, part: str, *, step: int, values: Mapping[str, float]) -> None:
            self.dev.extend((part, step, value) for name, value in values.items() if name == "dev_accuracy")

    Scores(monkeypatch, 0.5, 0.9, 0.7)
    _, outcome = run(folder, *of_kind("classification", tmp_path, train=24, dev=8), tmp_path / "c", reporter=Told())

    ends = sorted({row["step"] for row in outcome.history})[-1] // 3
    assert Told.dev == [("model", ends, 0.5), ("model", 2 * ends, 0.9), ("model", 3 * ends, 0.7)]


@pytest.mark.parametrize(
    ("scores", "best"), [((0.5, 0.9, 0.7), 2), ((0.9, 0.9, 0.9), 1), ((0.1, 0.2, 0.3), 3), ((-0.5, -0.9, -0.7), 1)]
)
def test_the_weights_of_the_best_epoch_are_kept(
    scores: tuple[float, ...], best: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Scores(monkeypatch, *scores)

    model, outcome = run(folder, *of_kind("classification", tmp_path, train=24, dev=8), tmp_path / "checkpoints")

    assert (outcome.dev_scores, outcome.best_epoch) == (list(scores), best)
    assert all(torch.equal(weight, told.weights[best - 1][name]) for name, weight in model.state_dict().items())
    others = [weights for epoch, weights in enumerate(told.weights, start=1) if epoch != best]
    assert all(not torch.equal(model.classifier.weight, weights["classifier.weight"]) for weights in others)


def test_what_is_chosen_on_dev_is_chosen_with_the_weights_that_are_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Scores(monkeypatch, 0.9, 0.1, 0.1)
    task, data = of_kind("classification", tmp_path, train=24, dev=8, refusal={"keep": 0.5})

    model, outcome = run(folder, task, data, tmp_path / "checkpoints")

    chances = probabilities(
        np.stack(answers_of(folder, model, [text for (text,) in data.dev.items])), task="classification"
    )
    assert outcome.fitted.refuse_below == pytest.approx(np.quantile(chances.max(axis=1), 0.5), abs=1e-6)
    assert outcome.fitted.labels == ("bad", "good")
    assert len(told.weights) == 3


@pytest.mark.parametrize(
    ("patience", "epochs"),
    [(1, 3), (2, 4), (3, 8)],  # the sixth score is the best, so a patience of three sees it and goes on
)
def test_training_ends_after_so_many_epochs_without_a_better_score(
    patience: int, epochs: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scores(monkeypatch, 0.5, 0.6, 0.6, 0.2, 0.7, 0.8, 0.1, 0.1)
    task, data = of_kind("classification", tmp_path, train=8, dev=8)

    _, outcome = run(folder, task, data, tmp_path / "checkpoints", epochs=8, patience=patience)

    assert len(outcome.dev_scores) == epochs


# -- an interruption ---------------------------------------------------------------------------------------------------


class KilledAt:
    """Stands for `inputs_for` and is interrupted at a call; None: never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.at, self.real = 0, 0, finetuning.inputs_for
        monkeypatch.setattr(finetuning, "inputs_for", self)

    def __call__(self, *rest: Any, **settings: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.real(*rest, **settings)


@pytest.mark.parametrize("lessons", ["labels", "a teacher with hidden states"])
def test_a_killed_fine_tuning_goes_on_to_the_very_same_model(
    lessons: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, early stopping's scores, the best weights so far and the projections included; killed within a step."""
    task, data = of_kind("classification", tmp_path, train=40, dev=16)
    parts = 1 if lessons == "labels" else 2
    taught = None if lessons == "labels" else with_hidden(task, data, width=48)
    kill = KilledAt(monkeypatch)
    wanted, outcome = run(folder, task, data, tmp_path / "whole", lessons=taught, micro_batches=parts)
    steps, kill.at = int(outcome.history[-1]["step"]), kill.calls + kill.calls * 5 // 9

    with pytest.raises(KeyboardInterrupt):
        run(folder, task, data, tmp_path / "cut", every_s=0, lessons=taught, micro_batches=parts)
    (*_, last) = sorted(path.name for path in (tmp_path / "cut").iterdir())
    resumed, found = run(folder, task, data, tmp_path / "cut", every_s=0, lessons=taught, micro_batches=parts)

    done = int(last.removeprefix("step-").removesuffix(".pt"))
    assert steps / 3 < done < steps * 2 / 3  # in the second epoch
    assert (found.dev_scores, found.best_epoch) == (outcome.dev_scores, outcome.best_epoch)
    assert [row["loss"] for row in found.history] == [row["loss"] for row in outcome.history]
    assert all(torch.equal(weight, wanted.state_dict()[name]) for name, weight in resumed.state_dict().items())


def test_one_that_stopped_early_and_was_killed_before_it_was_sealed_stops_at_the_same_epoch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "score_on_dev", lambda *_: 0.5)
    task, data = of_kind("classification", tmp_path, train=24, dev=8)
    wanted, outcome = run(folder, task, data, tmp_path / "checkpoints", every_s=0, epochs=6, patience=1)

    again, found = run(folder, task, data, tmp_path / "checkpoints", every_s=0, epochs=6, patience=1)

    assert found.dev_scores == outcome.dev_scores == [0.5, 0.5]
    assert found.history[-1]["step"] == outcome.history[-1]["step"]
    assert all(torch.equal(weight, wanted.state_dict()[name]) for name, weight in again.state_dict().items())


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_the_test_split_is_not_in_reach(folder: Path, tmp_path: Path) -> None:
    """Its file does not even exist: whoever read it would fail."""
    task = task_over(tmp_path, "classification", train=16, dev=8)
    named = task.model_copy(update={"data": task.data.model_copy(update={"test": str(tmp_path / "test.jsonl")})})
    view = TaskSplits(named, TUNING)
    tools = Tools("key", tmp_path, tmp_path / "cache", tmp_path / "checkpoints", Silent())

    loaded = view.load(tools.cache, tools.progress)
    run(folder, named, loaded, tmp_path / "checkpoints", epochs=1)

    assert named.data.has("test")
    assert set(loaded.splits) == {"train", "dev"}
    assert loaded.overlap is None
    with pytest.raises(KeyError):
        _ = loaded.test


def test_answers_that_are_not_finite_end_fine_tuning_with_the_way_out() -> None:
    fine = [np.zeros(2, np.float32), np.zeros((3, 2), np.float32)]

    assert finite(fine) is fine
    with pytest.raises(BadArtifact) as refused:
        finite([*fine, np.array([[0.0], [np.inf]], np.float32)])
    assert str(refused.value) == (
        "fine-tuning gave answers that are not finite; try a lower finetune.optimization.learning_rate"
    )


def test_texts_of_unknown_tokens_only_are_refused_where_they_are_most(folder: Path, tmp_path: Path) -> None:
    task, data = of_kind("classification", tmp_path, train=8, dev=4)
    tokenizer = load_tokenizer(folder)

    def seen(*texts: str) -> Any:
        return seen_by(task, Split(tuple((text,) for text in texts), (0,) * len(texts)), tokenizer, max_length=24)

    train, half, most = seen("good", "bad"), seen("Ж", "good"), seen("good", "ЖЖ " * 40, "Щ")

    checked_survey(task, data, train, half, tokenizer)
    with pytest.raises(BadArtifact) as refused:
        checked_survey(task, data, train, most, tokenizer)
    assert str(refused.value) == (
        f"2 of the 3 dev texts are unknown tokens only, the first {('ЖЖ ' * 40)[:60]!r}: this teacher's tokenizer does "
        "not know their language; choose a teacher that does"
    )
