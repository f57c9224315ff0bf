"""What every task has: splits read and checked, an identity, a head, a loss, figures. What one kind alone has is in
tasking/."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from taskdata import load, refused, task_over, write

from pipeline.data.docstring_sets import split_of
from pipeline.errors import BadArtifact, BadRequest
from pipeline.gates import TASK_METRICS
from pipeline.tasking.base import ALL, TUNING, Places, Split, TaskData
from pipeline.tasking.tagging import Tagging
from pipeline.tasks import AnyTask, Task, TaskSplits
from pipeline.weighted_metrics import METRICS
from serving.bundle import TaskKind

Rows = Callable[..., str]
KINDS = get_args(TaskKind)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """rows("train", texts, labels): a file with columns text and label; its path."""
    return lambda name, texts, labels: write(tmp_path, name, text=texts, label=labels)


def texts(count: int) -> list[str]:
    return [f"text number {n}" for n in range(count)]


def classes(paths: dict[str, str], **settings: Any) -> Any:
    return task_over("classification", paths, **settings)


# -- splits ------------------------------------------------------------------------------------------------------------


def test_all_splits_are_read_as_named(rows: Rows, tmp_path: Path) -> None:
    paths = {split: rows(split, [f"{split} a", f"{split} b"], ["no", "yes"]) for split in ALL}

    data = load(classes(paths), tmp_path, ALL)

    assert data.label_names == ("no", "yes")
    assert [data.train.items, data.dev.items] == [(("train a",), ("train b",)), (("dev a",), ("dev b",))]
    assert data.test.labels == (0, 1)
    assert data.reported == data.test.items
    assert data.overlap == 0


def test_tuning_does_not_so_much_as_open_the_test_split(rows: Rows, tmp_path: Path) -> None:
    train = rows("train", texts(40), [0, 1] * 20)
    (tmp_path / "test.jsonl").write_text("not json, and never read")

    data = load(classes({"train": train, "test": str(tmp_path / "test.jsonl")}), tmp_path)

    assert set(data.splits) == {"train", "dev"}
    assert data.overlap is None


def test_a_dev_split_is_cut_by_text_so_that_equal_texts_stay_together(rows: Rows, tmp_path: Path) -> None:
    train = rows("train", [*texts(200), *(f"TEXT  number {n}" for n in range(200))], [0, 1] * 200)

    data = load(classes({"train": train}, dev_share=0.25), tmp_path)

    keys = [{" ".join(t.lower().split()) for (t,) in split.items} for split in (data.train, data.dev)]
    assert keys[0].isdisjoint(keys[1])
    assert len(data.train.items) + len(data.dev.items) == 400
    assert 60 < len(data.dev.items) < 140


def test_more_rows_do_not_move_a_row_between_train_and_dev(rows: Rows, tmp_path: Path) -> None:
    few = load(classes({"train": rows("few", texts(100), [0, 1] * 50)}), tmp_path)
    many = load(classes({"train": rows("many", texts(300), [0, 1] * 150)}), tmp_path)

    assert set(few.dev.items) <= set(many.dev.items)
    assert set(few.train.items) <= set(many.train.items)


def test_caps_take_the_same_rows_every_time_and_keep_their_order(rows: Rows, tmp_path: Path) -> None:
    paths = {split: rows(split, texts(100), [0, 1] * 50) for split in ALL}
    capped = classes(paths, max_train=10, max_dev=9, max_test=8)

    data = load(capped, tmp_path, ALL)

    numbers = [int(text.split()[-1]) for (text,) in data.train.items]
    assert [len(data.splits[split].items) for split in ALL] == [10, 9, 8]
    assert numbers == sorted(numbers) != list(range(10))
    assert data == load(capped, tmp_path, ALL)


def test_test_items_that_occur_in_train_are_counted_and_kept(rows: Rows, tmp_path: Path) -> None:
    paths = {
        "train": rows("train", texts(50), [0, 1] * 25),
        "test": rows("test", ["Text number 3", "text  number 4", "new"], [0, 1, 1]),
    }

    data = load(classes(paths, max_train=5), tmp_path, ALL)

    assert data.overlap == 2
    assert len(data.test.items) == 3


@pytest.mark.parametrize("splits", [ALL, ("test",)])
def test_nothing_is_cut_from_train_before_the_overlap_is_counted_where_dev_is_named(
    rows: Rows, tmp_path: Path, splits: Any
) -> None:
    paths = {split: rows(split, texts(100), [0, 1] * 50) for split in ALL}

    data = load(classes(paths), tmp_path, splits)

    assert data.overlap == 100


def test_docstrings_are_labelled_by_their_library_and_do_not_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for library, thing in (("apples", "core"), ("carts", "wheel")):
        paths = [next(p for p in (f"{library}/m{n}.py" for n in range(999)) if split_of(p) == s) for s in ALL]
        (tmp_path / library).mkdir()
        for path, word in zip(paths, ("first", "second", "third"), strict=True):
            (tmp_path / path).write_text(f'"""Return the {word} {thing} of {library}.all to it."""')
        info = tmp_path / f"{library}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 1\n")
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in paths))
    source = {"kind": "docstrings", "libraries": ["apples", "carts"]}
    docs = TypeAdapter(Task).validate_python({"kind": "classification", "data": source})

    data = load(docs, tmp_path, ALL)

    assert data.label_names == ("apples", "carts")
    assert sorted(zip(data.test.items, data.test.labels, strict=True)) == [
        (("Return the third core of library to it.",), 0),
        (("Return the third wheel of library to it.",), 1),
    ]
    assert data.overlap == 0


# -- what can be wrong with data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_lists_those_there_are(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, "train", one=["a"], two=["b"])
    pair = {"text": ["one", "two"]} if kind == "embedding" else {"text": "one"}

    for settings in ({**pair, "label": "body"}, {"text": ["body", "two"] if kind == "embedding" else "body"}):
        message = refused(
            BadRequest,
            lambda told=settings: load(task_over(kind, {"train": path}, **{"label": "two", **told}), tmp_path),
        )
        assert message == f"train data ({path}) has no column 'body': its columns are one, two"


@pytest.mark.parametrize("text", [None, "", "  "])
def test_an_empty_text_is_a_bad_artifact(rows: Rows, tmp_path: Path, text: str | None) -> None:
    path = rows("train", ["a", text, "b"], [0, 1, 0])

    message = refused(BadArtifact, lambda: load(classes({"train": path}), tmp_path))

    assert message == f"train data ({path}), row 2: column 'text' is empty: remove the row or fill it in"


def test_a_text_column_without_text_is_a_bad_request(rows: Rows, tmp_path: Path) -> None:
    path = rows("train", texts(2), [0, 1])

    message = refused(BadRequest, lambda: load(classes({"train": path}, text="label"), tmp_path))

    assert message == f"train data ({path}): column 'label' holds int values, not text"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "embedding"])
def test_an_empty_split_is_a_bad_artifact(tmp_path: Path, kind: str) -> None:
    (tmp_path / "train.csv").write_text("text,label\n")
    task = task_over(kind, {"train": str(tmp_path / "train.csv")}, text="text", label="label")

    message = refused(BadArtifact, lambda: load(task, tmp_path))

    assert message == f"train data ({tmp_path}/train.csv) holds no rows"


def test_a_dev_cut_that_leaves_nothing_is_a_bad_artifact(rows: Rows, tmp_path: Path) -> None:
    path = rows("train", ["a", "b"], [0, 1])

    message = refused(BadArtifact, lambda: load(classes({"train": path}, dev_share=0.001), tmp_path))

    assert message == (
        f"train data ({path}): cutting dev_share 0.001 from 2 rows leaves no dev rows: "
        "change dev_share, or name a dev split"
    )


def test_reporting_without_a_test_split_is_a_bad_request(rows: Rows, tmp_path: Path) -> None:
    path = rows("train", texts(2), [0, 1])

    message = refused(BadRequest, lambda: load(classes({"train": path}), tmp_path, ("test",)))

    assert message == "the task's data names no test split, and this reports on it: add one"


# -- kinds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_a_server_answers_loads_from_yaml(kind: str) -> None:
    told = yaml.safe_load(f"{{kind: {kind}, data: {{kind: files, train: train.jsonl}}}}")

    task = TypeAdapter(Task).validate_python(told)

    assert task.kind == kind
    assert TypeAdapter(Task).validate_python(task.model_dump(mode="json")) == task


def test_there_is_no_kind_that_a_server_does_not_answer() -> None:
    assert sorted(member.model_fields["kind"].default for member in get_args(AnyTask)) == sorted(KINDS)


@pytest.mark.parametrize(
    ("config", "known"),
    [
        ({"kind": "ranking"}, "'classification', 'multi-label', 'regression', 'token-classification', 'embedding'"),
        ({"kind": "regression", "data": {"kind": "s3"}}, "'hub', 'files', 'docstrings'"),
    ],
)
def test_an_unknown_kind_is_answered_with_the_right_ones(config: dict[str, Any], known: str) -> None:
    with pytest.raises(ValidationError, match=f"does not match any of the expected tags: {known}"):
        TypeAdapter(Task).validate_python(config)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("classification", {"threshold": "shared"}),
        ("regression", {"threshold": "shared"}),
        ("token-classification", {"threshold": "per-label"}),
        ("embedding", {"threshold": "shared"}),
        ("multi-label", {"refusal": {"keep": 0.9}}),
        ("regression", {"labels": ["a", "b"]}),
        ("embedding", {"class_weights": "balanced"}),
        ("regression", {"label_smoothing": 0.1}),
    ],
)
def test_a_setting_of_another_kind_is_refused(kind: str, setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        task_over(kind, **setting)
    assert [(mistake["loc"], mistake["type"]) for mistake in caught.value.errors()] == [
        ((kind, *setting), "extra_forbidden")
    ]


OF_ITS_OWN = "give every label a name of its own"


@pytest.mark.parametrize(
    ("kind", "setting", "said"),
    [
        ("classification", {"label_smoothing": 1.0}, "Input should be less than 1"),
        ("multi-label", {"label_smoothing": -0.1}, "Input should be greater than or equal to 0"),
        ("classification", {"labels": ["one"]}, "Tuple should have at least 2 items after validation, not 1"),
        ("multi-label", {"labels": []}, "Tuple should have at least 1 item after validation, not 0"),
        ("multi-label", {"labels": ["a", "b", "b"]}, "Value error, 'b' is named more than once: " + OF_ITS_OWN),
        ("token-classification", {"labels": ["x", "x"]}, "Value error, 'x' is named more than once: " + OF_ITS_OWN),
        ("embedding", {"text": "text"}, "Input should be a valid tuple"),
        ("token-classification", {"text": ["a", "b"]}, "Input should be a valid string"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(kind: str, setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        task_over(kind, **setting)
    assert [mistake["msg"] for mistake in caught.value.errors()] == [said]


# -- identity ----------------------------------------------------------------------------------------------------------


def test_an_identity_follows_settings_and_content(rows: Rows, tmp_path: Path) -> None:
    cache, paths = (
        tmp_path / "cache",
        {"train": rows("train", texts(4), [0, 1] * 2), "test": rows("test", "ab", [0, 1])},
    )
    before = classes(paths).identity(cache)
    changed = (classes(paths, max_train=3), classes(paths, max_test=3), classes(paths, label_smoothing=0.1))
    identities = {before, task_over("regression", paths).identity(cache), *(task.identity(cache) for task in changed)}
    rows("test", "ab", [0, 1])
    assert classes(paths).identity(cache) == before
    rows("test", "abc", [1, 0, 1])
    identities.add(classes(paths).identity(cache))

    assert len(identities) == 6


def test_the_identity_of_the_tuning_splits_follows_nothing_of_the_test_split(rows: Rows, tmp_path: Path) -> None:
    """Neither its rows nor how many of them are taken."""
    cache, paths = (
        tmp_path / "cache",
        {"train": rows("train", texts(4), [0, 1] * 2), "test": rows("test", "ab", [0, 1])},
    )
    before = classes(paths).identity(cache, TUNING)
    rows("test", "abc", [1, 0, 1])

    assert classes(paths, max_test=7).identity(cache, TUNING) == before
    assert TaskSplits(classes(paths), TUNING).identity(cache) == before
    assert TaskSplits(classes(paths), ALL).identity(cache) != before


# -- head, loss, figures -----------------------------------------------------------------------------------------------

NAMES = ("O", "B-x", "I-x")
TARGETS: dict[str, tuple[Any, ...]] = {
    "classification": (0, 2, 1, 1),
    "multi-label": ((1, 0, 0), (0, 1, 1), (0, 0, 0), (1, 0, 1)),
    "regression": (0.5, -1.0, 2.0, 0.0),
    "token-classification": tuple(Tagging(((0, 1), (2, 3)), tags) for tags in ((0, 1), (1, 2), (0, 0), (1, 0))),
    "embedding": (1.0, 3.0),
}
HEADS = {
    "classification": (3, "single_label_classification", "text-classification"),
    "multi-label": (3, "multi_label_classification", "text-classification"),
    "regression": (1, "regression", "text-classification"),
    "token-classification": (3, None, "token-classification"),
    "embedding": (0, None, "feature-extraction"),
}


def example(kind: str) -> tuple[Any, TaskData, Places | None, tuple[int, ...]]:
    """A task, data for all splits, where words begin, and the shape of a batch's outputs."""
    tagged = kind == "token-classification"
    split = Split((("a b",),) * 4, TARGETS[kind])
    data = TaskData(NAMES if HEADS[kind][0] == 3 else (), dict.fromkeys(ALL, split), 0)
    places: Places | None = [np.array([[1, 2], [2, 3]])] * 4 if tagged else None
    return task_over(kind), data, places, (4, 4, 3) if tagged else (4, HEADS[kind][0] or 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_has_an_output_for_every_label_or_one_or_none(kind: str) -> None:
    task, data, *_ = example(kind)
    head = task.head(data.label_names)
    assert (head.num_outputs, head.problem_type, head.optimum_task) == HEADS[kind]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "embedding"])
