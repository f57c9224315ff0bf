"""What `retort bench` reads: bundles by name, targets, texts and labels; and what it refuses."""

import json
from pathlib import Path

import pytest
from fakes import tiny_bundle

from benchmarks.targets import OpenVino, OrtCpu
from pipeline.bench_inputs import golden_items, read_bundles, read_labelled, read_targets, read_unlabelled
from pipeline.errors import BadArtifact, BadRequest


def test_a_bundle_is_called_as_it_calls_itself_or_as_one_likes(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "a", name="student")
    found = read_bundles([str(tmp_path / "a"), f"new={tmp_path / 'a'}"])
    assert {name: bundle.path for name, bundle in found.items()} == {
        "student": tmp_path / "a",
        "new": tmp_path / "a",
    }


def test_two_bundles_of_one_name_are_refused_with_the_way_out(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "a", name="student")
    with pytest.raises(BadRequest) as caught:
        read_bundles([str(tmp_path / "a")] * 2)
    assert str(caught.value) == (
        f"two bundles are called 'student': tell them apart by NAME=FOLDER, as in new={tmp_path / 'a'}"
    )


@pytest.mark.parametrize("name", ["", "a/b", "..", "1st", "a b", "new*"])
def test_a_name_that_rules_and_files_cannot_have_is_refused(tmp_path: Path, name: str) -> None:
    tiny_bundle(tmp_path / "a")
    with pytest.raises(BadRequest) as caught:
        read_bundles([f"{name}={tmp_path / 'a'}"])
    assert str(caught.value) == (
        f"{name}={tmp_path / 'a'}: a bundle cannot be called {name!r}, as rules and files name it: NAME=FOLDER takes a "
        "letter, then letters, digits, '_', '-' and '.', as in new=path/to/bundle"
    )


def test_what_a_bundle_calls_itself_must_be_such_a_name_too(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "a", name="a/b")
    with pytest.raises(BadRequest, match=r"a bundle cannot be called 'a/b'"):
        read_bundles([str(tmp_path / "a")])
    assert list(read_bundles([f"b={tmp_path / 'a'}"])) == ["b"]


def test_a_folder_that_is_there_may_have_an_equals_sign_in_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "lr=3e-4" / "bundle"
    tiny_bundle(folder, name="student")
    found = read_bundles([str(folder), f"new={folder}"])
    assert {name: bundle.path for name, bundle in found.items()} == {"student": folder, "new": folder}


def test_bundles_of_different_tasks_are_refused(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "a", name="a")
    tiny_bundle(tmp_path / "b", name="b", task="embedding")
    with pytest.raises(BadRequest) as caught:
        read_bundles([str(tmp_path / "a"), str(tmp_path / "b")])
    assert str(caught.value) == (
        "bundles are compared on the same items, and these do: a classification of 1 text(s), b embedding of 1 "
        "text(s); measure them apart"
    )


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="is not a bundle"):
        read_bundles([str(tmp_path)])


def test_a_target_is_a_kind_or_its_settings() -> None:
    found = read_targets(["ort-cpu", "{kind: openvino, precision: bf16, threads: 2}"], threads=1)
    assert found == {"ort-cpu": OrtCpu(threads=1), "openvino": OpenVino(precision="bf16", threads=2)}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["ort-gpu"],
            "--target ort-gpu: Input tag 'ort-gpu' found using 'kind' does not match any of the expected tags",
        ),
        (["{kind: openvino, precision: int3}"], "Input should be 'fp32' or 'bf16'"),
        (["{kind: ort-cpu, speed: 11}"], "Extra inputs are not permitted"),
        (["{kind"], "--target {kind: it is not YAML"),
        (["torch"], "--target torch: torch runs model folders, not bundles"),
    ],
)
def test_a_wrong_target_is_answered_with_the_right_ones(texts: list[str], message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_targets(texts, threads=None)
    assert message in str(caught.value)
    assert "ort-cpu, ort-cuda, openvino" in str(caught.value)


def test_one_target_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"^--target ort-cpu is given twice: one session has each kind once$"):
        read_targets(["ort-cpu", "{kind: ort-cpu, threads: 2}"], threads=None)


