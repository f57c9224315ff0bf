"""What is asked of the benchmark and of the gate that can only fail; and what this machine cannot measure."""

from functools import partial
from pathlib import Path

import pytest

import configs
from benchmarks.targets import OpenVino, OrtCpu, OrtCuda
from configs import GATE, refusal
from pipeline import benchmark_checks
from pipeline.benchmark_checks import check_measured
from pipeline.checks import check
from pipeline.config import RunConfig
from pipeline.errors import BadRequest
from pipeline.graph import expand
from pipeline.progress import Silent
from pipeline.runner import plan, run
from pipeline.workspace import Workspace

config = partial(configs.config, quantize={"kind": "fp32"})
HERE, EDGE = {"kind": "ort-cpu"}, {"kind": "openvino"}
BOTH = {"targets": {"here": HERE, "edge": EDGE}}
NEEDS = "a thing this machine lacks: get one"


def test_a_baseline_nobody_measures_is_refused(teacher: Path, tmp_path: Path) -> None:
    assert refusal(config(teacher, gate=["accuracy >= 0.95 * techer"]), tmp_path) == (
        "register.gate: 'accuracy >= 0.95 * techer': there is no variant 'techer'; a baseline is 'teacher' or one of "
        "teacher-torch-fp32, teacher-onnx-fp32, student-onnx-fp32, student-onnx-fused"
    )


def test_a_rate_is_asked_where_a_bound_is_set_and_the_server_runs_the_bundle(teacher: Path, tmp_path: Path) -> None:
    bounded = {"server": {"bound_ms": 20}}
    check(config(teacher, benchmark=BOTH | bounded, gate=["server_rps >= 5 at here", "p95_ms <= 5"]), cache=tmp_path)
    assert refusal(config(teacher, gate=["server_rps_low >= 5"]), tmp_path) == (
        "register.gate: 'server_rps_low >= 5': server_rps is measured under a bound on latency, and none is set: set "
        "benchmark.server.bound_ms, or take the rule out"
    )
    asked = config(teacher, benchmark=BOTH | bounded, gate=["server_rps >= 5 at edge"])
    assert refusal(asked, tmp_path) == (
        "register.gate: 'server_rps >= 5 at edge': the server runs bundles as at a target of kind ort-cpu, and 'edge' "
        "is of kind openvino: ask at here"
    )
    asked = config(teacher, benchmark={"targets": {"edge": EDGE}} | bounded, gate=["server_rps >= 5"])
    assert refusal(asked, tmp_path).endswith(": add one to benchmark.targets, or take the rule out")


def test_an_interval_over_few_processes_is_refused(teacher: Path, tmp_path: Path) -> None:
    asked = config(teacher, benchmark={"processes": 4}, gate=["p95_ms <= 5 with confidence"])
    assert refusal(asked, tmp_path) == (
        "register.gate: rule 'p95_ms <= 5 with confidence': a 95 % interval takes 5 processes or more, and 4 are asked "
        "for: raise benchmark.processes, or ask for the figure without its interval"
    )


