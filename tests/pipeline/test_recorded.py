"""What is told of a step: its files, data and figures. The events they become are in test_recording.py."""

from pathlib import Path
from typing import Any

import pytest
from fakes import manifest_of

from pipeline.artifact import MANIFEST, Artifact, read_artifact, sealed_files, write_json
from pipeline.data.corpus import FilesCorpus, HubCorpus
from pipeline.data.sources import DocstringsSource, FilesSource, HubSource
from pipeline.events import Params
from pipeline.graph import Step
from pipeline.recorded import (
    LOCK,
    begun,
    data_of,
    figures_of,
    metrics,
    origin_tags,
    shown_files,
    verdict_tags,
)
from pipeline.records import Record
from pipeline.tasks import Classification, TaskSplits


def artifact(folder: Path, *names: str) -> Artifact:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    write_json(folder / MANIFEST, manifest_of("benchmark-1", sealed_files(folder)))
    return read_artifact(folder)


def test_people_look_at_evidence_receipts_and_the_manifest_and_not_at_what_a_version_is_made_of(tmp_path: Path) -> None:
    seen = ("evidence/curve.png", "evidence/report.html", "receipt.json", "figures.json", "verdict.json")
    made = ("model.onnx", "bundle/model.onnx", "bundle/receipts/verdict.json", "logits/a.npy", "tokenizer.json")
    assert shown_files(artifact(tmp_path, *seen, *made)) == {name: tmp_path / name for name in (MANIFEST, *seen)}


def test_figures_are_called_by_variant_ratios_and_what_nobody_knows_are_left_out() -> None:
    facts = {"figures": {"int8": {"p95_ms": 1, "p95_ms/teacher": 0.5, "agreement": None}, "fp32": {"p95_ms": 2.0}}}
    assert figures_of(facts) == {"int8/p95_ms": 1.0, "fp32/p95_ms": 2.0}
    assert figures_of(facts, target="edge") == {"edge/int8/p95_ms": 1.0, "edge/fp32/p95_ms": 2.0}
    assert figures_of({}) == {}


def test_numbers_that_json_does_not_know_are_words() -> None:
    told = metrics("distill", {"a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": 1})
    assert told.values == {"a": "nan", "b": "inf", "c": "-inf", "d": 1.0}


def test_the_origin_names_the_commit_and_the_locked_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hashlib

    tags = origin_tags()
    assert tags["retort.lock"] == hashlib.sha256(LOCK.read_bytes()).hexdigest()
    assert tags["retort.git_dirty"] in ("true", "false")
    monkeypatch.setattr("pipeline.recorded.LOCK", tmp_path / "none")
    assert origin_tags()["retort.lock"] == "unknown"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, {}),
        (
            {"verdict": {"verdict": "FAIL", "reason": "slow"}, "registered": None},
            {"retort.verdict": "FAIL", "retort.reason": "slow"},
        ),
        (
            {"verdict": {"verdict": "PASS", "reason": "ok"}, "registered": {"name": "m", "version": 3}},
            {"retort.verdict": "PASS", "retort.reason": "ok", "retort.model": "m", "retort.version": "3"},
        ),
    ],
)
def test_a_verdict_is_told_with_the_version_it_led_to(facts: dict[str, Any], expected: dict[str, str]) -> None:
    assert verdict_tags(facts) == expected


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (HubSource(id="stanfordnlp/sst2"), "stanfordnlp/sst2"),
        (FilesSource(train="data/train.jsonl"), "train.jsonl"),
        (FilesSource(train=("a/one.csv", "a/two.csv")), "one.csv"),
        (DocstringsSource(), "docstrings"),
    ],
)
def test_a_data_set_is_called_as_people_know_it(source: Any, name: str) -> None:
    step = Step("benchmark", "benchmark", Record(), {}, {"task": TaskSplits(Classification(data=source), ("test",))})
    (data,) = data_of(step, {"task": "d"}, {"test_texts": 9, "test_texts_also_in_train": 1})
    assert (data.name, data.kind, data.context, data.splits) == (name, source.kind, "evaluation", {"test": 9})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (HubCorpus(id="wikimedia/wikipedia"), "wikimedia/wikipedia (text)"),
        (FilesCorpus(files="a/b.txt"), "b.txt (text)"),
    ],
)
def test_text_is_data_too(source: Any, name: str) -> None:
    step = Step("distill", "distill", Record(), {}, {"teacher": object(), "text": source})
    (data,) = data_of(step, {"teacher": "t", "text": "d"}, {})
    assert (data.name, data.digest, data.context) == (name, "d", "training")


SECRET_PLACES = (
    "https://ann:s3cr3t@host/x.parquet?X-Amz-Signature=t0ken",
    "s3://AKIAKEY:s3cr3t@bucket/y.parquet",
)


def test_no_secret_of_a_url_is_told_of_data_or_text() -> None:
    task = Classification(data=FilesSource(train=SECRET_PLACES, test=SECRET_PLACES[0]))
    text = FilesCorpus(files=SECRET_PLACES)
    step = Step("finetune", "finetune", Record(), {}, {"task": TaskSplits(task, ("train",)), "text": text})
    data, words = data_of(step, {"task": "d", "text": "t"}, {})
    assert (data.name, words.name) == ("x.parquet", "x.parquet (text)")
    assert data.source["train"] == ["https://host/x.parquet", "s3://bucket/y.parquet"]
    assert data.source["test"] == "https://host/x.parquet"
    assert words.source["files"] == data.source["train"]


class _Reading(Record):
    distill_from: str = SECRET_PLACES[1]


def test_no_secret_of_a_url_is_told_of_a_step_s_settings() -> None:
    _, params = begun(Step("finetune", "finetune", _Reading(), {}, {}), "finetune-1", {})
    assert isinstance(params, Params)
    assert params.values == {"distill_from": "s3://bucket/y.parquet"}


def test_a_step_that_reads_no_data_has_none() -> None:
    assert data_of(Step("register", "register", Record(), {}, {}), {}, {}) == []
