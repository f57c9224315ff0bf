"""The runner: the same key is never run twice, and what was sealed is never lost. Stages here are cheap fakes:

    text ─> first ─> second ─┐
    text ─> side ────────────┴─> measure ─> last          measure is fresh for an hour

A fake appends its name to `executed` in the workspace, obeys `orders/<stage>`, and writes what it read and its own tag.
"""

import errno
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline import keys, runner, walk
from pipeline.artifact import MANIFEST, Artifact, verify, write_json
from pipeline.config import RunConfig
from pipeline.errors import BadArtifact, BadRequest, Failure, Transient
from pipeline.graph import Inputs, Step, Tools
from pipeline.progress import Silent
from pipeline.records import Record
from pipeline.runner import plan
from pipeline.team import Team
from pipeline.workspace import Workspace

run = partial(runner.run, tracked=False)  # what is told of a run: test_recording.py
LABELS = ("first", "second", "side", "measure", "last")
ALL_DONE = dict.fromkeys(LABELS, "done")


class FakeConfig(Record):
    """`tag` goes into the output, `noise` into the key only."""

    tag: str = "a"
    noise: int = 0


class FakeRun(Record):
    name: str = "fake"
    text: str = "text"
    first: FakeConfig = FakeConfig()
    second: FakeConfig = FakeConfig()
    side: FakeConfig = FakeConfig()
    measure: FakeConfig = FakeConfig()
    last: FakeConfig = FakeConfig()


@dataclass(frozen=True)
class FakeText:
    text: str

    def identity(self, cache: Path) -> str:
        note(cache.parent, "identity")
        return self.text


@dataclass(frozen=True)
class FakeStage:
    run: Callable[[FakeConfig, Inputs, Path, Tools], dict[str, Any]]
    fresh_for: Callable[[FakeConfig], float] | None = None
    open: Callable[[Mapping[str, Any]], bool] = lambda facts: bool(facts["noisy"])
    place: Callable[[FakeConfig], str] | None = None
    teamed: bool = False
    libraries: tuple[str, ...] = ()

    def run_jobs(self, jobs: Sequence[tuple[FakeConfig, Path, Tools]], inputs: Inputs) -> list[dict[str, Any]]:
        ((config, out, tools),) = jobs
        return [self.run(config, inputs, out, tools)]


def expand(config: FakeRun) -> tuple[Step, ...]:
    text = {"text": FakeText(config.text)}
    return (
        Step("first", "first", config.first, {}, text),
        Step("second", "second", config.second, {"model": "first"}, {}),
        Step("side", "side", config.side, {}, text),
        Step("measure", "measure", config.measure, {"a": "second", "b": "side"}, {}),
        Step("last", "last", config.last, {"figures": "measure"}, {}),
    )


def fake_stage(stage: str) -> Callable[[FakeConfig, Inputs, Path, Tools], dict[str, Any]]:
    def work(config: FakeConfig, inputs: Inputs, out: Path, tools: Tools) -> dict[str, Any]:
        note(tools.workspace, stage)
        resumed = tools.checkpoints.exists()
        order = tools.workspace / "orders" / stage
        (out / "half").touch()
        if order.exists():
            obey(order.read_text(), tools)
        (out / "half").unlink()
        read = ",".join(
            f"{role}={(found.path / 'out').read_text()}" for role, found in sorted(inputs.artifacts.items())
        )
        (out / "out").write_text(f"{stage}:{config.tag}({read})")
        (out / "evidence" / "clock").write_text(str(time.monotonic_ns()))
        return {"resumed": resumed, "noisy": order.exists() and order.read_text() == "disturb"}

    return work


def obey(order: str, tools: Tools) -> None:
    tools.checkpoints.mkdir(parents=True, exist_ok=True)
    if order == "wait":
        (tools.workspace / "waiting").touch()
        while not (tools.workspace / "go").exists():
            time.sleep(0.01)
    elif order == "fill the disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    elif order == "refuse":
        raise BadArtifact("these weights will not do")
    elif order == "err":
        raise KeyError("a bug")


