"""What the stage and the command share around a session."""

from pathlib import Path

import pytest
from fakes import tiny_bundle
from models import task_of
from pydantic import ValidationError
from receipts import NOISE, receipt

from benchmarks.session import Variant
from benchmarks.targets import OrtCpu
from pipeline.champion import Champion
from pipeline.diagnostics import flips
from pipeline.errors import BadRequest
from pipeline.judging import Behind, Comparison
from pipeline.measuring import ServerConfig, agreement, champion_variant, circumstances, skip
from pipeline.progress import Silent
from pipeline.quality import Difference
from serving.registry import Resolved

LABELS = ("negative", "positive")
FILES = {"kind": "files", "train": "x.csv", "test": "x.csv"}


class Registry(Champion):
    """What is fetched from it is here, or there is none."""

    def __init__(self, found: Path | None) -> None:
        super().__init__("m")
        self.found = found

    def resolve(self, cache: Path) -> Resolved | None:
        return None if self.found is None else Resolved(self.found, name="m", version="3", digest="d")


def champion(
    found: Path | None, *, length: int = 16, kind: str = "classification", labels: tuple[str, ...] = LABELS
) -> list[Variant]:
    task, target = task_of(kind, data=FILES), OrtCpu(threads=1)
    return champion_variant(Registry(found), target, task=task, labels=labels, length=length, cache=Path("cache"))


def test_the_champion_is_one_variant_more_on_the_same_target(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "served")
    assert champion(tmp_path / "served") == [Variant("champion", OrtCpu(threads=1), tmp_path / "served")]


def test_without_a_champion_there_is_none() -> None:
    assert champion(None) == []
    task = task_of("classification", data=FILES)
    assert champion_variant(None, OrtCpu(), task=task, labels=LABELS, length=16, cache=Path()) == []


def test_a_champion_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "served")
    with pytest.raises(BadRequest, match=r"\(version 3\) reads 16 tokens, latency is measured at 64"):
        champion(tmp_path / "served", length=64)
    with pytest.raises(BadRequest, match="does classification, this run multi-label"):
        champion(tmp_path / "served", kind="multi-label")
    with pytest.raises(BadRequest, match="answers in the labels negative, positive, this run in up, down"):
        champion(tmp_path / "served", labels=("up", "down"))


def test_circumstances_name_the_target_whose_times_are_unfit() -> None:
    told = circumstances(receipt(findings=(NOISE,), attempts=4, target="ort-cpu"), noise="refuse")
    assert told["target"] == "ort-cpu"
    assert told["disturbed"] == {"ort-cpu": receipt(findings=(NOISE,), attempts=4).disturbed}
    assert (told["attempts"], told["lengths"], told["samples"], told["threads"], told["steady"]) == (
        *(4, [16, 64], 500, 1),
        True,
    )
    assert circumstances(receipt(), noise="refuse")["disturbed"] == {}


def test_noise_that_is_recorded_only_leaves_times_fit_for_a_verdict() -> None:
    told = circumstances(receipt(findings=(NOISE,), attempts=4), noise="record")
    assert (told["noise"], told["disturbed"]) == (receipt(findings=(NOISE,), attempts=4).disturbed, {})


def test_agreement_is_with_the_teacher_and_the_teacher_agrees_with_itself() -> None:
    task = task_of("classification", data=FILES)
    same = Difference("accuracy", 0.0, 0.0, 0.0, 4)
    against = Comparison("teacher-onnx-fp32", same, flips=flips([0, 1, 1, 0], [0, 1, 1, 1]))
    found = agreement(Behind({}, against_teacher=against), task, n=4)["agreement"]
    assert (found.value, found.n) == (0.75, 4)
    assert found.low < 0.75 < found.high
    teacher = agreement(Behind({}), task, n=4)["agreement"]
    assert (teacher.low, teacher.value, teacher.high) == (1.0, 1.0, 1.0)


def test_numbers_have_no_agreement() -> None:
    assert agreement(Behind({}), task_of("regression", data=FILES), n=4) == {}


def test_a_server_is_asked_by_a_bound_above_nothing() -> None:
    assert callable(ServerConfig(bound_ms=20.0).serve())
    with pytest.raises(ValidationError, match="Input should be greater than 0"):
        ServerConfig(bound_ms=0)
    with pytest.raises(BadRequest, match="p99 at 2 requests/s takes"):
        ServerConfig(bound_ms=20.0, start_rps=2.0).serve()


def test_a_session_that_is_skipped_leaves_why_and_no_receipt(tmp_path: Path) -> None:
    class Listener(Silent):
        said: list[str] = []  # noqa: RUF012

        def line(self, text: str) -> None:
            self.said.append(text)

    facts = skip("gpu", "an NVIDIA GPU: run it where there is one", tmp_path, Listener())
    assert facts == {
        "target": "gpu",
        "skipped": "it needs an NVIDIA GPU: run it where there is one",
        "disturbed": {},
    }
    assert Listener.said == ["gpu is skipped: it needs an NVIDIA GPU: run it where there is one"]
    assert [path.name for path in tmp_path.iterdir()] == ["skipped.json"]
