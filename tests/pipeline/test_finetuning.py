"""Fine-tuning tiny models on tasks a word decides."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from models import BAD, GOOD, LABELS, encoder_folder, sentences, tiny_tokenizer
from pydantic import TypeAdapter

from pipeline import finetuning
from pipeline.checkpoints import Checkpoints
from pipeline.data.batches import tokenize
from pipeline.data.progress import silent
from pipeline.encoders.teachers import load_encoder, load_tokenizer
from pipeline.errors import BadArtifact
from pipeline.finetuning import Outcome, Schedule, evaluate, finetune, load_for_task
from pipeline.graph import Tools
from pipeline.optimization import Optimization
from pipeline.progress import Silent
from pipeline.tasks import TUNING, Split, Task, TaskData, TaskSplits

Example = tuple[str | tuple[str, str], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoder") / "bert", layers=1, width=32, initializer_range=0.2)


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on every machine."""
    monkeypatch.setattr("pipeline.precision.bf16_on", lambda _device: False)


def task_over(root: Path, kind: str = "classification", *, pairs: bool = False, test: bool = False) -> Any:
    """A task over jsonl files in `root`; the test split is named and its file never written."""
    data = {"kind": "files", "train": str(root / "train.jsonl"), "dev": str(root / "dev.jsonl")}
    if test:
        data["test"] = str(root / "test.jsonl")
    text = ("one", "two") if pairs else "text"
    return TypeAdapter(Task).validate_python({"kind": kind, "data": data, "text": text})


