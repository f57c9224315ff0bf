"""Several labels at once: lists and separated text, thresholds that dev chooses, and the metrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score
from taskdata import load, refused, spec_of, task_over, write

from pipeline import quality
from pipeline.errors import BadArtifact
from pipeline.tasking.base import Split, TaskData
from pipeline.tasking.fitted import Fitted
from pipeline.tasking.multi_label import best_threshold
from serving.answers import probabilities, results

NAMES = ("a", "b", "c")


def task_of(folder: Path, train: list[Any], dev: list[Any] | None = None, **settings: Any) -> Any:
    paths = {
        split: write(folder, split, text=[f"{split} {n}" for n in range(len(labels))], label=labels)
        for split, labels in (("train", train), ("dev", train if dev is None else dev))
    }
    return task_over("multi-label", paths, **settings)


def random(count: int, *, labels: int = 3, seed: int = 0) -> tuple[list[Any], TaskData]:
    """Outputs with ties, and data whose dev and test they are for."""
    generator = np.random.default_rng(seed)
    truths = generator.random((count, labels)) < (0.5, 0.2, 0.1)[:labels]
    outputs = np.round(generator.normal(-1, 2, truths.shape) + 2 * truths, 1).astype(np.float32)
    split = Split(tuple((f"text {n}",) for n in range(count)), tuple(map(tuple, truths.astype(int).tolist())))
    return list(outputs), TaskData(NAMES[:labels], {"dev": split, "test": split}, 0)


def f1(truths: Any, given: Any) -> float:
    hits, total = (truths & given).sum(), truths.sum() + given.sum()
    return 2 * hits / total if total else 0.0


def best_of_all(chances: Any, truths: Any) -> float:
    """The best F1 that any threshold gives."""
    return max(f1(truths, chances >= bound) for bound in np.unique(chances))


# -- labels ------------------------------------------------------------------------------------------------------------


def test_a_row_may_have_any_number_of_labels(tmp_path: Path) -> None:
    task = task_of(tmp_path, [["b"], [], ["c", "a", "c"]])

    data = load(task, tmp_path)

    assert data.label_names == ("a", "b", "c")
    assert data.train.labels == ((0, 1, 0), (0, 0, 0), (1, 0, 1))
    assert task.label_counts(data.train, data.label_names) == {"a": 1, "b": 1, "c": 1}
    assert task.head(data.label_names).num_outputs == 3


def test_labels_in_one_text_are_cut_at_the_separator(tmp_path: Path) -> None:
    data = load(task_of(tmp_path, ["b|a c", " b ", ""], separator="|"), tmp_path)

    assert data.label_names == ("a c", "b")
    assert data.train.labels == ((1, 1), (0, 1), (0, 0))


@pytest.mark.parametrize("raw", [[[2, 0], [1]], [["third", "first"], ["second"]]])
def test_labels_given_in_the_config_name_strings_and_count_integers(tmp_path: Path, raw: list[Any]) -> None:
    data = load(task_of(tmp_path, raw, labels=["first", "second", "third"]), tmp_path)

    assert data.label_names == ("first", "second", "third")
    assert data.train.labels == ((1, 0, 1), (0, 1, 0))


def test_coded_labels_have_the_names_and_the_order_that_the_data_gives_them(tmp_path: Path) -> None:
    import datasets

    label = datasets.List(datasets.ClassLabel(names=["sad", "glad", "calm"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    rows = {"text": ["one", "two"], "label": [[2, 1], [0]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))

    data = load(task_over("multi-label", dict.fromkeys(("train", "dev"), str(tmp_path / "a.parquet"))), tmp_path)

    assert data.label_names == ("sad", "glad", "calm")
    assert data.train.labels == ((0, 1, 1), (1, 0, 0))


# -- what can be wrong with data ---------------------------------------------------------------------------------------


def message_of(folder: Path, task: Any) -> str:
    return refused(BadArtifact, lambda: load(task, folder))


def test_text_without_a_separator_is_a_bad_artifact(tmp_path: Path) -> None:
    assert message_of(tmp_path, task_of(tmp_path, ["a|b", "a"])) == (
        f"train data ({tmp_path}/train.jsonl), row 1: the labels are 'a|b': expected a list, or text with "
        "task.separator set"
    )


def test_a_row_with_neither_a_list_nor_a_cell_is_a_bad_artifact_even_with_a_separator(tmp_path: Path) -> None:
    assert message_of(tmp_path, task_of(tmp_path, [{"a": 1}, {"a": 1}], separator="|")) == (
        f"train data ({tmp_path}/train.jsonl), row 1: the labels are {{'a': 1}}: expected a list, or text with "
        "task.separator set"
    )


@pytest.mark.parametrize(("cells", "last"), [("0|1\n2\n\n", (0, 0, 0)), ("0|1\n2\n2\n", (0, 0, 1))])
def test_codes_in_the_cells_of_a_table_count_as_they_do_in_lists(
    cells: str, last: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "train.csv"
    rows = [f"text {n},{cell}" for n, cell in enumerate(cells.split("\n")[:3])]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    task = task_over("multi-label", {"train": str(path), "dev": str(path)}, separator="|", labels=["x", "y", "z"])

    assert load(task, tmp_path).train.labels == ((1, 1, 0), (0, 0, 1), last)


@pytest.mark.parametrize("labels", [None, ["x", "y"]])
def test_a_table_s_column_of_single_codes_is_cut_at_the_separator_too(labels: list[str] | None, tmp_path: Path) -> None:
    """Read as numbers, and as floats where a cell is empty."""
    for name, cells in (("full", ["0", "1", "1"]), ("gap", ["0", "", "1"])):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["text,label", *(f"text {n},{cell}" for n, cell in enumerate(cells))]) + "\n")
        task = task_over("multi-label", {"train": str(path), "dev": str(path)}, separator="|", labels=labels)
        data = load(task, tmp_path / name)
        assert data.label_names == tuple(labels or ("0", "1"))
        assert data.train.labels == ((1, 0), (0, 1) if cells[1] else (0, 0), (0, 1))


def test_a_label_in_a_list_that_is_none_is_a_bad_artifact(tmp_path: Path) -> None:
    assert message_of(tmp_path, task_of(tmp_path, [["a"], ["b", " "]])) == (
        f"train data ({tmp_path}/train.jsonl), row 2: the label is ' ': labels are text or integers, and every row "
        "has one"
    )


def test_data_without_any_label_is_a_bad_artifact(tmp_path: Path) -> None:
    assert message_of(tmp_path, task_of(tmp_path, ["", ""], separator="|")) == (
        f"train data ({tmp_path}/train.jsonl) has no label in any row: there is nothing to learn"
    )


def test_labels_that_the_task_does_not_have_are_listed(tmp_path: Path) -> None:
    assert message_of(tmp_path, task_of(tmp_path, [["a"], ["b"]], [["a", "x"], ["B"]])) == (
        f"dev data ({tmp_path}/dev.jsonl) has labels that are not among the task's: B, x; the task's are a, b "
        "(from train)"
    )
    assert message_of(tmp_path, task_of(tmp_path, [[0, 1], [2]], labels=["no", "yes"])) == (
        f"train data ({tmp_path}/train.jsonl) has labels that are not among the task's: 2; the task's are no, yes "
        "(from the config)"
    )


def test_a_label_that_only_dev_has_cannot_be_learned(tmp_path: Path) -> None:
    assert message_of(tmp_path, task_of(tmp_path, [["a"], ["b"]], [["a", "c"]], labels=["a", "b", "c"])) == (
        "label 'c' occurs in dev and never in train, so nothing can learn it (1 such): add such rows to train, or "
        "take them out of dev"
    )


# -- thresholds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_threshold_is_as_good_as_the_best_that_there_is(seed: int) -> None:
    generator = np.random.default_rng(seed)
    chances = np.round(generator.random(60), 1 + seed % 3).astype(np.float32)  # rounded: with ties
    truths = generator.random(60) < chances * 0.7

    found = best_threshold(chances, truths)

    assert f1(truths, chances >= found) == pytest.approx(best_of_all(chances, truths), abs=1e-12)


def test_a_threshold_takes_equal_probabilities_together() -> None:
    """Taken one by one, the first of the three would be enough."""
    chances, truths = np.array([0.5, 0.5, 0.5, 0.25], np.float32), np.array([True, False, False, True])
    assert best_threshold(chances, truths) == 0.125
    assert best_threshold(chances, np.array([True, False, False, False])) == 0.375


def test_a_threshold_lies_midway_so_that_rounding_moves_nothing() -> None:
    chances, truths = np.array([0.75, 0.25], np.float32), np.array([True, False])
    assert best_threshold(chances, truths) == 0.5


def test_a_threshold_parts_even_neighbours() -> None:
    """In their own precision there is nothing between them."""
    for low in np.array([0.3, 0.5, 0.7], np.float32):
        high = np.nextafter(low, np.float32(1))
        found = best_threshold(np.array([high, low]), np.array([True, False]))
        assert float(low) < found < float(high)


def test_a_threshold_lies_between_nothing_and_all() -> None:
    """A bundle takes no other."""
    for chance in (0.0, 1.0):
        chances = np.full(3, chance, np.float32)
        assert 0 < best_threshold(chances, np.array([True, False, True])) < 1


def test_a_threshold_parts_probabilities_however_small() -> None:
    chances, truths = np.array([5e-7, 1e-7, 2e-8], np.float32), np.array([True, True, False])
    assert 2e-8 < best_threshold(chances, truths) < 1e-7


def test_the_threshold_of_a_label_that_dev_does_not_have_is_a_half() -> None:
    assert best_threshold(np.array([0.9, 0.1], np.float32), np.zeros(2, bool)) == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_a_shared_threshold_has_the_best_micro_f1(seed: int) -> None:
    outputs, data = random(30, seed=seed)
    task = task_over("multi-label")

    fitted = task.fit(outputs, data, None)

    chances, truths = probabilities(np.stack(outputs), task="multi-label"), np.array(data.dev.labels)
    wanted = max(f1_score(truths, chances >= bound, average="micro") for bound in np.unique(chances))
    assert len(set(fitted.thresholds)) == 1
    assert len(fitted.thresholds) == 3
    assert task.score("micro_f1", task.answers(outputs, fitted, None), truths) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_of_their_own_have_the_best_f1_of_each_label(seed: int) -> None:
    outputs, data = random(30, seed=seed)
    task = task_over("multi-label", threshold="per-label", metric="macro_f1")

    fitted = task.fit(outputs, data, None)

    answers, truths = task.answers(outputs, fitted, None), np.array(data.dev.labels, bool)
    chances = probabilities(np.stack(outputs), task="multi-label")
    wanted = [best_of_all(chances[:, c], truths[:, c]) for c in range(3)]
    assert [f1(truths[:, c], answers[:, c] == 1) for c in range(3)] == pytest.approx(wanted, abs=1e-12)
    assert task.score("macro_f1", answers, truths) == pytest.approx(np.mean(wanted), abs=1e-12)
    assert fitted.labels == NAMES


# -- answers and metrics -----------------------------------------------------------------------------------------------


def test_answers_are_the_labels_that_a_client_is_told() -> None:
    outputs, data = random(40)
    fitted = task_over("multi-label", threshold="per-label").fit(outputs, data, None)
    told = results(probabilities(np.stack(outputs), task="multi-label"), spec=spec_of(fitted), items=[("a",)] * 40)

    answers = task_over("multi-label").answers(outputs, fitted, None)

    assert [{NAMES[c] for c in np.flatnonzero(row)} for row in answers] == [set(one["labels"]) for one in told]
    assert 0 < answers.sum() < answers.size


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1"])
def test_a_metric_is_that_of_scikit_learn_and_the_one_that_is_reported(metric: str) -> None:
    outputs, data = random(40)
    task, fitted = (
        task_over("multi-label", metric=metric),
        Fitted("multi-label", NAMES, thresholds=(0.4, 0.5, 1 - 1e-6)),
    )

    judged = task.judged(outputs, data, fitted, None)

    given = probabilities(np.stack(outputs), task="multi-label") >= fitted.thresholds
    wanted = f1_score(np.array(data.test.labels), given, average=metric.removesuffix("_f1"), zero_division=0)
    assert not given[:, 2].any()
    assert tuple(judged) == task.metrics == task.figures
    assert task.metrics[0] == metric
    assert task.score(metric, judged[metric].answers, judged[metric].labels) == pytest.approx(wanted, abs=1e-12)
    found = quality.score(judged[metric].metric, judged[metric].answers, judged[metric].labels, resamples=10)
    assert found.value == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1"])
def test_the_metric_of_one_label_alone_is_its_f1(metric: str) -> None:
    """Its no is not a label too."""
    outputs, data = random(20, labels=1)
    task = task_over("multi-label", metric=metric)

    judged = task.judged(outputs, data, Fitted("multi-label", ("a",), thresholds=(0.5,)), None)[metric]

    truths = np.array(data.test.labels, bool)
    wanted = f1(truths, np.stack(outputs) >= 0)
    assert 0 < wanted < 1
    assert task.score(metric, judged.answers, judged.labels) == pytest.approx(wanted)
    assert quality.score(judged.metric, judged.answers, judged.labels, resamples=10).value == pytest.approx(wanted)