def test_labels_are_those_of_the_bundle_also_where_the_file_lacks_some(tmp_path: Path) -> None:
    spec = tiny_bundle(tmp_path / "a", labels=("bad", "good", "dull")).spec
    rows = [{"query": "fine", "intent": label} for label in ("dull", "good", "dull")]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = read_labelled(tmp_path / "x.jsonl", spec, text="query", label="intent", cache=tmp_path / "cache")
    assert given.items == (("fine",),) * 3
    assert given.labelled is not None
    task, data = given.labelled
    assert (task.kind, data.label_names, data.test.labels) == ("classification", ("bad", "good", "dull"), (2, 1, 2))


def test_pairs_have_two_columns(tmp_path: Path) -> None:
    spec = tiny_bundle(tmp_path / "a", task="regression", texts_per_item=2).spec
    (tmp_path / "x.csv").write_text("one,other,score\ngood,bad,0.5\nfine,dull,1.5\n")
    given = read_labelled(tmp_path / "x.csv", spec, text="one, other", label="score", cache=tmp_path / "cache")
    assert given.items == (("good", "bad"), ("fine", "dull"))
    plain = read_unlabelled(tmp_path / "x.csv", text="one,other", cache=tmp_path / "cache")
    assert (plain.items, plain.labelled) == (given.items, None)


def test_a_label_that_the_bundle_has_not_is_refused(tmp_path: Path) -> None:
    spec = tiny_bundle(tmp_path / "a", labels=("bad", "good")).spec
    (tmp_path / "x.csv").write_text("text,label\nfine,bad\ndull,ugly\n")
    with pytest.raises(BadArtifact, match="has labels that are not among the task's: ugly; the task's are bad, good"):
        read_labelled(tmp_path / "x.csv", spec, text=None, label=None, cache=tmp_path / "cache")


def test_numbers_where_the_bundle_has_names_are_refused_with_the_columns(tmp_path: Path) -> None:
    spec = tiny_bundle(tmp_path / "a", labels=("bad", "good")).spec
    (tmp_path / "x.csv").write_text("text,label,name\nfine,1,bad\ndull,0,good\n")
    with pytest.raises(BadRequest) as caught:
        read_labelled(tmp_path / "x.csv", spec, text=None, label=None, cache=tmp_path / "cache")
    assert str(caught.value) == (
        f"test data ({tmp_path / 'x.csv'}): column 'label' holds numbers (1, 0), and the bundle answers in names (bad, "
        "good): give the column of names with --label; there are text, label, name"
    )
    named = read_labelled(tmp_path / "x.csv", spec, text=None, label="name", cache=tmp_path / "cache")
    assert named.labelled is not None
    assert named.labelled[1].test.labels == (0, 1)


def test_numbers_are_labels_where_the_bundle_says_so(tmp_path: Path) -> None:
    spec = tiny_bundle(tmp_path / "a", labels=("0", "1")).spec
    (tmp_path / "x.csv").write_text("text,label\nfine,1\ndull,0\n")
    found = read_labelled(tmp_path / "x.csv", spec, text=None, label=None, cache=tmp_path / "cache")
    assert found.labelled is not None
    assert found.labelled[1].test.labels == (1, 0)


def test_tags_are_told_by_their_types(tmp_path: Path) -> None:
    spec = tiny_bundle(tmp_path / "a", task="token-classification").spec
    rows = [{"tokens": ["good", "awful"], "tags": ["B-mood", "I-mood"]}, {"tokens": ["bad"], "tags": ["O"]}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = read_labelled(tmp_path / "x.jsonl", spec, text=None, label=None, cache=tmp_path / "cache")
    assert given.labelled is not None
    assert given.labelled[1].label_names == spec.labels
    assert given.items == (("good awful",), ("bad",))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"^--texts names .*none\.txt, and no file is there"):
        read_unlabelled(tmp_path / "none.txt", text=None, cache=tmp_path / "cache")


def test_lines_of_a_text_file_are_texts(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("good bad\nfine\n")
    assert read_unlabelled(tmp_path / "x.txt", text=None, cache=tmp_path / "cache").items == (("good bad",), ("fine",))


def test_without_texts_a_bundle_s_own_are_asked(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "a")
    assert golden_items({"a": bundle}).items == tuple(tuple(item) for item in bundle.golden.items)
