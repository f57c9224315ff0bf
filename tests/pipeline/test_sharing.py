"""What a server is told holds no secret of an address; what holds none is told as it is."""

import json
from pathlib import Path

import pytest

from pipeline.sharing import NOTE, shareable, shareable_file

SIGNED = "https://ann:s3cr3t@host/x.parquet?X-Amz-Signature=t0ken&X-Amz-Date=1"
BUCKET = "s3://AKIAKEY:s3cr3t@bucket/y.parquet"


def file(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content)
    return path


def shown(path: Path) -> str:
    found = shareable_file(path)
    assert isinstance(found, bytes)
    return found.decode()


def test_settings_are_shared_as_they_are_but_for_secrets() -> None:
    settings = {"a": [{"b": (SIGNED, 1, None)}, True, 0.5], "c": "a plain word?", "d": {}, BUCKET: 1}
    assert shareable(settings) == {
        "a": [{"b": ["https://host/x.parquet", 1, None]}, True, 0.5],
        "c": "a plain word?",
        "d": {},
        "s3://bucket/y.parquet": 1,
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", '{"config": {"train": "https://host/x.parquet", "n": 1e3}}'),
        ("card.md", "See https://huggingface.co/docs?page=2#top, or ask ann@host."),
        ("curve.jsonl", '{"loss": 0.5}\n{"loss": NaN}\n'),
        ("curve.png", SIGNED),
    ],
)
def test_a_file_without_secrets_is_told_itself(tmp_path: Path, name: str, content: str) -> None:
    path = file(tmp_path, name, content)
    assert shareable_file(path) == path


def test_a_document_with_a_secret_is_told_as_a_copy_that_says_so_and_stays_as_it_is(tmp_path: Path) -> None:
    path = file(tmp_path, "manifest.json", json.dumps({"config": {"train": [SIGNED, BUCKET]}, "seconds": 1.5}))
    before = path.read_bytes()
    assert json.loads(shown(path)) == {
        "redacted": NOTE,
        "config": {"train": ["https://host/x.parquet", "s3://bucket/y.parquet"]},
        "seconds": 1.5,
    }
    assert path.read_bytes() == before


def test_of_lines_of_documents_each_stays_one(tmp_path: Path) -> None:
    path = file(tmp_path, "data.jsonl", json.dumps({"a": SIGNED}) + '\n{"b":  2}\n')
    first, second, last = shown(path).splitlines()
    assert (json.loads(first), second, json.loads(last)) == (
        {"a": "https://host/x.parquet"},
        '{"b":  2}',
        {"redacted": NOTE},
    )


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.html", f'<a href="{SIGNED}">it</a>\n', f'<a href="{{}}">it</a>\n<!-- {NOTE} -->\n'),
        ("a.md", f"From `{SIGNED}`, as told", f"From `{{}}`, as told\n{NOTE}\n"),
        ("a.csv", f"name,{BUCKET}\n", f"name,s3://bucket/y.parquet\n{NOTE}\n"),
        ("broken.json", f'{{"a": "{SIGNED}", ', '{{"a": "{}", '),
    ],
)
def test_a_text_loses_its_secrets_and_nothing_around_them(
    tmp_path: Path, name: str, content: str, expected: str
) -> None:
    found = shown(file(tmp_path, name, content))
    assert found == expected.format("https://host/x.parquet?X-Amz-Signature=***&X-Amz-Date=***")


def test_a_text_that_is_no_utf8_is_told_as_it_is_but_for_secrets(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\xff " + BUCKET.encode() + b"\n")
    assert shareable_file(path) == b"\xff s3://bucket/y.parquet\n" + NOTE.encode() + b"\n"