def write(root: Path, **splits: Sequence[Example]) -> None:
    for name, examples in splits.items():
        rows = [
            {"label": label, **({"text": text} if isinstance(text, str) else {"one": text[0], "two": text[1]})}
            for text, label in examples
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def separable(count: int, *, seed: int) -> list[Example]:
    """Neutral sentences that end in a good or a bad word."""
    neutral = [text for text in sentences(4 * count, seed=seed) if not {*text.split()} & {*GOOD, *BAD}][:count]
    return [(f"{text} {(BAD, GOOD)[i % 2][i % 4]}", LABELS[i % 2]) for i, text in enumerate(neutral)]


def run(
    folder: Path,
    task: Any,
    data: TaskData,
    checkpoints: Path,
    *,
    rate: float = 1e-2,
    every_s: float = 1e9,
    seed: int = 0,
    **changes: int,
) -> tuple[Any, Outcome]:
    model = load_for_task(folder, task, data.label_names, seed=seed)
    schedule = Schedule(**{"epochs": 3, "batch_tokens": 64, "max_length": 24, "patience": 3, "seed": seed, **changes})
    outcome = finetune(
        model,
        load_tokenizer(folder),
        task,
        data,
        schedule,
        Optimization(learning_rate=rate),
        checkpoints=Checkpoints(checkpoints, every_s=every_s),
        reporter=Silent(),
        title="finetune",
    )
    return model, outcome


def load(task: Any, root: Path) -> TaskData:
    data: TaskData = task.load(root / "cache", silent)
    return data


@pytest.fixture
def data(tmp_path: Path) -> tuple[Any, TaskData]:
    write(tmp_path, train=separable(120, seed=1), dev=separable(40, seed=2))
    task = task_over(tmp_path)
    return task, load(task, tmp_path)


# -- learning ----------------------------------------------------------------------------------------------------------


def test_a_task_that_one_word_decides_is_learnt(folder: Path, data: tuple[Any, TaskData], tmp_path: Path) -> None:
    task, loaded = data

    model, outcome = run(folder, task, loaded, tmp_path / "checkpoints", epochs=5)

    assert max(outcome.dev_scores) >= 0.95
    assert outcome.history[-1]["loss"] < outcome.history[0]["loss"]
    assert not model.training
    tokens = tokenize([("a film so lovely",), ("a film so boring",)], tokenizer=load_tokenizer(folder), max_length=24)
    assert finetuning._forward(model, tokens, [0, 1], 0).argmax(dim=1).tolist() == [1, 0]


def test_regression_ranks(folder: Path, tmp_path: Path) -> None:
    train, dev = ([(text, float(label == "good")) for text, label in separable(80, seed=seed)] for seed in (1, 2))
    write(tmp_path, train=train, dev=dev)
    task = task_over(tmp_path, "regression")

    model, outcome = run(folder, task, load(task, tmp_path), tmp_path / "checkpoints", epochs=12, patience=12)

    assert max(outcome.dev_scores) > 0.7
    assert model.config.num_labels == 1
    assert model.config.problem_type == "regression"


def test_pairs_are_learnt_from_which_text_says_what(tmp_path: Path) -> None:
    """The words are the same in both classes: what counts is the text each stands in, which token types tell."""
    folder = encoder_folder(tmp_path / "bert", layers=1, width=32, initializer_range=0.2)
    words = [(good, bad) for good in GOOD for bad in BAD]
    pairs: list[Example] = [((bad, good), "good") for good, bad in words]
    pairs += [((good, bad), "bad") for good, bad in words]
    write(tmp_path, train=pairs, dev=pairs)
    task = task_over(tmp_path, pairs=True)

    model, outcome = run(folder, task, load(task, tmp_path), tmp_path / "checkpoints", epochs=12, patience=12)

    assert max(outcome.dev_scores) >= 0.9
    before = load_encoder(folder).embeddings.token_type_embeddings.weight[1]
    after = model.bert.embeddings.token_type_embeddings.weight[1]
    assert torch.cosine_similarity(before, after, dim=0) < 0.99  # weight decay alone would not turn it


@pytest.mark.parametrize(
    ("family", "types"), [("bert", [0, 0, 0, 1, 1]), ("distilbert", None), ("roberta", None), ("xlm-roberta", None)]
)
def test_token_types_are_fed_where_the_encoder_makes_use_of_them(
    family: str, types: list[int] | None, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(models.tiny_config(family))
    tokens = tokenize([("good", "bad")], tokenizer=tiny_tokenizer(family), max_length=24)
    fed: dict[str, Any] = {}
    model.register_forward_pre_hook(lambda _module, _args, kwargs: fed.update(kwargs), with_kwargs=True)

    finetuning._forward(model, tokens, [0], 0)

    assert fed.keys() == {"input_ids", "attention_mask"} | ({"token_type_ids"} if types else set())
    assert types is None or fed["token_type_ids"].tolist() == [types]


# -- which epoch -------------------------------------------------------------------------------------------------------


class Scores:
    """Dev scores told beforehand, and the weights the model had at each."""

    def __init__(self, *scores: float) -> None:
        self.scores, self.weights = list(scores), []

    def __call__(self, model: Any, *_: Any, **__: Any) -> float:
        self.weights.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return self.scores[len(self.weights) - 1]


@pytest.mark.parametrize(
    ("scores", "best"), [((0.5, 0.9, 0.7), 2), ((0.9, 0.9, 0.9), 1), ((0.1, 0.2, 0.3), 3), ((-0.5, -0.9, -0.7), 1)]
)
def test_the_weights_of_the_best_epoch_are_kept(
    scores: tuple[float, ...], best: int, folder: Path, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Scores(*scores)
    monkeypatch.setattr(finetuning, "evaluate", told)

    model, outcome = run(folder, *data, tmp_path / "checkpoints")

    assert (outcome.dev_scores, outcome.best_epoch) == (list(scores), best)
    assert all(torch.equal(weight, told.weights[best - 1][name]) for name, weight in model.state_dict().items())
    others = [weights for epoch, weights in enumerate(told.weights, start=1) if epoch != best]
    assert all(not torch.equal(model.classifier.weight, weights["classifier.weight"]) for weights in others)


@pytest.mark.parametrize(
    ("patience", "epochs"),
    [(1, 3), (2, 4), (3, 8)],  # the sixth score is the best, so a patience of three sees it and goes on
)
def test_training_ends_after_so_many_epochs_without_a_better_score(
    patience: int, epochs: int, folder: Path, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Scores(0.5, 0.6, 0.6, 0.2, 0.7, 0.8, 0.1, 0.1)
    monkeypatch.setattr(finetuning, "evaluate", told)

    _, outcome = run(folder, *data, tmp_path / "checkpoints", epochs=8, patience=patience)

    assert len(outcome.dev_scores) == epochs


def test_a_killed_fine_tuning_goes_on_to_the_very_same_model(
    folder: Path, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, early stopping's scores and the best weights so far included."""
    wanted, outcome = run(folder, *data, tmp_path / "whole")
    real, calls = finetuning._forward, 0

    def forward(model: Any, *rest: Any) -> Any:
        nonlocal calls
        calls += model.training
        if model.training and calls == 24:
            raise KeyboardInterrupt
        return real(model, *rest)

    monkeypatch.setattr(finetuning, "_forward", forward)
    with pytest.raises(KeyboardInterrupt):
        run(folder, *data, tmp_path / "cut", every_s=0)
    resumed, found = run(folder, *data, tmp_path / "cut", every_s=0)

    steps_an_epoch = outcome.history[-1]["step"] / 3
    assert steps_an_epoch < 24 < 3 * steps_an_epoch
    assert (found.dev_scores, found.best_epoch) == (outcome.dev_scores, outcome.best_epoch)
    assert all(torch.equal(weight, wanted.state_dict()[name]) for name, weight in resumed.state_dict().items())


# -- the test split ----------------------------------------------------------------------------------------------------


def test_the_test_split_is_not_in_reach(folder: Path, tmp_path: Path) -> None:
    """Its file does not even exist: whoever read it would fail."""
    write(tmp_path, train=separable(40, seed=1), dev=separable(20, seed=2))
    task = task_over(tmp_path, test=True)
    view = TaskSplits(task, TUNING)
    tools = Tools("key", tmp_path, tmp_path / "cache", tmp_path / "checkpoints", Silent())

    loaded = view.load(tools.cache, tools.progress)
    run(folder, task, loaded, tmp_path / "checkpoints", epochs=1)

    assert set(loaded.splits) == {"train", "dev"}
    assert loaded.overlap is None
    with pytest.raises(KeyError):
        _ = loaded.test


# -- the head ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_labels_are_named_in_the_saved_config(family: str, data: Any, tmp_path: Path) -> None:
    model = load_for_task(encoder_folder(tmp_path / "encoder", family), data[0], ("sad", "so-so", "happy"), seed=0)
    model.save_pretrained(tmp_path / "saved")

    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["id2label"] == {"0": "sad", "1": "so-so", "2": "happy"}
    assert config["label2id"] == {"sad": 0, "so-so": 1, "happy": 2}
    assert config["problem_type"] == "single_label_classification"
    assert config["dtype"] == "float32"


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_encoder_is_the_folders_and_the_head_depends_on_the_seed_alone(
    family: str, data: Any, tmp_path: Path
) -> None:
    folder = encoder_folder(tmp_path / "encoder", family)

    first = load_for_task(folder, data[0], LABELS, seed=1).state_dict()
    torch.rand(7)
    again, other = (load_for_task(folder, data[0], LABELS, seed=seed).state_dict() for seed in (1, 2))

    encoder = load_encoder(folder).state_dict()
    prefix = {"xlm-roberta": "roberta"}.get(family, family)
    shared = [name for name in encoder if f"{prefix}.{name}" in first]
    assert len(shared) >= len(encoder) - 2  # RoBERTa's classifier has no pooler
    assert all(torch.equal(encoder[name], first[f"{prefix}.{name}"]) for name in shared)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    head = [name for name in first if not name.startswith(f"{prefix}.") and name.endswith("weight")]
    assert head
    assert not any(torch.equal(first[name], other[name]) for name in head)


@pytest.mark.parametrize("stored", [LABELS, ("a", "b", "c")], ids=["same size", "another size"])
def test_a_head_of_another_task_is_not_used(stored: tuple[str, ...], data: Any, tmp_path: Path) -> None:
    """A fine-tuned model of the hub may be a teacher for any task."""
    folder = models.classifier_folder(tmp_path / "classifier", labels=stored, initializer_range=0.02)

    model = load_for_task(folder, data[0], LABELS, seed=1)

    plain = load_for_task(encoder_folder(tmp_path / "plain", initializer_range=0.02), data[0], LABELS, seed=1)
    assert torch.equal(model.classifier.weight, plain.classifier.weight)
    assert model.classifier.bias.abs().max() == 0


# -- evaluation --------------------------------------------------------------------------------------------------------


class Echo(torch.nn.Module):
    """Its only logit is the first word's id: order is visible."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {})()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        self.shapes.append(tuple(input_ids.shape))
        assert not self.training
        return type("Output", (), {"logits": input_ids[:, 1:2].float()})()


class Recorded:
    """A task whose score is what it was given."""

    def score(self, logits: Any, labels: Sequence[float]) -> float:
        self.logits, self.labels = logits, labels
        return 0.25


def test_evaluation_hands_over_logits_in_the_order_of_the_labels() -> None:
    texts = sentences(30)
    tokens = tokenize([(text,) for text in texts], tokenizer=tiny_tokenizer("bert"), max_length=24)
    model, task = Echo().train(), Recorded()

    score = evaluate(model, tokens, Split(tuple((t,) for t in texts), tuple(range(30))), task, pad_id=0)  # type: ignore[arg-type]

    assert score == 0.25
    assert task.labels == tuple(range(30))
    assert task.logits[:, 0].tolist() == [float(tokens.ids(i)[1]) for i in range(30)]
    assert model.training


def test_answers_that_are_not_finite_end_fine_tuning_with_the_way_out() -> None:
    tokens = tokenize([("good",)], tokenizer=tiny_tokenizer("bert"), max_length=24)
    model = Echo()
    model.forward = lambda **_: type("Output", (), {"logits": torch.tensor([[np.nan]])})()  # type: ignore[method-assign]

    with pytest.raises(BadArtifact) as refused:
        evaluate(model, tokens, Split((("good",),), (0,)), Recorded(), pad_id=0)  # type: ignore[arg-type]
    assert str(refused.value) == (
        "fine-tuning gave answers that are not finite; try a lower finetune.optimization.learning_rate"
    )
