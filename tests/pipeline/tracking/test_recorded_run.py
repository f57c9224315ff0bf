"""A run from its first step to what MLflow shows of it: real runner, sender and sqlite store; the stages are fakes."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tracked import Known, known

from pipeline import keys, recording, runner, walk
from pipeline.errors import BadArtifact
from pipeline.graph import Inputs, Step, Tools
from pipeline.outbox_reading import outboxes
from pipeline.progress import Silent
from pipeline.records import Record
from pipeline.tracking.client import talking_to
from pipeline.tracking.runs import parent_run_id
from pipeline.tracking.sent import settled
from pipeline.workspace import Workspace


class FakeConfig(Record):
    tokens: int = 7


@dataclass(frozen=True)
class FakeTarget:
    name: str = "models"
    tracking_uri: str | None = None
    first: str = "here"


@dataclass(frozen=True)
class FakeRun:
    """As much of a RunConfig as the runner reads."""

    name: str = "fake"
    train: FakeConfig = field(default_factory=FakeConfig)
    register: FakeTarget = FakeTarget()
    benchmark: FakeTarget = FakeTarget()

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        return {"name": self.name, "train": self.train.model_dump(mode=mode)}


Stage = Callable[[FakeConfig, Inputs, Path, Tools], dict[str, Any]]


@dataclass(frozen=True)
class FakeStage:
    run: Stage
    fresh_for: Callable[[FakeConfig], float] | None = None
    open: Callable[[Mapping[str, Any]], bool] = lambda _: False
    place: Callable[[FakeConfig], str] | None = None
    teamed: bool = False
    libraries: tuple[str, ...] = ()

    def run_jobs(self, jobs: Sequence[tuple[FakeConfig, Path, Tools]], inputs: Inputs) -> list[dict[str, Any]]:
        ((config, out, tools),) = jobs
        return [self.run(config, inputs, out, tools)]


def train(config: FakeConfig, inputs: Inputs, out: Path, tools: Tools) -> dict[str, Any]:
    """Tells a row a step; `cut` in the workspace ends it in the middle."""
    for step in range(1, 6):
        if step == 4 and (tools.workspace / "cut").exists():
            raise KeyboardInterrupt
        tools.reporter.metrics("model", step=step, values={"step": step, "loss": 1.0 / step})
    (out / "evidence" / "curve.png").write_bytes(b"a picture")
    (out / "model.safetensors").write_bytes(b"weights")
    return {}


def register(config: FakeConfig, inputs: Inputs, out: Path, tools: Tools) -> dict[str, Any]:
    """Asks for the run that a version would belong to."""
    if (tools.workspace / "refuse").exists():
        raise BadArtifact("the registry has no room")
    assert tools.outbox is not None
    (out / "verdict.json").write_text("{}")
    verdict = {"verdict": "PASS", "reason": "it is small"}
    return {
        "verdict": verdict,
        "registered": {"name": "models", "version": "1"},
        "run_id": parent_run_id(tools.outbox),
    }


STAGES = {"train": FakeStage(train), "register": FakeStage(register)}


def expand(config: FakeRun) -> tuple[Step, ...]:
    return (
        Step("train", "train", config.train, {}, {}),
        Step("register", "register", config.train, {"model": "train"}, {}),
    )


@pytest.fixture
def place(tmp_path: Path, root: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose registry has its tables."""
    for module in (keys, runner, walk):
        monkeypatch.setattr(module, "STAGES", STAGES)
    monkeypatch.setattr(runner, "expand", expand)
    for name in ("check", "check_measured"):
        monkeypatch.setattr(runner, name, lambda *_, **__: None)
    monkeypatch.setattr(runner, "_before_work", lambda *_: lambda: None)
    for patience in ("END_WAIT_S", "INTERRUPTED_WAIT_S"):  # on a busy machine a sender starts slowly
        monkeypatch.setattr(recording, patience, 60.0)
    with talking_to(uri):
        shutil.copyfile(root / "mlflow.db", tmp_path / "mlflow.db")
    return Workspace.open(tmp_path)


def execute(place: Workspace, **changes: Any) -> dict[str, Any]:
    return runner.run(FakeRun(), place, reporter=Silent(), **changes)  # type: ignore[arg-type]