def test_every_loss_is_finite_has_a_gradient_and_falls_towards_the_target(kind: str, dtype: torch.dtype) -> None:
    task, data, places, shape = example(kind)
    criterion, targets = task.criterion(data), torch.from_numpy(task.targets(data.train, range(4), places, shape[1]))
    outputs = torch.zeros(shape, dtype=dtype, requires_grad=True)

    loss = criterion.total(outputs, targets)
    loss.backward()
    assert outputs.grad is not None
    moved = criterion.total((outputs - 0.1 * outputs.grad).detach(), targets)

    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert moved < loss


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_answers_as_its_teacher_has_nothing_left_to_learn_of_it(kind: str) -> None:
    task, data, places, shape = example(kind)
    generator = np.random.default_rng(0)
    teacher, other = (torch.from_numpy(generator.normal(0, 2, shape).astype(np.float32)) for _ in range(2))
    targets = torch.from_numpy(task.targets(data.train, range(4), places, shape[1]))

    assert task.distilled(teacher, teacher, targets, t=2.0).item() == pytest.approx(0, abs=1e-5)
    student = other.requires_grad_()
    distance = task.distilled(student, teacher, targets, t=2.0)
    distance.backward()
    assert student.grad is not None
    assert distance > 0.1
    assert task.distilled((student - 0.05 * student.grad).detach(), teacher, targets, t=2.0) < distance


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_can_be_computed_and_gated(kind: str) -> None:
    task, data, places, shape = example(kind)
    outputs = list(np.random.default_rng(0).normal(0, 2, shape).astype(np.float32))
    fitted = task.fit(outputs, data, places)

    judged = task.judged(outputs, data, fitted, places)

    assert tuple(judged) == task.figures
    assert set(task.figures) <= set(TASK_METRICS)
    assert {one.metric for one in judged.values()} <= set(METRICS)
    assert (fitted.kind, fitted.labels) == (kind, data.label_names)