STAGES = {name: FakeStage(fake_stage(name), (lambda _: 3600.0) if name == "measure" else None) for name in LABELS}
REPLACED = (*((module, "STAGES", STAGES) for module in (keys, runner, walk)), (runner, "expand", expand))


def unchecked(*_: object, **__: object) -> None:
    """What the real config is checked for does not exist here."""


def note(root: Path, what: str) -> None:
    root.mkdir(exist_ok=True)
    with (root / "executed").open("a") as file:
        file.write(f"{what}\n")


def executed(root: Path, *, forget: bool = True) -> list[str]:
    """Which stages worked since the last look, in order."""
    path = root / "executed"
    lines = path.read_text().split() if path.exists() else []
    if forget:
        path.unlink(missing_ok=True)
    return [line for line in lines if line != "identity"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for module, name, value in (*REPLACED, (runner, "check", unchecked), (runner, "check_measured", unchecked)):
        monkeypatch.setattr(module, name, value)
    (tmp_path / "orders").mkdir()
    return Workspace.open(tmp_path)


def execute(place: Workspace, **changes: Any) -> dict[str, Artifact]:
    return run(FakeRun(**changes), place, reporter=Silent())


def finished(place: Workspace) -> dict[str, Artifact]:
    return place.finished(FakeRun().name, config=FakeRun().model_dump(mode="json"))


def order(place: Workspace, stage: str, what: str) -> Path:
    path = place.root / "orders" / stage
    path.write_text(what)
    return path


def states(place: Workspace, **changes: Any) -> dict[str, str]:
    return {one.step.label: one.state for one in plan(FakeRun(**changes), place)}


def age(artifact: Artifact) -> None:
    """As if it had been made two hours ago."""
    manifest = msgspec.structs.replace(artifact.manifest, finished_at="2026-01-01T00:00:00+00:00")
    write_json(artifact.path / MANIFEST, manifest)


def out(artifact: Artifact) -> str:
    return (artifact.path / "out").read_text()


def test_a_run_makes_every_step_in_order_from_what_came_before(place: Workspace) -> None:
    artifacts = execute(place)
    assert executed(place.root) == list(artifacts) == list(LABELS)
    assert out(artifacts["last"]) == "last:a(figures=measure:a(a=second:a(model=first:a()),b=side:a()))"
    for artifact in artifacts.values():
        verify(artifact)


def test_a_manifest_says_from_what_by_what_and_where(place: Workspace) -> None:
    artifacts = execute(place, second={"tag": "b"})
    manifest = artifacts["measure"].manifest
    assert manifest.inputs == {"a": artifacts["second"].digest, "b": artifacts["side"].digest}
    assert artifacts["first"].manifest.inputs == {"text": "text"}
    assert (manifest.stage, manifest.label, manifest.key) == ("measure", "measure", artifacts["measure"].path.name)
    assert manifest.config == {"tag": "a", "noise": 0}
    assert manifest.facts["resumed"] is False
    assert set(manifest.versions) == {"torch", "transformers", "tokenizers", "onnx", "onnxruntime"}
    assert {"commit", "dirty"} <= manifest.git.keys()
    assert manifest.machine["cores"] >= 1


def test_a_run_keeps_a_record_and_events_for_machines(place: Workspace) -> None:
    artifacts = run(FakeRun(), place)
    folder = place.run_folder("fake")
    record = json.loads((folder / "run.json").read_text())
    assert record["name"] == "fake"
    assert record["config"]["first"] == {"tag": "a", "noise": 0}
    assert record["steps"] == {
        label: {"key": artifact.path.name, "digest": artifact.digest, "executed": True}
        for label, artifact in artifacts.items()
    }
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["label"]) for event in events] == [
        (kind, label) for label in LABELS for kind in ("started", "step")
    ]


