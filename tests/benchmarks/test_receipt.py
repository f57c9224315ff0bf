"""A receipt on disk: what is read again, and what is refused."""

import json
from pathlib import Path

import pytest
from receipts import NOISE, receipt

from benchmarks.receipt import FILE, SCHEMA, Load, read_receipt, write_receipt
from serving.errors import BadArtifact


def refused(path: Path) -> str:
    with pytest.raises(BadArtifact) as caught:
        read_receipt(path)
    return str(caught.value)


def test_a_receipt_survives_its_file(tmp_path: Path) -> None:
    found = receipt(findings=(NOISE,), attempts=3)
    path = write_receipt(found, tmp_path)
    assert read_receipt(tmp_path) == read_receipt(path) == found


def test_a_receipt_that_is_only_written_otherwise_is_the_same(tmp_path: Path) -> None:
    path = write_receipt(receipt(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    assert read_receipt(path) == receipt()


def test_a_receipt_whose_figures_were_changed_is_refused(tmp_path: Path) -> None:
    path = write_receipt(receipt(), tmp_path)
    content = json.loads(path.read_text())
    content["variants"][0]["latency"]["64"]["end_to_end"]["p95_ms"] /= 2
    path.write_text(json.dumps(content))
    assert refused(tmp_path) == (
        f"{path} was altered after it was written: its content does not give its digest {receipt().digest[:12]}; run "
        "the benchmark again"
    )


def test_a_receipt_whose_digest_was_taken_away_is_refused(tmp_path: Path) -> None:
    path = write_receipt(receipt(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": ""}))
    assert "its content does not give its digest (none); run the benchmark again" in refused(path)


@pytest.mark.parametrize(
    ("schema", "way_out"), [(SCHEMA - 1, "run the benchmark again"), (SCHEMA + 1, "update Retort")]
)
def test_a_receipt_of_another_version_is_refused_by_its_number(tmp_path: Path, schema: int, way_out: str) -> None:
    (tmp_path / FILE).write_text(json.dumps({"schema": schema, "started": "yesterday"}))
    assert refused(tmp_path) == (
        f"{tmp_path / FILE} is a receipt of schema {schema}, and this version reads {SCHEMA}; {way_out}"
    )


@pytest.mark.parametrize("content", ['{"started": ', "{}", '{"schema": 2, "started": 1}', "[]"])
def test_a_file_that_is_no_receipt_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    told = refused(tmp_path)
    assert told.startswith(f"{tmp_path / FILE} is not a receipt of schema {SCHEMA}: ")
    assert told.endswith("; run the benchmark again")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b'{"schema": 2, "started": "\xff"}',
        b'{"schema": 2, "how": ' + b"[" * 100_000,
    ],
)
def test_bytes_that_are_no_text_or_no_end_of_brackets_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert refused(tmp_path).startswith(f"{tmp_path / FILE} is not a receipt of schema {SCHEMA}: ")


def test_a_folder_without_a_receipt_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == (
        f"{tmp_path / FILE} is not a receipt of schema {SCHEMA}: [Errno 2] No such file or directory: "
        f"'{tmp_path / FILE}'; run the benchmark again"
    )


def test_a_quiet_session_is_not_disturbed() -> None:
    assert receipt().disturbed == ""


def test_a_disturbed_session_says_in_how_many_processes_and_what() -> None:
    assert receipt(findings=(NOISE,)).disturbed == (
        "noise in 1 of 15 processes after 1 attempt: student-onnx-fp32, process 2: a neighbour took 31.0%"
    )
    assert receipt(findings=(NOISE, NOISE), attempts=4).disturbed == (
        "noise in 1 of 15 processes after 4 attempts: student-onnx-fp32, process 2: a neighbour took 31.0% (and 1 more)"
    )


def test_a_load_knows_how_many_requests_a_session_answers() -> None:
    load = Load(lengths=(16, 64), n=10, processes=3, real=5)
    assert load.requests_a_process == 25
    assert load.requests(variants=2, items=100) == 2 * (100 + 3 * 25)