def found_in(place: Workspace) -> dict[str, Known]:
    with talking_to(f"sqlite:///{place.root}/mlflow.db") as client:
        return known(client, experiment="models")


def steps(run: Known) -> list[int]:
    return [step for step, _ in run.metrics["loss"]]


def test_a_run_that_is_interrupted_and_resumed_is_one_run_with_each_number_once(place: Workspace) -> None:
    (place.root / "cut").touch()
    with pytest.raises(KeyboardInterrupt):
        execute(place)
    runs = found_in(place)
    assert {name: run.status for name, run in runs.items()} == {"fake": "KILLED", "train": "KILLED"}
    assert steps(runs["train"]) == [1, 2, 3]

    (place.root / "cut").unlink()
    done = execute(place)
    runs = found_in(place)
    assert {name: run.status for name, run in runs.items()} == dict.fromkeys(("fake", "train", "register"), "FINISHED")
    assert steps(runs["train"]) == [1, 2, 3, 4, 5]
    assert runs["train"].files == ["evidence/curve.png", "manifest.json"]
    assert runs["register"].files == ["manifest.json", "verdict.json"]
    assert runs["train"].params == {"tokens": "7"}
    assert runs["fake"].params["train.tokens"] == "7"
    assert runs["register"].tags["mlflow.parentRunId"] == done["register"].manifest.facts["run_id"]
    told = {"retort.verdict": "PASS", "retort.version": "1", "retort.lineage.train": done["train"].digest}
    assert runs["fake"].tags.items() >= told.items()
    assert runs["fake"].tags["retort.steps"] == "2 of 2"
    (outbox,) = outboxes(place.root)
    assert settled(outbox)

    before = (outbox / "events.jsonl").stat()
    execute(place)  # nothing to do
    assert outboxes(place.root) == [outbox]
    assert (outbox / "events.jsonl").stat() == before


def test_stages_alone_belong_to_one_run_and_one_that_fails_is_told_why_until_it_is_mended(place: Workspace) -> None:
    execute(place, only="train")
    (place.root / "refuse").touch()
    with pytest.raises(BadArtifact):
        execute(place, only="register")
    runs = found_in(place)
    assert {name: run.status for name, run in runs.items()} == {
        "fake": "FAILED",
        "train": "FINISHED",
        "register": "FAILED",
    }
    assert runs["fake"].tags["retort.error"] == "the registry has no room"
    assert len(outboxes(place.root)) == 1

    (place.root / "refuse").unlink()
    execute(place)
    recovered = found_in(place)["fake"]
    assert (recovered.status, recovered.tags["retort.error"]) == ("FINISHED", "")


def test_a_run_killed_between_the_seal_and_its_record_is_told_whole_by_the_next(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recording.Recorder, "sealed", cut)
        with pytest.raises(KeyboardInterrupt):
            execute(place, only="train")
    assert found_in(place)["train"].status == "KILLED"
    execute(place)  # takes the first step as it is
    runs = found_in(place)
    assert {name: run.status for name, run in runs.items()} == dict.fromkeys(("fake", "train", "register"), "FINISHED")
    assert runs["train"].files == ["evidence/curve.png", "manifest.json"]


def test_a_run_killed_after_its_last_step_is_ended_by_the_next_which_has_nothing_to_do(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = recording.Recorder.sealed

    def cut(recorder: recording.Recorder, step: Step, *told: Any) -> None:
        if step.label == "register":
            raise KeyboardInterrupt
        sealed(recorder, step, *told)

    with monkeypatch.context() as patch:
        patch.setattr(recording.Recorder, "sealed", cut)
        with pytest.raises(KeyboardInterrupt):
            execute(place)
    assert found_in(place)["fake"].status == "KILLED"
    done = execute(place)
    runs = found_in(place)
    assert {name: run.status for name, run in runs.items()} == dict.fromkeys(("fake", "train", "register"), "FINISHED")
    told = {"retort.verdict": "PASS", "retort.version": "1", "retort.lineage.register": done["register"].digest}
    assert runs["fake"].tags.items() >= told.items()
    (outbox,) = outboxes(place.root)
    assert settled(outbox)


def test_who_does_not_want_it_told_tells_nobody(place: Workspace) -> None:
    execute(place, only="train", tracked=False)
    assert outboxes(place.root) == []
