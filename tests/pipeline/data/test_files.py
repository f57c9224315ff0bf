import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from pipeline.data.files import expand, files_identity, format_of, load_files, stream_files
from pipeline.errors import BadArtifact, BadRequest

ROWS = '{"text": "a b", "label": 1}\n{"text": "NA", "label": 0}\n'


def load(path: Path, cache: Path) -> tuple[tuple[str, ...], list[object]]:
    files = expand((str(path),), what="`train`")
    table = load_files(
        files, format_name=format_of(files, declared="by-suffix", what="`train`"), where="train", cache=cache
    )
    return table.columns, list(table.column("text"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ROWS.encode()),
        ("a.jsonl.gz", gzip.compress(ROWS.encode())),
        ("a.json.xz", lzma.compress(ROWS.encode())),
        ("a.csv.bz2", bz2.compress(b"text,label\na b,1\nNA,0\n")),
        ("a.csv", b"text,label\na b,1\nNA,0\n"),
        ("a.tsv", b"text\tlabel\na b\t1\nNA\t0\n"),
    ],
)
def test_a_format_is_known_by_its_suffix_and_words_are_not_missing_values(
    tmp_path: Path, cache: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)

    assert load(tmp_path / name, cache) == (("text", "label"), ["a b", "NA"])


def test_parquet_is_read(tmp_path: Path, cache: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a b"], "label": [1]}), tmp_path / "a.parquet")

    assert load(tmp_path / "a.parquet", cache) == (("text", "label"), ["a b"])


def test_an_unbalanced_quote_in_a_tsv_swallows_nothing(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\n"a b\t1\nc d\t0\n')

    assert load(tmp_path / "a.tsv", cache)[1] == ['"a b', "c d"]


def test_a_changed_file_is_not_read_from_the_cache(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "old"}\n')
    assert load(path, cache)[1] == ["old"]
    path.write_text('{"text": "newer"}\n')

    assert load(path, cache)[1] == ["newer"]


def test_globs_and_file_urls_name_files_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.csv"):
        (tmp_path / name).write_text("x")

    found = expand((f"{tmp_path}/*.txt", f"file://{tmp_path}/c.csv"), what="`train`")

    assert found == tuple(str(tmp_path / name) for name in ("a.txt", "b.txt", "c.csv"))


def test_a_url_is_opened_by_fsspec_and_known_by_what_its_store_says(cache: Path) -> None:
    import fsspec

    with fsspec.open("memory://retort-test/a.txt", "w") as file:
        file.write("one\n\ntwo\n")
    files = expand(("memory://retort-test/*.txt",), what="`files`")

    assert list(stream_files(files, format_name="text", column="text", where="text")) == ["one", "", "two"]
    assert files_identity(files, format_name="text", cache=cache) == files_identity(
        files, format_name="text", cache=cache
    )


def test_an_identity_follows_the_content_and_the_format(tmp_path: Path, cache: Path) -> None:
    for name, text in (("a.txt", "x"), ("same.txt", "x"), ("other.txt", "y")):
        (tmp_path / name).write_text(text)

    a, same, other = (
        files_identity((str(tmp_path / f"{name}.txt"),), format_name="text", cache=cache)
        for name in ("a", "same", "other")
    )

    assert a == same != other
    assert files_identity((str(tmp_path / "a.txt"),), format_name="csv", cache=cache) != a


def test_a_missing_file_is_a_bad_request(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        expand((f"{tmp_path}/no-*.jsonl",), what="`train`")

    assert (
        str(caught.value)
        == f"`train` names {tmp_path}/no-*.jsonl, and no file is there (looked at {tmp_path}/no-*.jsonl)"
    )


def test_a_missing_remote_file_is_a_bad_request() -> None:
    with pytest.raises(BadRequest) as caught:
        expand(("memory://retort-test/nothing.csv",), what="`train`")

    assert str(caught.value) == "`train` names memory://retort-test/nothing.csv, and no file is there"


def test_an_unknown_protocol_is_a_bad_request() -> None:
    with pytest.raises(
        BadRequest, match=r"^`train` names gopher://x/a\.csv, which fsspec cannot open: Protocol not known"
    ):
        expand(("gopher://x/a.csv",), what="`train`")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("a.doc.gz",),
            "`train` has files ending in '.doc': "
            "give `format`, or one of .jsonl, .json, .csv, .tsv, .parquet, .txt, .text",
        ),
        (("a.csv", "b.jsonl"), "`train` mixes the formats csv, json: name files of one format"),
        (("a.csv.zst",), "`train` is a.csv.zst, and the package zstandard is not installed: recompress it to gz or xz"),
    ],
)
def test_a_format_that_cannot_be_known_is_a_bad_request(
    files: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(BadRequest) as caught:
        format_of(files, declared="by-suffix", what="`train`")

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.jsonl.gz",
            gzip.compress(ROWS.encode() * 50)[:-20],
            "EOFError: Compressed file ended before the end-of-stream marker was reached",
        ),
        ("a.jsonl.gz", b"not gzip", "BadGzipFile: Not a gzipped file (b'no')"),
        ("a.jsonl", b'{"text": "a"}\n{"text":\n', "ArrowInvalid: JSON parse error: Invalid value. in row 1"),
    ],
)
def test_a_corrupt_file_is_a_bad_artifact(tmp_path: Path, cache: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(BadArtifact) as caught:
        load(tmp_path / name, cache)

    assert str(caught.value) == f"train cannot be read ({reason}): repair or replace the file"


def test_a_corrupt_stream_is_a_bad_artifact(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress(b"some text\n" * 50)[:-30])

    with pytest.raises(BadArtifact) as caught:
        list(stream_files((str(path),), format_name="text", column="text", where="text"))

    assert str(caught.value) == (
        "text cannot be read (EOFError: Compressed file ended before the end-of-stream marker was reached): "
        "repair or replace the file"
    )


def test_a_file_without_rows_is_a_bad_artifact(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")

    with pytest.raises(BadArtifact) as caught:
        load(tmp_path / "a.jsonl", cache)

    assert str(caught.value) == "train holds no rows"


def test_the_librarys_settings_are_as_they_were_after_reading(tmp_path: Path, cache: Path) -> None:
    import datasets

    before = (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled())
    (tmp_path / "a.jsonl").write_text(ROWS)
    load(tmp_path / "a.jsonl", cache)

    assert (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == before


def test_reading_local_files_asks_nobody(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("httpx2.Client.request", lambda self, method, url, **options: asked.append(str(url)))
    (tmp_path / "a.jsonl").write_text(ROWS)

    load(tmp_path / "a.jsonl", cache)
    list(stream_files((str(tmp_path / "a.jsonl"),), format_name="json", column="text", where="text"))

    assert asked == []
