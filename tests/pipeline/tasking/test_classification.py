"""One label of several: names and order, what is wrong with data, the metrics, and answers that are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, roc_auc_score
from taskdata import load, refused, spec_of, task_over, write

from pipeline import quality
from pipeline.data.digests import unit_hash
from pipeline.data.examples import item_key
from pipeline.errors import BadArtifact, BadRequest
from pipeline.tasking.base import ALL, Split, TaskData
from pipeline.tasking.fitted import Fitted
from serving.answers import probabilities, results

NAMES = ("a", "b", "c")
SKLEARN: dict[str, Callable[..., float]] = {
    "accuracy": accuracy_score,
    "macro_f1": lambda truths, answers: f1_score(
        truths, answers, labels=sorted(set(truths)), average="macro", zero_division=0
    ),
    "matthews": matthews_corrcoef,
}


def texts(count: int) -> list[str]:
    return [f"text number {n}" for n in range(count)]


def two_splits(folder: Path, *, train: list[Any], dev: list[Any]) -> dict[str, str]:
    return {
        split: write(folder, split, text=[f"{split} {n}" for n in range(len(labels))], label=labels)
        for split, labels in (("train", train), ("dev", dev))
    }


def made(labels: list[int], *, outside: int = 0, split: str = "test") -> TaskData:
    """Data of one split with these labels, and so many texts that none fits."""
    items = tuple((f"text {n}",) for n in range(len(labels)))
    return TaskData(NAMES, {split: Split(items, tuple(labels))}, 0, tuple((f"else {n}",) for n in range(outside)))


def outputs_of(count: int, *, seed: int = 0, spread: float = 2.0) -> list[Any]:
    return list(np.random.default_rng(seed).normal(0, spread, (count, len(NAMES))).astype(np.float32))


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "names", "indices"),
    [
        (["b", "a", "b"], ("a", "b"), (1, 0, 1)),
        ([10, 9, 10], ("9", "10"), (1, 0, 1)),
        ([True, False, True], ("0", "1"), (1, 0, 1)),
        ([2.0, -1.0, 2.0], ("-1", "2"), (1, 0, 1)),
    ],
)
def test_labels_are_named_by_what_train_holds(
    tmp_path: Path, raw: list[Any], names: tuple[str, ...], indices: tuple[int, ...]
) -> None:
    path = write(tmp_path, "train", text=texts(3), label=raw)

    data = load(task_over("classification", {"train": path, "dev": path}), tmp_path)

    assert data.label_names == names
    assert data.train.labels == indices


@pytest.mark.parametrize("raw", [[0, 1, 1], ["zero", "one", "one"]])
def test_labels_given_in_the_config_name_strings_and_count_integers(tmp_path: Path, raw: list[Any]) -> None:
    path = write(tmp_path, "train", text=texts(3), label=raw)
    task = task_over("classification", {"train": path, "dev": path}, labels=["zero", "one", "two"])

    data = load(task, tmp_path)

    assert data.label_names == ("zero", "one", "two")
    assert data.train.labels == (0, 1, 1)
    assert task.label_counts(data.train, data.label_names) == {"zero": 1, "one": 2, "two": 0}
    assert task.head(data.label_names).num_outputs == 3


def test_coded_labels_have_the_names_and_the_order_that_the_data_gives_them(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])})
    rows = {"text": texts(4), "label": [1, 0, 1, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    paths = {split: str(tmp_path / "a.parquet") for split in ("train", "dev")}

    data = load(task_over("classification", paths), tmp_path)

    assert data.label_names == ("pos", "neg")
    assert data.train.labels == (1, 0, 1, 1)


def test_a_label_named_twice_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValidationError) as caught:
        task_over("classification", labels=["a", "b", "a"])
    (mistake,) = caught.value.errors()
    assert mistake["msg"] == "Value error, 'a' is named more than once: give every label a name of its own"


# -- what can be wrong with data ---------------------------------------------------------------------------------------


def test_one_class_only_is_a_bad_artifact(tmp_path: Path) -> None:
    path = write(tmp_path, "train", text=texts(4), label=["yes"] * 4)

    message = refused(BadArtifact, lambda: load(task_over("classification", {"train": path}), tmp_path))

    assert message == f"train data ({path}) holds one class only (yes): a classifier needs two or more"


def test_labels_that_train_does_not_have_are_listed(tmp_path: Path) -> None:
    paths = two_splits(tmp_path, train=["a", "b"] * 2, dev=["a", "B", "c", "c"])

    message = refused(BadArtifact, lambda: load(task_over("classification", paths), tmp_path))

    assert message == (
        f"dev data ({paths['dev']}) has labels that are not among the task's: B, c; the task's are a, b (from train)"
    )


def test_more_labels_than_the_config_names_are_listed(tmp_path: Path) -> None:
    paths = two_splits(tmp_path, train=[0, 1, 2, 3], dev=[0, 1])

    message = refused(BadArtifact, lambda: load(task_over("classification", paths, labels=["no", "yes"]), tmp_path))

    assert message == (
        f"train data ({paths['train']}) has labels that are not among the task's: 2, 3; the task's are no, yes "
        "(from the config)"
    )


def test_unlabelled_rows_of_a_benchmark_are_not_taken_for_a_class(tmp_path: Path) -> None:
    train = write(tmp_path, "train", text=texts(40), label=[0, 1] * 20)
    test = write(tmp_path, "test", text=texts(2), label=[-1, -1])
    named = task_over("classification", {"train": train, "test": test}, labels=["no", "yes"])

    message = refused(BadArtifact, lambda: load(named, tmp_path, ("test",)))

    assert message == (
        f"test data ({test}) has labels that are not among the task's: -1; the task's are no, yes (from the config)"
    )


def test_a_label_that_only_dev_or_test_has_cannot_be_learned(tmp_path: Path) -> None:
    """The config names it, so it is no unknown one; without train there is nothing to learn."""
    paths = two_splits(tmp_path, train=["a", "b"] * 2, dev=["a", "d", "c"])
    paths["test"] = paths.pop("dev")
    named = task_over("classification", paths | {"dev": paths["train"]}, labels=["a", "b", "c", "d"])

    message = refused(BadArtifact, lambda: load(named, tmp_path, ALL))

    assert message == (
        "label 'c' occurs in test and never in train, so nothing can learn it (2 such): add such rows to train, or "
        "take them out of test"
    )
    assert load(named, tmp_path, ("test",)).test.labels == (0, 3, 2)


def test_a_label_whose_rows_all_fell_to_the_cut_dev_is_told_as_that(tmp_path: Path) -> None:
    held = next(text for text in texts(99) if unit_hash(item_key((text,)), salt="dev") < 0.5)
    words = [*(f"more {n}" for n in range(20)), held]
    path = write(tmp_path, "train", text=words, label=["a"] * 20 + ["b"])

    message = refused(BadArtifact, lambda: load(task_over("classification", {"train": path}, dev_share=0.5), tmp_path))

    assert message == (
        "label 'b' occurs in dev and never in train, so nothing can learn it (1 such): dev was cut from train and took "
        "them all; add such rows, or name a dev split in task.data"
    )


def test_a_label_that_a_cap_cuts_from_train_is_told_as_that(tmp_path: Path) -> None:
    paths = two_splits(tmp_path, train=["a", "b"], dev=["a", "b"])

    message = refused(BadArtifact, lambda: load(task_over("classification", paths, max_train=1), tmp_path))

    assert message == (
        "label 'a' occurs in dev and never in train (cut to max_train, 1), so nothing can learn it (1 such): add such "
        "rows to train, or take them out of dev"
    )


@pytest.mark.parametrize("label", [None, 1.5, ""])
def test_a_label_that_is_none_is_a_bad_artifact(tmp_path: Path, label: object) -> None:
    raw = ["a", "b", ""] if label == "" else [0.0, 1.0, label]
    path = write(tmp_path, "train", text=texts(3), label=raw)

    message = refused(BadArtifact, lambda: load(task_over("classification", {"train": path, "dev": path}), tmp_path))

    assert message == (
        f"train data ({path}), row 3: the label is {label!r}: labels are text or integers, and every row has one"
    )


# -- answers and metrics -----------------------------------------------------------------------------------------------


def test_an_answer_is_the_label_that_a_client_is_told() -> None:
    """Also where two outputs are so near that their probabilities are the same."""
    near = np.array([0.1, np.nextafter(np.float32(0.1), np.float32(1)), 0.0], np.float32)
    outputs, fitted = [near, *outputs_of(50)], Fitted("classification", NAMES)
    told = results(
        probabilities(np.stack(outputs), task="classification"), spec=spec_of(fitted), items=[("a",)] * len(outputs)
    )
    answers = task_over("classification").answers(outputs, fitted, None)
    assert [NAMES[answer] for answer in answers] == [one["label"] for one in told]
    assert near.argmax() == 1
    assert told[0]["label"] == "a"


@pytest.mark.parametrize("metric", SKLEARN)
def test_a_metric_is_that_of_scikit_learn_and_the_one_that_is_reported(metric: str) -> None:
    labels = np.random.default_rng(1).integers(0, 3, 40).tolist()
    task, data, outputs = task_over("classification", metric=metric), made(labels), outputs_of(40)

    judged = task.judged(outputs, data, Fitted("classification", NAMES), None)

    wanted = SKLEARN[metric](labels, np.stack(outputs).argmax(axis=1))
    assert next(iter(judged)) == metric
    assert task.score(metric, judged[metric].answers, judged[metric].labels) == pytest.approx(wanted, abs=1e-12)
    found = quality.score(judged[metric].metric, judged[metric].answers, judged[metric].labels, resamples=10)
    assert found.value == pytest.approx(wanted, abs=1e-12)


def test_a_class_that_is_answered_and_never_true_does_not_lower_the_macro_f1() -> None:
    """As quality.py counts it: the mean is over the classes that there are."""
    answers, truths = np.array([0, 2, 1, 1]), (0, 0, 1, 1)
    task = task_over("classification", metric="macro_f1")
    assert task.score("macro_f1", answers, truths) == pytest.approx((2 / 3 + 1) / 2)
    assert quality.score("macro_f1", answers, truths, resamples=10).value == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("metric", "order"),
    [
        ("accuracy", ("accuracy", "macro_f1", "matthews")),
        ("macro_f1", ("macro_f1", "accuracy", "matthews")),
        ("matthews", ("matthews", "accuracy", "macro_f1")),
    ],
)
def test_the_metric_that_is_chosen_comes_first(metric: str, order: tuple[str, ...]) -> None:
    task = task_over("classification", metric=metric)
    assert task.metrics == task.figures == order
    assert tuple(task.judged(outputs_of(3), made([0, 1, 2]), Fitted("classification", NAMES), None)) == order


# -- refusal -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.95, 0.8, 0.5])
def test_a_refusal_keeps_the_share_of_dev_that_was_asked_for(keep: float) -> None:
    task, data = task_over("classification", refusal={"keep": keep}), made([0] * 200, split="dev")
    outputs = outputs_of(200)

    fitted = task.fit(outputs, data, None)

    told = results(probabilities(np.stack(outputs), task="classification"), spec=spec_of(fitted), items=[("a",)] * 200)
    assert sum("refused" not in one for one in told) == keep * 200


def test_a_bound_on_answers_that_are_all_sure_is_still_one_that_a_bundle_may_have() -> None:
    task, data = task_over("classification", refusal={}), made([0] * 3, split="dev")
    fitted = task.fit([np.array([900, 0, 0], np.float32)] * 3, data, None)
    assert fitted.refuse_below is not None
    assert 0.99999 < fitted.refuse_below < 1
    assert spec_of(fitted).refuse_below == fitted.refuse_below


def test_without_a_refusal_nothing_is_refused() -> None:
    fitted = task_over("classification").fit(outputs_of(5), made([0] * 5, split="dev"), None)
    assert fitted == Fitted("classification", NAMES)


def test_figures_of_a_refusal_are_the_shares_refused_and_how_well_sureness_tells_apart() -> None:
    """The texts outside come behind those of test, and the other figures are of test alone."""
    source = {"kind": "files", "train": "x.jsonl", "test": "x.jsonl"}
    task = task_over("classification", refusal={"data": source})
    labels, outside = [0, 1, 2] * 10, 20
    data = made(labels, outside=outside)
    outputs = [*outputs_of(30, spread=3.0), *outputs_of(outside, seed=1, spread=1.0)]
    fitted = Fitted("classification", NAMES, refuse_below=0.7)

    judged = task.judged(outputs, data, fitted, None)

    told = results(
        probabilities(np.stack(outputs), task="classification"), spec=spec_of(fitted), items=[("a",)] * len(outputs)
    )
    refuses = ["refused" in one for one in told]
    wanted = {
        "accuracy": accuracy_score(labels, np.stack(outputs[:30]).argmax(axis=1)),
        "in_scope_refused": np.mean(refuses[:30]),
        "oos_refused": np.mean(refuses[30:]),
        "oos_auroc": roc_auc_score([1] * 30 + [0] * outside, [one["score"] for one in told]),
    }
    found = {name: quality.score(one.metric, one.answers, one.labels, resamples=10) for name, one in judged.items()}
    assert tuple(found) == task.figures
    assert {name: found[name].value for name in wanted} == pytest.approx(wanted)
    assert {name: found[name].n for name in wanted} == {
        "accuracy": 30, "in_scope_refused": 30, "oos_refused": 20, "oos_auroc": 50
    }  # fmt: skip
    assert 0 < wanted["in_scope_refused"] < wanted["oos_refused"] < 1
    assert data.reported == (*data.test.items, *data.outside)


def test_a_refusal_without_texts_outside_reports_what_it_refuses_of_test() -> None:
    task = task_over("classification", refusal={"keep": 0.9})
    judged = task.judged(outputs_of(3), made([0, 1, 2]), Fitted("classification", NAMES, refuse_below=0.5), None)
    assert tuple(judged) == task.figures == ("accuracy", "macro_f1", "matthews", "in_scope_refused")


def test_texts_outside_are_read_with_test_and_need_no_label(tmp_path: Path) -> None:
    path = write(tmp_path, "train", text=texts(4), label=[0, 1] * 2)
    (tmp_path / "else.jsonl").write_text('{"text": "else one"}\n{"text": "else two"}\n')
    source = {"kind": "files", "train": "nowhere.jsonl", "test": str(tmp_path / "else.jsonl")}
    paths = {"train": path, "dev": path, "test": path}
    task = task_over("classification", paths, refusal={"data": source})

    assert load(task, tmp_path, ALL).outside == (("else one",), ("else two",))
    (tmp_path / "else.jsonl").write_text("not json, and not read")
    assert load(task, tmp_path).outside == ()


def test_texts_outside_without_a_test_split_are_a_bad_request(tmp_path: Path) -> None:
    path = write(tmp_path, "train", text=texts(4), label=[0, 1] * 2)
    source = {"kind": "files", "train": "nowhere.jsonl"}
    task = task_over("classification", {"train": path, "dev": path, "test": path}, refusal={"data": source})

    message = refused(BadRequest, lambda: load(task, tmp_path, ALL))

    assert message == "task.refusal.data names no test split, and its texts are reported on: add one"


def test_an_empty_text_outside_is_refused_by_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, "train", text=texts(4), label=[0, 1] * 2)
    outside = write(tmp_path, "else", text=["one", " "])
    source = {"kind": "files", "train": "nowhere.jsonl", "test": outside}
    task = task_over("classification", {"train": path, "dev": path, "test": path}, refusal={"data": source})

    message = refused(BadArtifact, lambda: load(task, tmp_path, ALL))

    assert message == f"test data ({outside}), row 2: column 'text' is empty: remove the row or fill it in"


def test_the_texts_outside_are_part_of_the_identity_where_they_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "train", text=texts(4), label=[0, 1] * 2)
    source = {"kind": "files", "train": "nowhere.jsonl", "test": write(tmp_path, "else", text=["one"])}

    def identities(keep: float = 0.9) -> tuple[str, str]:
        refusal = {"keep": keep, "data": source}
        task = task_over("classification", {"train": path, "test": path}, refusal=refusal)
        return task.identity(tmp_path / "cache"), task.identity(tmp_path / "cache", ("train", "dev"))

    before = identities()
    write(tmp_path, "else", text=["one", "another"])
    after = identities()

    assert before[0] != after[0]
    assert before[1] == after[1]
    assert not {*identities(keep=0.8)} & {*after}
