"""What a config asks for that can only fail is refused at plan time, with what is wrong and the way out."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from models import encoder_folder

from pipeline import checks
from pipeline.checks import check
from pipeline.config import RunConfig
from pipeline.errors import BadRequest

WRITTEN = {
    "name": "a-run",
    "text": {"kind": "files", "files": "text.txt"},
    "task": {"kind": "classification", "data": {"kind": "files", "train": "train.csv", "test": "test.csv"}},
    "distill": {"student": {"layers": 1}, "objective": {"kind": "hidden"}, "max_length": 64},
    "finetune": {"max_length": 64},
}
GATE = ["accuracy >= 0.95 * teacher"]


def config(teacher: Path, *, gate: list[str] = GATE, **changes: object) -> RunConfig:
    written = {**WRITTEN, "teacher": str(teacher), "register": {"name": "model", "gate": gate}, **changes}
    return RunConfig.model_validate(written)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return encoder_folder(tmp_path / "teacher", max_position_embeddings=512)


def refusal(asked: RunConfig, cache: Path) -> str:
    with pytest.raises(BadRequest) as refused:
        check(asked, cache=cache)
    return str(refused.value)


def test_a_config_that_can_work_passes(teacher: Path, tmp_path: Path) -> None:
    check(config(teacher), cache=tmp_path)


def test_a_baseline_nobody_measures_is_refused(teacher: Path, tmp_path: Path) -> None:
    assert refusal(config(teacher, gate=["accuracy >= 0.95 * techer"]), tmp_path) == (
        "register.gate: 'accuracy >= 0.95 * techer': there is no variant 'techer'; a baseline is 'teacher' or one of "
        "teacher-torch-fp32, teacher-onnx-fp32, student-onnx-fp32, student-onnx-int8"
    )


def test_a_metric_of_another_task_is_refused(teacher: Path, tmp_path: Path) -> None:
    assert refusal(config(teacher, gate=["spearman_low >= 0.5"]), tmp_path).startswith(
        "register.gate: 'spearman_low >= 0.5': spearman is no metric of this task; known here: accuracy, "
    )


def test_inputs_shorter_than_what_is_timed_are_refused(teacher: Path, tmp_path: Path) -> None:
    assert refusal(config(teacher, finetune={"max_length": 32}), tmp_path) == (
        "finetune.max_length: 32, but latency is measured at 64 tokens; set 64 or more"
    )


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_inputs_longer_than_the_teacher_s_positions_are_refused(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(checks, "positions_in", lambda _folder: 80)
    changed = {**WRITTEN[stage], "max_length": 81}  # type: ignore[dict-item]
    assert refusal(config(teacher, **{stage: changed}), tmp_path) == (
        f"{stage}.max_length: 81, but the teacher has positions for 80 tokens; set 80 or less"
    )


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
    monkeypatch.setattr(checks, "affinity_cores", lambda: 2)
    asked = config(teacher, benchmark={"target": {"threads": 64}})
    assert refusal(asked, tmp_path) == ("benchmark.target.threads: 64, but this process may run on 2 cores; set fewer")


@pytest.mark.parametrize(
    ("model_type", "positions", "pad_id", "most"), [("bert", 512, 0, 512), ("roberta", 514, 1, 512)]
)
def test_positions_are_counted_as_the_family_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, positions: int, pad_id: int, most: int
) -> None:
    from pipeline.encoders import teachers

    written = {"model_type": model_type, "max_position_embeddings": positions, "pad_token_id": pad_id}
    monkeypatch.setattr(teachers, "read_config", lambda _folder: written)
    assert teachers.positions_in(tmp_path) == most


def test_a_teacher_that_is_not_here_yet_is_not_fetched_for_a_check(tmp_path: Path) -> None:
    away = SimpleNamespace(**vars(config(Path("somebody/some-model"))))
    check(away, cache=tmp_path)  # type: ignore[arg-type]
