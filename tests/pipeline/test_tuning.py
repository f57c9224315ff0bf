"""A sweep as a part of a run: for whom it is made, what it leaves, and what is said where it finds nothing."""

from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_bundle

from benchmarks import tune as sweeping
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.targets import OrtCpu
from pipeline.artifact import Artifact
from pipeline.errors import BadArtifact, Failure
from pipeline.progress import Silent
from pipeline.tuning import TuneConfig, tune_candidates
from serving.bundle import read_bundle
from serving.cpu import usable_threads
from serving.machine import machine_identity
from serving.tuning import find_tuning

NAMES = ("teacher-torch-fp32", "teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8")
TEXTS = [("good",), ("bad good",), ("so",)]
ASKED = TuneConfig(bound_ms=20.0)


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Artifact]:
    """PyTorch's is no bundle."""
    for at, name in enumerate(NAMES[1:]):
        tiny_bundle(tmp_path / name / "bundle", name=name, bias=float(at))
    return {name: Artifact(tmp_path / name, None) for name in NAMES}  # type: ignore[arg-type]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the processes of the sweeps are asked; fp32 keeps no bound, int8 every one."""
    asked: list[Any] = []

    def child(job: Any, **_: Any) -> ServerResult:
        asked.append(job)
        best = None if "fp32" in job.path else 100.0 * job.setting.executors
        point = Rate(best or 50.0, 3.0, 1000, 1000, 0, 0, 5.0, 9.0, 12.0, late_p50_ms=0.1, late_p99_ms=0.2)
        return ServerResult("engine", job.plan.bound_ms, job.plan.percent, best, (point,))

    monkeypatch.setattr(sweeping, "run_child", child)
    return asked


def tuned(artifacts: dict[str, Artifact], out: Path, asked: TuneConfig | None = ASKED) -> dict[str, Any]:
    target = OrtCpu(threads=1)
    return tune_candidates(asked, artifacts, target, "node", texts=TEXTS, out=out, reporter=Silent())


def test_a_run_that_does_not_ask_for_it_sweeps_nothing(
    artifacts: dict[str, Artifact], jobs: list[Any], tmp_path: Path
) -> None:
    assert tuned(artifacts, tmp_path / "out", None) == {}
    assert (jobs, (tmp_path / "out").exists()) == ([], False)


def test_each_variant_that_may_be_registered_is_swept_within_the_target_s_threads(
    artifacts: dict[str, Artifact], jobs: list[Any], tmp_path: Path
) -> None:
    found = tuned(artifacts, tmp_path / "out")["tuning"]
    assert {Path(job.path).parent.name for job in jobs} == set(found) == set(NAMES[2:])
    assert {job.setting.threads * job.setting.sessions for job in jobs} == {1}
    assert {job.plan.bound_ms for job in jobs} == {20.0}
    assert jobs[0].requests == ((("good",),), (("bad good",),), (("so",),))


def test_what_a_sweep_leaves_is_what_a_server_beside_the_bundle_follows(
    artifacts: dict[str, Artifact], jobs: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = tuned(artifacts, out)["tuning"][NAMES[3]]
    digest = read_bundle(artifacts[NAMES[3]].path / "bundle").digest
    found = find_tuning(out / "tuning" / NAMES[3], digest=digest, machine=machine_identity(), threads=usable_threads())
    assert found.tuning is not None
    assert found.name == "tuning@node.json"
    assert told == f"{found.tuning.setting.told()} ({found.tuning.told()})"
    assert read_bundle(artifacts[NAMES[3]].path / "bundle").digest == digest


def test_a_variant_that_keeps_the_bound_nowhere_is_told_and_ends_nothing(
    artifacts: dict[str, Artifact], jobs: list[Any], tmp_path: Path
) -> None:
    told = tuned(artifacts, tmp_path / "out")["tuning"][NAMES[2]]
    assert told == (
        "not tuned: no setting kept p99 <= 20 ms each time it was measured, down to 50 requests/s; allow a longer "
        "bound or serve a faster variant"
    )
    assert list((tmp_path / "out" / "tuning" / NAMES[2]).iterdir()) == []


def test_processes_that_die_are_told_and_lose_nothing_that_was_measured_before(
    artifacts: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(_: Any, **__: Any) -> ServerResult:
        raise Failure("the process was ended by SIGKILL")

    monkeypatch.setattr(sweeping, "run_child", dying)
    told = tuned(artifacts, tmp_path / "out")["tuning"]
    assert told == dict.fromkeys(NAMES[2:], "not tuned: the process was ended by SIGKILL")


def test_a_bundle_that_is_altered_ends_the_stage(
    artifacts: dict[str, Artifact], jobs: list[Any], tmp_path: Path
) -> None:
    (artifacts[NAMES[2]].path / "bundle" / "model.onnx").write_bytes(b"")
    with pytest.raises(BadArtifact, match="was altered after it was sealed"):
        tuned(artifacts, tmp_path / "out")


def test_requests_hold_as_many_texts_as_are_asked_for_and_the_few_that_there_are(
    artifacts: dict[str, Artifact], jobs: list[Any], tmp_path: Path
) -> None:
    tuned(artifacts, tmp_path / "two", TuneConfig(bound_ms=20.0, items=2))
    assert {job.requests for job in jobs} == {((("good",), ("bad good",)),)}
    jobs.clear()
    tuned(artifacts, tmp_path / "nine", TuneConfig(bound_ms=20.0, items=9))
    assert {job.requests for job in jobs} == {(tuple(TEXTS),)}


def test_the_plan_is_that_of_the_command_but_for_its_bound(
    artifacts: dict[str, Artifact], jobs: list[Any], tmp_path: Path
) -> None:
    tuned(artifacts, tmp_path / "out")
    plan: Plan = jobs[0].plan
    assert (plan.percent, plan.seconds, plan.steps) == (sweeping.PLAN.percent, sweeping.PLAN.seconds, 8)
