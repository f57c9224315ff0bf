import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.data.docstring_sets import split_of
from pipeline.data.progress import silent
from pipeline.errors import BadArtifact, BadRequest
from pipeline.tasks import Task

Write = Callable[..., str]
SPLITS = ("train", "dev", "test")
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("train", texts, labels): a jsonl file with columns text and label; its path."""

    def write_file(name: str, texts: list[Any], labels: list[Any]) -> str:
        path = tmp_path / f"{name}.jsonl"
        rows = zip(texts, labels, strict=True)
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
        return str(path)

    return write_file


def task(kind: str = "classification", *, data: dict[str, Any], **settings: Any) -> Any:
    source = {"kind": "files", **data}
    return TypeAdapter(Task).validate_python({"kind": kind, "data": source, **settings})


def texts(count: int) -> list[str]:
    return [f"text number {n}" for n in range(count)]


# -- splits ------------------------------------------------------------------------------------------------------------


def test_all_splits_are_read_as_named(write: Write, cache: Path) -> None:
    paths = {split: write(split, [f"{split} a", f"{split} b"], ["no", "yes"]) for split in ("train", "dev", "test")}

    data = task(data=paths).load(cache, silent, ("train", "dev", "test"))

    assert data.label_names == ("no", "yes")
    assert [data.train.items, data.dev.items] == [(("train a",), ("train b",)), (("dev a",), ("dev b",))]
    assert data.test.labels == (0, 1)
    assert data.overlap == 0


def test_tuning_does_not_so_much_as_open_the_test_split(write: Write, cache: Path, tmp_path: Path) -> None:
    train = write("train", texts(40), [0, 1] * 20)
    (tmp_path / "test.jsonl").write_text("not json, and never read")

    data = task(data={"train": train, "test": str(tmp_path / "test.jsonl")}).load(cache, silent)

    assert set(data.splits) == {"train", "dev"}
    assert data.overlap is None


def test_a_dev_split_is_cut_by_text_so_that_equal_texts_stay_together(write: Write, cache: Path) -> None:
    train = write("train", [*texts(200), *(f"TEXT  number {n}" for n in range(200))], [0, 1] * 200)

    data = task(data={"train": train}, dev_share=0.25).load(cache, silent)

    keys = [{" ".join(t.lower().split()) for (t,) in split.items} for split in (data.train, data.dev)]
    assert keys[0].isdisjoint(keys[1])
    assert len(data.train.items) + len(data.dev.items) == 400
    assert 60 < len(data.dev.items) < 140


def test_more_rows_do_not_move_a_row_between_train_and_dev(write: Write, cache: Path) -> None:
    few = task(data={"train": write("few", texts(100), [0, 1] * 50)}).load(cache, silent)
    many = task(data={"train": write("many", texts(300), [0, 1] * 150)}).load(cache, silent)

    assert set(few.dev.items) <= set(many.dev.items)
    assert set(few.train.items) <= set(many.train.items)


def test_caps_take_the_same_rows_every_time_and_keep_their_order(write: Write, cache: Path) -> None:
    paths = {split: write(split, texts(100), [0, 1] * 50) for split in ("train", "dev", "test")}
    capped = task(data=paths, max_train=10, max_dev=9, max_test=8)

    data = capped.load(cache, silent, ("train", "dev", "test"))

    numbers = [int(text.split()[-1]) for (text,) in data.train.items]
    assert [len(data.splits[split].items) for split in ("train", "dev", "test")] == [10, 9, 8]
    assert numbers == sorted(numbers) != list(range(10))
    assert data == capped.load(cache, silent, ("train", "dev", "test"))


def test_test_items_that_occur_in_train_are_counted_and_kept(write: Write, cache: Path) -> None:
    paths = {
        "train": write("train", texts(50), [0, 1] * 25),
        "test": write("test", ["Text number 3", "text  number 4", "new"], [0, 1, 1]),
    }

    data = task(data=paths, max_train=5).load(cache, silent, ("train", "dev", "test"))

    assert data.overlap == 2
    assert len(data.test.items) == 3


def test_pairs_are_items_of_two_texts(tmp_path: Path, cache: Path) -> None:
    rows = [{"a": f"left {n}", "b": f"right {n}", "score": n / 2} for n in range(50)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {split: str(tmp_path / "pairs.jsonl") for split in ("train", "dev")}
    pairs = task("regression", data=paths, text=["a", "b"], label="score")

    data = pairs.load(cache, silent)

    assert pairs.texts_per_item == 2
    assert data.train.items[1] == ("left 1", "right 1")
    assert data.train.labels[:3] == (0.0, 0.5, 1.0)


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
    write: Write, cache: Path, raw: list[Any], names: tuple[str, ...], indices: tuple[int, ...]
) -> None:
    path = write("train", texts(3), raw)

    data = task(data={"train": path, "dev": path}).load(cache, silent)

    assert data.label_names == names
    assert data.train.labels == indices


@pytest.mark.parametrize("raw", [[0, 1, 1], ["zero", "one", "one"]])
def test_labels_given_in_the_config_name_strings_and_count_integers(write: Write, cache: Path, raw: list[Any]) -> None:
    path = write("train", texts(3), raw)

    data = task(data={"train": path, "dev": path}, labels=["zero", "one", "two"]).load(cache, silent)

    assert data.label_names == ("zero", "one", "two")
    assert data.train.labels == (0, 1, 1)


def test_coded_labels_have_the_names_that_the_data_gives_them(tmp_path: Path, cache: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": texts(4), "label": [1, 0, 1, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    paths = {split: str(tmp_path / "a.parquet") for split in ("train", "dev")}

    data = task(data=paths).load(cache, silent)

    assert data.label_names == ("neg", "pos")
    assert data.train.labels == (1, 0, 1, 1)


def test_docstrings_are_labelled_by_their_library_and_do_not_name_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for library, thing in (("apples", "core"), ("carts", "wheel")):
        paths = [next(p for p in (f"{library}/m{n}.py" for n in range(999)) if split_of(p) == s) for s in SPLITS]
        (tmp_path / library).mkdir()
        for path, word in zip(paths, ("first", "second", "third"), strict=True):
            (tmp_path / path).write_text(f'"""Return the {word} {thing} of {library}.all to it."""')
        info = tmp_path / f"{library}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 1\n")
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in paths))
    source = {"kind": "docstrings", "libraries": ["apples", "carts"]}
    docs = TypeAdapter(Task).validate_python({"kind": "classification", "data": source})

    data = docs.load(cache, silent, SPLITS)

    assert data.label_names == ("apples", "carts")
    assert sorted(zip(data.test.items, data.test.labels, strict=True)) == [
        (("Return the third core of library to it.",), 0),
        (("Return the third wheel of library to it.",), 1),
    ]
    assert data.overlap == 0


# -- what can be wrong with data ---------------------------------------------------------------------------------------


def refused(error: type[Exception], run: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        run()
    return str(caught.value)


def test_a_missing_column_lists_those_there_are(write: Write, cache: Path) -> None:
    path = write("train", texts(4), [0, 1, 0, 1])

    for field in ("text", "label"):
        message = refused(
            BadRequest, lambda field=field: task(data={"train": path}, **{field: "body"}).load(cache, silent)
        )
        assert message == f"train data ({path}) has no column 'body': its columns are text, label"


def test_one_class_only_is_a_bad_artifact(write: Write, cache: Path) -> None:
    path = write("train", texts(4), ["yes"] * 4)

    message = refused(BadArtifact, lambda: task(data={"train": path}).load(cache, silent))

    assert message == f"train data ({path}) holds one class only (yes): a classifier needs two or more"


def test_labels_that_train_does_not_have_are_listed(write: Write, cache: Path) -> None:
    train, dev = write("train", texts(4), ["a", "b"] * 2), write("dev", texts(4), ["a", "B", "c", "c"])

    message = refused(BadArtifact, lambda: task(data={"train": train, "dev": dev}).load(cache, silent))

    assert message == (
        f"dev data ({dev}) has labels that are not among the task's: B, c; the task's are a, b (from train)"
    )


def test_unlabelled_rows_of_a_benchmark_are_not_taken_for_a_class(write: Write, cache: Path) -> None:
    train, test = write("train", texts(40), [0, 1] * 20), write("test", texts(2), [-1, -1])
    named = task(data={"train": train, "test": test}, labels=["no", "yes"])

    message = refused(BadArtifact, lambda: named.load(cache, silent, ("test",)))

    assert message == (
        f"test data ({test}) has labels that are not among the task's: -1; the task's are no, yes (from the config)"
    )


@pytest.mark.parametrize("label", [None, 1.5, ""])
def test_a_label_that_is_none_is_a_bad_artifact(write: Write, cache: Path, label: object) -> None:
    raw = ["a", "b", ""] if label == "" else [0.0, 1.0, label]
    path = write("train", texts(3), raw)

    message = refused(BadArtifact, lambda: task(data={"train": path, "dev": path}).load(cache, silent))

    assert message == (
        f"train data ({path}), row 3: the label is {label!r}: labels are text or integers, and every row has one"
    )


@pytest.mark.parametrize("text", [None, "", "  "])
def test_an_empty_text_is_a_bad_artifact(write: Write, cache: Path, text: str | None) -> None:
    path = write("train", ["a", text, "b"], [0, 1, 0])

    message = refused(BadArtifact, lambda: task(data={"train": path}).load(cache, silent))

    assert message == f"train data ({path}), row 2: column 'text' is empty: remove the row or fill it in"


def test_a_text_column_without_text_is_a_bad_request(write: Write, cache: Path) -> None:
    path = write("train", texts(2), [0, 1])

    message = refused(BadRequest, lambda: task(data={"train": path}, text="label").load(cache, silent))

    assert message == f"train data ({path}): column 'label' holds int values, not text"


def test_an_empty_split_is_a_bad_artifact(tmp_path: Path, write: Write, cache: Path) -> None:
    (tmp_path / "dev.csv").write_text("text,label\n")
    paths = {"train": write("train", texts(2), [0, 1]), "dev": str(tmp_path / "dev.csv")}

    message = refused(BadArtifact, lambda: task(data=paths).load(cache, silent))

    assert message == f"dev data ({tmp_path}/dev.csv) holds no rows"


def test_a_dev_cut_that_leaves_nothing_is_a_bad_artifact(write: Write, cache: Path) -> None:
    path = write("train", ["a", "b"], [0, 1])

    message = refused(BadArtifact, lambda: task(data={"train": path}, dev_share=0.001).load(cache, silent))

    assert message == (
        f"train data ({path}): cutting dev_share 0.001 from 2 rows leaves no dev rows: "
        "change dev_share, or name a dev split"
    )


def test_reporting_without_a_test_split_is_a_bad_request(write: Write, cache: Path) -> None:
    path = write("train", texts(2), [0, 1])

    message = refused(BadRequest, lambda: task(data={"train": path}).load(cache, silent, ("test",)))

    assert message == "the task's data names no test split, and this reports on it: add one"


@pytest.mark.parametrize("score", ["n/a", None, math.nan])
def test_a_score_that_is_not_a_number_is_a_bad_artifact(tmp_path: Path, cache: Path, score: object) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    column = ["1.5", score] if isinstance(score, str) else [1.5, score]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": texts(2), "label": column}), path)
    regression = task("regression", data={"train": str(path), "dev": str(path)})

    message = refused(BadArtifact, lambda: regression.load(cache, silent))

    assert message == f"train data ({path}), row 2: the score is {score!r}, not a number"


def test_a_constant_score_is_a_bad_artifact(write: Write, cache: Path) -> None:
    path = write("train", texts(3), [2.5] * 3)
    regression = task("regression", data={"train": path, "dev": path})

    message = refused(BadArtifact, lambda: regression.load(cache, silent))

    assert message == f"train data ({path}) has the score 2.5 in every row: there is nothing to rank"


@pytest.mark.parametrize(
    ("config", "known"),
    [
        ({"kind": "ranking"}, "'classification', 'regression'"),
        ({"kind": "regression", "data": {"kind": "s3"}}, "'hub', 'files', 'docstrings'"),
    ],
)
def test_an_unknown_kind_is_answered_with_the_right_ones(config: dict[str, Any], known: str) -> None:
    with pytest.raises(ValidationError, match=f"does not match any of the expected tags: {known}"):
        TypeAdapter(Task).validate_python(config)


# -- identity ----------------------------------------------------------------------------------------------------------


def test_an_identity_follows_settings_and_content(write: Write, cache: Path) -> None:
    data = {"train": write("train", texts(4), [0, 1] * 2), "test": write("test", texts(2), [0, 1])}
    before = task(data=data).identity(cache)
    identities = {before, task(data=data, max_train=3).identity(cache), task("regression", data=data).identity(cache)}
    write("test", texts(2), [1, 0, 1][1:])
    assert task(data=data).identity(cache) == before
    write("test", texts(3), [1, 0, 1])
    identities.add(task(data=data).identity(cache))

    assert len(identities) == 4


def test_the_identity_of_the_tuning_splits_does_not_follow_the_test_split(write: Write, cache: Path) -> None:
    data = {"train": write("train", texts(4), [0, 1] * 2), "test": write("test", texts(2), [0, 1])}
    before = task(data=data).identity(cache, ("train", "dev"))
    write("test", texts(3), [1, 0, 1])

    assert task(data=data).identity(cache, ("train", "dev")) == before


# -- metric, head, loss ------------------------------------------------------------------------------------------------


def classifier() -> Any:
    return task(data={"train": "x.jsonl"})


def regressor() -> Any:
    return task("regression", data={"train": "x.jsonl"})


def test_accuracy_is_the_share_of_rows_whose_largest_output_is_the_label() -> None:
    assert classifier().metric_name == "accuracy"
    assert classifier().score(np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]]), (0, 1, 1)) == pytest.approx(2 / 3)


def test_spearman_is_about_ranks_and_a_constant_output_scores_zero() -> None:
    assert regressor().metric_name == "spearman"
    assert regressor().score(np.array([[1.0], [10.0], [100.0]]), (0.1, 0.2, 0.3)) == pytest.approx(1.0)
    assert regressor().score(np.ones((3, 1)), (0.1, 0.2, 0.3)) == 0.0


def test_heads_have_an_output_per_class_or_one() -> None:
    classes, number = classifier().head(("a", "b", "c")), regressor().head(())

    assert (classes.num_outputs, classes.problem_type) == (3, "single_label_classification")
    assert (number.num_outputs, number.problem_type) == (1, "regression")
    assert classes.optimum_task == number.optimum_task == "text-classification"


@pytest.mark.parametrize("make", [classifier, regressor])
def test_every_loss_is_finite_has_a_gradient_and_falls_towards_the_target(make: Callable[[], Any]) -> None:
    outputs = 3 if make is classifier else 1
    logits = torch.zeros(2, outputs, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.tensor([0, 2])

    loss = make().loss(logits, labels)
    loss.backward()
    assert logits.grad is not None
    moved = make().loss((logits - 0.1 * logits.grad).detach(), labels)

    assert torch.isfinite(loss)
    assert moved < loss


# -- real data ---------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_sst2_has_the_published_number_of_rows(cache: Path) -> None:
    paths = {split: str(SHARED / "sst2" / f"{split}.jsonl.gz") for split in SPLITS}

    data = task(data=paths, text="sentence").load(cache, silent, SPLITS)

    assert [len(data.splits[split].items) for split in SPLITS] == [67349, 872, 1821]
    assert data.label_names == ("0", "1")


@pytest.mark.shared
def test_stsb_scores_run_from_0_to_5(cache: Path) -> None:
    paths = {split: str(SHARED / "stsb" / f"{split}.jsonl.gz") for split in SPLITS}
    stsb = task("regression", data=paths, text=["sentence1", "sentence2"], label="score")

    data = stsb.load(cache, silent, SPLITS)

    assert [len(data.splits[split].items) for split in SPLITS] == [5749, 1500, 1379]
    assert (min(data.train.labels), max(data.train.labels)) == (0.0, 5.0)
