import lzma
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.data.corpus import CorpusSource
from pipeline.data.progress import silent
from pipeline.errors import BadArtifact, BadRequest

T = TypeVar("T")
Install = Callable[..., None]
WriteJsonl = Callable[[str, list[dict[str, object]]], str]


def corpus(**fields: object) -> Any:
    return TypeAdapter(CorpusSource).validate_python(fields)


def test_a_text_file_has_a_paragraph_a_line_and_blank_lines_do_not_count(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"One paragraph.\n\nAnother one.\r\n \n"))

    texts = corpus(kind="files", files=str(tmp_path / "a.txt.xz")).texts(cache, silent)

    assert list(texts) == ["One paragraph.", "Another one."]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_texts": 2}, ["a a", "b b b"]),
        ({"max_words": 6}, ["a a", "b b b"]),
        ({"max_words": 5}, ["a a", "b b b"]),
        ({"max_words": 4, "max_texts": 9}, ["a a"]),
        ({}, ["a a", "b b b", "c c"]),
    ],
)
def test_limits_are_upper_bounds(tmp_path: Path, cache: Path, limits: dict[str, int], expected: list[str]) -> None:
    (tmp_path / "a.txt").write_text("a a\nb b b\nc c\n")

    assert list(corpus(kind="files", files=str(tmp_path / "a.txt"), **limits).texts(cache, silent)) == expected


@pytest.mark.parametrize("limits", [{"max_texts": 2}, {"max_words": 6}])
def test_limits_hold_anew_whenever_the_text_is_read_again(tmp_path: Path, cache: Path, limits: dict[str, int]) -> None:
    (tmp_path / "a.txt").write_text("a a\nb b b\nc c\n")
    source = corpus(kind="files", files=str(tmp_path / "a.txt"), **limits)

    assert [list(source.texts(cache, silent)) for _ in range(3)] == [["a a", "b b b"]] * 3


def test_what_lies_past_the_limit_is_never_read(tmp_path: Path, cache: Path) -> None:
    whole = lzma.compress("".join(f"line {n} {hash(str(n))}\n" for n in range(200_000)).encode(), preset=0)
    (tmp_path / "cut.txt.xz").write_bytes(whole[: len(whole) // 2])

    texts = list(corpus(kind="files", files=str(tmp_path / "cut.txt.xz"), max_texts=100).texts(cache, silent))

    assert len(texts) == 100


def test_a_column_is_streamed_from_rows(write_jsonl: WriteJsonl, cache: Path) -> None:
    path = write_jsonl("a.jsonl", [{"body": "one"}, {"body": "two"}])

    assert list(corpus(kind="files", files=[path], column="body").texts(cache, silent)) == ["one", "two"]


def test_docstrings_are_text_too_and_progress_is_shown(install: Install, cache: Path) -> None:
    install("apples", {"apples/m0.py": '"""Return the core of every red apple."""', "apples/m1.py": ""})
    shown: list[tuple[str, int | None]] = []

    def progress(items: Iterable[T], what: str, total: int | None) -> Iterable[T]:
        shown.append((what, total))
        return items

    texts = corpus(kind="docstrings", libraries=["apples"], max_texts=5).texts(cache, progress)

    assert list(texts) == ["Return the core of every red apple."]
    assert shown == [("reading docstrings of apples", 2), ("reading text", 5)]


def test_an_identity_changes_with_content_column_and_limits(write_jsonl: WriteJsonl, cache: Path) -> None:
    path = write_jsonl("a.jsonl", [{"text": "one"}])
    other = write_jsonl("b.jsonl", [{"text": "two"}])
    fields: list[dict[str, object]] = [{"files": path}, {"files": other}, {"files": path, "column": "c"}]
    fields.append({"files": path, "max_words": 3})

    identities = {corpus(kind="files", **each).identity(cache) for each in fields}

    assert len(identities) == 4
    assert corpus(kind="files", files=path).identity(cache) in identities


def test_a_docstring_identity_changes_with_the_version(install: Install, cache: Path) -> None:
    source = corpus(kind="docstrings", libraries=["apples"])
    install("apples", {"apples/a.py": ""})
    before = source.identity(cache)
    install("apples", {"apples/a.py": ""}, version="2.0")

    assert source.identity(cache) != before


def test_a_hub_identity_is_the_commit(cache: Path) -> None:
    one, two = (corpus(kind="hub", id="owner/text", revision=digit * 40).identity(cache) for digit in "ab")

    assert one != two


def test_a_missing_column_lists_those_there_are(write_jsonl: WriteJsonl, cache: Path) -> None:
    path = write_jsonl("a.jsonl", [{"body": "one", "id": 1}])

    with pytest.raises(BadRequest) as caught:
        list(corpus(kind="files", files=path).texts(cache, silent))

    assert str(caught.value) == f"text ({path}) has no column 'text': its columns are body, id"


def test_a_null_text_is_a_bad_artifact(write_jsonl: WriteJsonl, cache: Path) -> None:
    path = write_jsonl("a.jsonl", [{"text": "one"}, {"text": None}])

    with pytest.raises(BadArtifact) as caught:
        list(corpus(kind="files", files=path).texts(cache, silent))

    assert str(caught.value) == f"text ({path}), row 2: None is not text: remove the row or choose another column"


def test_a_corpus_without_text_is_a_bad_artifact(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n")

    with pytest.raises(BadArtifact) as caught:
        list(corpus(kind="files", files=str(tmp_path / "a.txt")).texts(cache, silent))

    assert str(caught.value) == (
        f"text ({tmp_path}/a.txt) holds no text within the limits: raise max_words or give other text"
    )


def test_an_unknown_kind_is_answered_with_the_right_ones() -> None:
    with pytest.raises(
        ValidationError, match=r"'file' found using 'kind' .* expected tags: 'hub', 'files', 'docstrings'"
    ):
        corpus(kind="file", files="a.txt")


SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.mark.shared
def test_a_large_corpus_is_read_only_as_far_as_asked(cache: Path) -> None:
    source = corpus(kind="files", files=str(SHARED / "corpus_wiki_en" / "train.txt.xz"), max_words=20_000)

    texts = list(source.texts(cache, silent))

    assert 19_000 < sum(len(text.split()) for text in texts) <= 20_000