# -- real data ---------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_sst2_has_the_published_number_of_rows(tmp_path: Path) -> None:
    paths = {split: str(SHARED / "sst2" / f"{split}.jsonl.gz") for split in ALL}

    data = load(classes(paths, text="sentence"), tmp_path, ALL)

    assert [len(data.splits[split].items) for split in ALL] == [67349, 872, 1821]
    assert data.label_names == ("0", "1")


@pytest.mark.shared
def test_stsb_scores_run_from_0_to_5(tmp_path: Path) -> None:
    paths = {split: str(SHARED / "stsb" / f"{split}.jsonl.gz") for split in ALL}
    stsb = task_over("regression", paths, text=["sentence1", "sentence2"], label="score")

    data = load(stsb, tmp_path, ALL)

    assert [len(data.splits[split].items) for split in ALL] == [5749, 1500, 1379]
    assert (min(data.train.labels), max(data.train.labels)) == (0.0, 5.0)


@pytest.mark.shared
def test_wnut17_has_the_published_number_of_entities(tmp_path: Path) -> None:
    from seqeval.metrics.sequence_labeling import get_entities

    paths = {split: str(SHARED / "wnut17" / f"{split}.jsonl.gz") for split in ALL}
    wnut = task_over("token-classification", paths, alternatives=",")

    data = load(wnut, tmp_path, ALL)

    assert [len(data.splits[split].items) for split in ALL] == [3394, 1009, 1287]
    assert len(data.label_names) == 13
    found = [sum(wnut.label_counts(data.splits[split], data.label_names).values()) for split in ALL]
    assert found == [1975, 836, 978]
    tags = [[data.label_names[tag] for tag in each.tags] for each in data.test.labels]
    assert sum(len(get_entities(each)) for each in tags) == 980, "two that go on without a beginning, as in the data"


@pytest.mark.shared
def test_clinc150_has_150_intents_and_1000_texts_of_none(tmp_path: Path) -> None:
    folder = SHARED / "clinc150"
    paths = {split: str(folder / f"{name}.jsonl.gz") for split, name in zip(ALL, ("train", "val", "test"), strict=True)}
    outside = {"kind": "files", "train": "nowhere.jsonl", "test": str(folder / "oos_test.jsonl.gz")}

    data = load(classes(paths, refusal={"data": outside}), tmp_path, ALL)

    assert [len(data.splits[split].items) for split in ALL] == [15000, 3000, 4500]
    assert (len(data.label_names), len(data.outside)) == (150, 1000)