def test_what_is_made_for_cuda_is_not_measured_without_it(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(teacher, quantize={"kind": "fp16"})
    with pytest.raises(BadRequest) as refused:
        run(asked, Workspace.open(tmp_path / "work"), reporter=Silent())
    assert str(refused.value) == (
        "quantize.kind: fp16 is for CUDA, and the benchmark would measure it here, without onnxruntime-gpu; make the "
        "bundle alone with `retort stage quantize`, or choose another recipe"
    )
    monkeypatch.setattr("pipeline.benchmark_checks.version", lambda name: "1.31.1")
    check_measured(asked, expand(asked))


def test_too_few_samples_for_a_p95_are_refused(teacher: Path, tmp_path: Path) -> None:
    assert refusal(config(teacher, benchmark={"samples": 10, "processes": 2}), tmp_path) == (
        "benchmark: 10 samples in 2 processes make 20; a p95 needs 200, and the gate chooses by it: raise "
        "benchmark.samples"
    )


def test_a_task_without_a_test_split_is_refused(teacher: Path, tmp_path: Path) -> None:
    task = {"kind": "classification", "data": {"kind": "files", "train": "train.csv"}}
    assert refusal(config(teacher, task=task), tmp_path) == (
        "the task's data names no test split, and the benchmark reports on it: add one"
    )


def test_more_threads_than_cores_are_refused(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_checks, "affinity_cores", lambda: 2)
    asked = config(teacher, benchmark={"targets": {"here": HERE, "wide": HERE | {"threads": 64}}})
    assert refusal(asked, tmp_path) == (
        "benchmark.targets.wide.threads: 64, but this process may run on 2 cores; set fewer"
    )


# -- targets -----------------------------------------------------------------------------------------------------------


def test_a_rule_may_ask_for_any_target_and_an_unknown_one_is_answered_with_the_list(
    teacher: Path, tmp_path: Path
) -> None:
    gate = ["p95_ms <= 5", "p95_ms <= 0.5 * teacher at edge with confidence"]
    check(config(teacher, benchmark=BOTH, gate=gate), cache=tmp_path)
    assert refusal(config(teacher, benchmark=BOTH, gate=["p95_ms <= 5 at gpu"]), tmp_path) == (
        "register.gate: rule 'p95_ms <= 5 at gpu': nothing is measured at 'gpu'; targets are: here, edge"
    )


def test_pytorch_is_a_baseline_at_the_first_target_alone(teacher: Path, tmp_path: Path) -> None:
    check(config(teacher, benchmark=BOTH, gate=["p95_ms <= 1 * teacher-torch-fp32 at here"]), cache=tmp_path)
    asked = config(teacher, benchmark=BOTH, gate=["p95_ms <= 1 * teacher-torch-fp32 at edge"])
    assert refusal(asked, tmp_path) == (
        "register.gate: 'p95_ms <= 1 * teacher-torch-fp32 at edge': there is no variant 'teacher-torch-fp32' at edge; "
        "a baseline is 'teacher' or one of teacher-onnx-fp32, student-onnx-fp32, student-onnx-fused"
    )


def test_int8_is_not_asked_of_cuda(teacher: Path, tmp_path: Path) -> None:
    gpu = {"targets": {"here": HERE, "gpu": {"kind": "ort-cuda"}}}
    check(config(teacher, benchmark=gpu), cache=tmp_path)
    assert refusal(config(teacher, benchmark=gpu, quantize={"kind": "static"}), tmp_path) == (
        "benchmark.targets.gpu: ort-cuda computes nothing in int8, and quantize.kind 'static' makes a variant of it; "
        "quantize by fp16 or fp32, or take the target out"
    )


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is no `openvino`, whatever it has."""
    monkeypatch.setattr(OrtCpu, "missing", lambda _: "")
    monkeypatch.setattr(OpenVino, "missing", lambda _: NEEDS)


def unmeasurable(asked: RunConfig, *, only: str = "") -> str:
    with pytest.raises(BadRequest) as refused:
        check_measured(asked, [step for step in expand(asked) if only in ("", step.label)])
    return str(refused.value)


@pytest.mark.usefixtures("lacking")
def test_a_target_that_this_machine_is_not_may_be_skipped_where_no_rule_asks_for_it(teacher: Path) -> None:
    asked = config(teacher, benchmark=BOTH)
    check_measured(asked, expand(asked))


@pytest.mark.usefixtures("lacking")
def test_a_rule_at_a_target_that_this_machine_is_not_is_refused_before_anything_runs(
    teacher: Path, tmp_path: Path
) -> None:
    asked = config(teacher, benchmark=BOTH, gate=[*GATE, "p95_ms <= 5 at edge"])
    told = (
        f"register.gate: 'p95_ms <= 5 at edge' asks for figures at 'edge', which is openvino and needs {NEEDS}; "
        "run it on such a machine, or take the rule out"
    )
    assert unmeasurable(asked) == told
    place = Workspace.open(tmp_path / "work")
    for call in (lambda: plan(asked, place), lambda: run(asked, place, reporter=Silent())):
        with pytest.raises(BadRequest) as refused:
            call()
        assert str(refused.value) == told


@pytest.mark.usefixtures("lacking")
@pytest.mark.parametrize(
    ("gate", "what"),
    [(GATE, "'accuracy >= 0.95 * teacher'"), (["accuracy >= 0.5 at here"], "the choice of the fastest variant")],
)
def test_the_first_target_must_be_this_machine(teacher: Path, gate: list[str], what: str) -> None:
    asked = config(teacher, benchmark=BOTH | {"first": "edge"}, gate=gate)
    assert unmeasurable(asked) == (
        f"register.gate: {what} asks for figures at 'edge', which is openvino and needs {NEEDS}; run it on such a "
        "machine, or make another target the first one (benchmark.first)"
    )


@pytest.mark.usefixtures("lacking")
def test_a_machine_that_runs_other_steps_need_not_be_the_target(teacher: Path) -> None:
    asked = config(teacher, benchmark=BOTH, gate=["p95_ms <= 5 at edge"])
    check_measured(asked, [step for step in expand(asked) if step.label != "benchmark-edge"])
    assert NEEDS in unmeasurable(asked, only="benchmark-edge")


def test_what_a_target_needs_is_asked_of_the_target_itself(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OrtCuda, "missing", lambda _: "an NVIDIA GPU")
    asked = config(teacher, benchmark={"targets": {"gpu": {"kind": "ort-cuda"}}})
    assert "which is ort-cuda and needs an NVIDIA GPU; " in unmeasurable(asked)


def test_tuning_is_asked_of_what_the_server_runs(teacher: Path, tmp_path: Path) -> None:
    tune = {"tune": {"bound_ms": 20}}
    check(config(teacher, benchmark=BOTH | tune), cache=tmp_path)
    assert refusal(config(teacher, benchmark={"targets": {"edge": EDGE}} | tune), tmp_path) == (
        "benchmark.tune: the server runs bundles as at a target of kind ort-cpu, and benchmark.targets has none: add "
        "one, or leave tune out"
    )