def test_a_finished_run_executes_nothing_and_changes_nothing(place: Workspace) -> None:
    before = execute(place)
    stamps = {path: path.stat().st_mtime_ns for path in (place.root / "artifacts").rglob("*")}
    executed(place.root)
    assert execute(place) == before
    assert executed(place.root) == []
    assert {path: path.stat().st_mtime_ns for path in (place.root / "artifacts").rglob("*")} == stamps


def test_a_changed_setting_runs_again_only_what_depends_on_it(place: Workspace) -> None:
    before = execute(place)
    executed(place.root)
    after = execute(place, side={"tag": "b"})
    assert executed(place.root) == ["side", "measure", "last"]
    assert (after["first"], after["second"]) == (before["first"], before["second"])
    executed(place.root)
    execute(place)
    assert executed(place.root) == []  # and the old ones are still there


def test_a_rerun_that_yields_the_same_bytes_keeps_what_is_below(place: Workspace) -> None:
    before = execute(place)
    executed(place.root)
    after = execute(place, first={"noise": 1})
    assert executed(place.root) == ["first"]
    assert after["first"].path != before["first"].path
    assert after["first"].digest == before["first"].digest
    assert after["last"] == before["last"]


def test_another_text_runs_everything_that_read_it(place: Workspace) -> None:
    execute(place)
    executed(place.root)
    execute(place, text="other", side={"tag": "b"})
    assert executed(place.root) == ["first", "side", "measure", "last"]


def test_a_source_is_identified_once_a_run(place: Workspace) -> None:
    text = FakeText("text")
    steps = [
        Step(step.stage, step.label, step.config, step.inputs, dict.fromkeys(step.sources, text))
        for step in expand(FakeRun())
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "expand", lambda _: tuple(steps))
        execute(place)
    assert (place.root / "executed").read_text().split().count("identity") == 1


@pytest.mark.parametrize(("until", "expected"), [("second", 2), ("side", 3), ("last", 5)])
def test_until_ends_after_that_step(place: Workspace, until: str, expected: int) -> None:
    artifacts = run(FakeRun(), place, until=until, reporter=Silent())
    assert executed(place.root) == list(artifacts) == list(LABELS[:expected])


@pytest.mark.parametrize("how", ["until", "only"])
def test_an_unknown_stage_is_answered_with_those_there_are(place: Workspace, how: str) -> None:
    with pytest.raises(BadRequest) as refused:
        run(FakeRun(), place, **{how: "secnod"}, reporter=Silent())
    assert str(refused.value) == "there is no stage or step 'secnod'; there are: first, second, side, measure, last"
    assert not (place.root / "runs").exists()


def test_a_stage_alone_refuses_where_what_it_reads_is_missing(place: Workspace) -> None:
    with pytest.raises(BadArtifact) as refused:
        run(FakeRun(), place, only="second", reporter=Silent())
    assert str(refused.value) == "first is not finished, and this stage reads it; run `retort stage first` first"
    assert refused.value.exit_code == 65
    assert executed(place.root) == []


def test_stages_alone_one_after_the_other_make_the_same_run(place: Workspace) -> None:
    for label in LABELS:
        run(FakeRun(), place, only=label, reporter=Silent())
        assert executed(place.root) == [label]
    execute(place)
    assert executed(place.root) == []


def test_a_stage_alone_needs_only_what_it_reads(place: Workspace) -> None:
    artifacts = run(FakeRun(), place, only="side", reporter=Silent())
    assert executed(place.root) == list(artifacts) == ["side"]


def test_steps_of_one_group_are_obtained_together_where_the_first_of_them_stands(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    obtained: list[list[str]] = []

    class Noting(walk.Walk):
        def obtain(self, steps: Sequence[Step], *, may_run: bool) -> dict[str, bool]:
            obtained.append([step.label for step in steps])
            return super().obtain(steps, may_run=may_run)

    def grouped(config: FakeRun) -> tuple[Step, ...]:
        groups = {"first": "a pass", "side": "a pass"}
        return tuple(replace(step, group=groups.get(step.label, "")) for step in expand(config))

    def together(jobs: Sequence[Any], inputs: Inputs) -> list[dict[str, Any]]:
        return [STAGES[tools.label].run(config, inputs, out, tools) for config, out, tools in jobs]

    monkeypatch.setattr(FakeStage, "run_jobs", lambda _, jobs, inputs: together(jobs, inputs))
    monkeypatch.setattr(runner, "Walk", Noting)
    monkeypatch.setattr(runner, "expand", grouped)
    artifacts = execute(place)
    assert obtained == [["first", "side"], ["second"], ["measure"], ["last"]]
    assert out(artifacts["last"]) == "last:a(figures=measure:a(a=second:a(model=first:a()),b=side:a()))"
    record = json.loads((place.run_folder("fake") / "run.json").read_text())
    assert {label: step["executed"] for label, step in record["steps"].items()} == dict.fromkeys(LABELS, True)


def test_one_student_s_stage_makes_that_student_alone_and_the_stage_s_name_makes_all() -> None:
    written = {
        "name": "a-run",
        "teacher": "teachers/bert",
        "text": {"kind": "files", "files": "text.txt"},
        "task": {"kind": "classification", "data": {"kind": "files", "train": "train.csv", "test": "test.csv"}},
        "register": {"name": "model", "gate": ["accuracy >= 0.95 * teacher"]},
        "pretrain": {},
        "distill": {"students": {"small": {}, "tiny": {"tokens": 5}}},
    }
    config = RunConfig.model_validate(written)

    def wanted(only: str) -> list[str]:
        return [step.label for step in runner._wanted(config, until=None, only=only)]

    assert wanted("distill-tiny") == ["pretrain", "distill-tiny"]
    assert wanted("distill") == ["pretrain", "distill-small", "distill-tiny"]
    both = {"targets": {"here": {"kind": "ort-cpu"}, "edge": {"kind": "openvino"}}}
    config = RunConfig.model_validate(written | {"benchmark": both})
    assert {"benchmark-here", "benchmark-edge"} <= {*wanted("benchmark")}
    assert "benchmark-here" not in wanted("benchmark-edge")
    assert wanted("quantize-small") == ["pretrain", "distill-small", "finetune-small", "export-small", "quantize-small"]


def test_a_follower_works_only_at_what_a_team_makes_and_keeps_no_record(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(place)
    executed(place.root)
    (place.run_folder("fake") / "run.json").unlink()
    monkeypatch.setitem(STAGES, "first", replace(STAGES["first"], teamed=True))
    told: list[Any] = [{"first": next((place.root / "artifacts").glob("first-*")).name}, ["first"]]

    class Follower(Team):
        def leaders(self, make: Callable[[], Any]) -> Any:
            return told.pop(0)

    monkeypatch.setattr(runner, "check_team", unchecked)
    found = run(FakeRun(), place, team=Follower(rank=1, size=2))
    assert (list(found), told, executed(place.root)) == (["first"], [], [])
    assert list(place.run_folder("fake").iterdir()) == []


def test_a_disturbed_measurement_is_made_again_by_the_next_run_and_read_by_a_stage_alone(place: Workspace) -> None:
    disturb = order(place, "measure", "disturb")
    execute(place)
    assert executed(place.root) == list(LABELS)
    assert states(place) == dict.fromkeys(LABELS, "done") | {"measure": "stale", "last": "waits"}
    run(FakeRun(), place, only="last", reporter=Silent())
    assert executed(place.root) == []
    disturb.unlink()
    execute(place)
    assert executed(place.root) == ["measure"]
    assert states(place) == ALL_DONE


def test_figures_that_grew_old_are_measured_again_and_nothing_else(place: Workspace) -> None:
    before = execute(place)
    executed(place.root)
    age(before["measure"])
    assert states(place) == dict.fromkeys(LABELS, "done") | {"measure": "stale", "last": "waits"}
    after = execute(place)
    assert executed(place.root) == ["measure"]
    assert after["measure"].path == before["measure"].path
    assert after["measure"].manifest.files["evidence/clock"] != before["measure"].manifest.files["evidence/clock"]
    verify(after["measure"])
    assert states(place) == ALL_DONE


@pytest.mark.parametrize(("ordered", "error"), [("refuse", BadArtifact), ("err", KeyError)])
def test_a_stage_that_fails_leaves_no_artifact_and_takes_none_away(
    place: Workspace, ordered: str, error: type[Exception]
) -> None:
    told = order(place, "second", ordered)
    with pytest.raises(error):
        execute(place)
    assert states(place) == {"first": "done", "second": "run", "side": "run", "measure": "waits", "last": "waits"}
    told.unlink()
    executed(place.root)
    execute(place)
    assert executed(place.root) == ["second", "side", "measure", "last"]
    assert [path.name for path in (place.root / "artifacts").glob(".*")] == []


def test_a_full_disk_is_transient_and_the_finished_are_kept(place: Workspace) -> None:
    told = order(place, "second", "fill the disk")
    with pytest.raises(Transient) as refused:
        execute(place)
    assert str(refused.value) == (
        f"no space left on the disk of {place.root}; finished artifacts are safe: free some space there "
        "(`retort plan` names what is kept) and run again"
    )
    assert refused.value.exit_code == 75
    told.unlink()
    executed(place.root)
    execute(place)
    assert executed(place.root) == ["second", "side", "measure", "last"]


@pytest.mark.parametrize("where", [(Workspace, "record"), (walk.Walk, "digests")], ids=["record", "digests"])
def test_a_full_disk_between_stages_is_transient_too(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*where, full)
    with pytest.raises(Transient, match="no space left on the disk of"):
        execute(place)


def test_an_artifact_whose_manifest_is_damaged_stops_the_run(place: Workspace) -> None:
    path = execute(place)["first"].path / MANIFEST
    path.write_text(path.read_text()[:40])
    for ask in (
        lambda: execute(place),
        lambda: states(place),
        lambda: finished(place),
    ):
        with pytest.raises(BadArtifact) as refused:
            ask()
        assert str(refused.value).startswith(f"{path} cannot be read (Input data was truncated)")
        assert str(refused.value).endswith(f"; remove {path.parent} and run again")


def test_removing_a_damaged_artifact_and_running_again_mends_the_run(place: Workspace) -> None:
    before = execute(place)
    for file in before["first"].path.rglob("*"):
        if file.is_file():
            file.unlink()
    for folder in (before["first"].path / "evidence", before["first"].path):
        folder.rmdir()
    executed(place.root)
    assert execute(place)["last"] == before["last"]
    assert executed(place.root) == ["first"]


SITUATIONS: Mapping[str, Callable[[Workspace], object]] = {
    "nothing is there": lambda _: None,
    "half is there": lambda place: run(FakeRun(), place, until="second", reporter=Silent()),
    "all is there": execute,
    "one setting differs": lambda place: execute(place, second={"tag": "b"}),
    "a setting without effect differs": lambda place: execute(place, side={"noise": 1}),
    "the figures are old": lambda place: age(execute(place)["measure"]),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_plan_says_what_run_then_does(place: Workspace, situation: str) -> None:
    SITUATIONS[situation](place)
    executed(place.root)
    planned = plan(FakeRun(), place)
    assert executed(place.root) == []
    artifacts = execute(place)
    did = executed(place.root)
    for one in planned:
        if one.state == "waits":
            assert one.key is None
            assert set(one.waits_for) <= set(one.step.inputs.values())
        else:
            assert (one.state == "done") == (one.step.label not in did), one
            assert one.key == artifacts[one.step.label].path.name
    assert states(place) == ALL_DONE


def test_plan_names_what_a_step_waits_for(place: Workspace) -> None:
    assert [(one.step.label, one.state, one.waits_for) for one in plan(FakeRun(), place)] == [
        ("first", "run", ()),
        ("second", "waits", ("first",)),
        ("side", "run", ()),
        ("measure", "waits", ("second", "side")),
        ("last", "waits", ("measure",)),
    ]


def test_plan_leaves_nothing_behind(place: Workspace) -> None:
    plan(FakeRun(), place)
    assert {path.name for path in place.root.rglob("*")} == {"orders", "executed"}


def test_finished_says_what_is_there_and_refuses_where_nothing_is(place: Workspace) -> None:
    with pytest.raises(BadArtifact) as refused:
        finished(place)
    assert str(refused.value) == f"nothing of the run 'fake' is in {place.root}; `retort run` makes it"
    artifacts = execute(place)
    age(artifacts["measure"])
    assert {label: artifact.digest for label, artifact in finished(place).items()} == {
        label: artifact.digest for label, artifact in artifacts.items()
    }


def test_what_is_in_a_shared_store_is_not_made_again_elsewhere(place: Workspace, tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    made = [execute(Workspace.open(root, store_url=(tmp_path / "shared").as_uri())) for root in roots]
    assert executed(roots[0]) == list(LABELS)
    assert executed(roots[1]) == []
    assert [artifact.digest for artifact in made[0].values()] == [artifact.digest for artifact in made[1].values()]
    assert all(artifact.path.is_relative_to(roots[1]) for artifact in made[1].values())


Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(place: Workspace) -> Iterator[Start]:
    """Starts the same run in a process of its own (see the foot of this file); it prints its digests."""
    with ExitStack() as started:

        def one() -> "subprocess.Popen[str]":
            command = [sys.executable, __file__, str(place.root)]
            process = started.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            started.callback(process.kill)
            return process

        yield one


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


@pytest.mark.parametrize("stage", ["first", "second", "measure"])
def test_a_run_killed_in_a_stage_goes_on_there_and_loses_nothing(place: Workspace, start: Start, stage: str) -> None:
    told = order(place, stage, "wait")
    process = start()
    wait_for(place.root / "waiting")
    process.kill()
    process.wait()
    earlier = LABELS[: LABELS.index(stage)]
    assert executed(place.root) == [*earlier, stage]
    assert all(states(place)[label] == "done" for label in earlier)
    told.unlink()
    artifacts = execute(place)
    assert executed(place.root) == list(LABELS[len(earlier) :])
    assert artifacts[stage].manifest.facts["resumed"] is True  # its checkpoints were still there
    assert not (place.root / "checkpoints" / artifacts[stage].path.name).exists()
    assert "half" not in artifacts[stage].manifest.files
    assert [path.name for path in (place.root / "artifacts").glob(".*")] == []
    assert out(artifacts["last"]) == "last:a(figures=measure:a(a=second:a(model=first:a()),b=side:a()))"


def test_two_runs_of_the_same_config_at_once_execute_each_stage_once(place: Workspace, start: Start) -> None:
    order(place, "second", "wait")
    processes = [start(), start()]
    wait_for(place.root / "waiting")
    wait_for(place.root / "queued")
    assert (place.root / "queued").read_text() == "second: another process is at it; waiting"
    (place.root / "go").touch()
    told = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(executed(place.root)) == sorted(LABELS)
    assert told[0] == told[1]
    assert list(told[0]) == list(LABELS)


def test_failures_have_exit_codes_of_their_own() -> None:
    assert issubclass(BadArtifact, Failure)
    assert (BadRequest.exit_code, BadArtifact.exit_code, Transient.exit_code) == (64, 65, 75)


class Telling(Silent):
    """Leaves word when this process waits for another one at the stage that is told to take its time."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def line(self, text: str) -> None:
        if text.startswith("second: another"):
            write = self._root / ".queued"
            write.write_text(text)
            write.rename(self._root / "queued")


def main(root: Path) -> None:
    """What the processes above do."""
    for module, name, value in (*REPLACED, (runner, "check", unchecked), (runner, "check_measured", unchecked)):
        setattr(module, name, value)
    artifacts = run(FakeRun(), Workspace.open(root), reporter=Telling(root))
    print(json.dumps({label: artifact.digest for label, artifact in artifacts.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
