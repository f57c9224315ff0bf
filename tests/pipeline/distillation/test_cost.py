"""What a run will cost, from a few of its steps."""

from pathlib import Path
from typing import Any

import pytest
from models import encoder_folder, sentences
from pydantic import TypeAdapter

from pipeline.data.corpus import CorpusSource
from pipeline.distillation.cost import WARM_STEPS, Cost, _Clock, measure_cost
from pipeline.encoders.teachers import TeacherConfig
from pipeline.graph import Tools
from pipeline.progress import Silent
from pipeline.stages.distill import DistillConfig
from pipeline.training import Step


def measured(root: Path, *, steps: int = 4, **settings: Any) -> Cost | None:
    folder = encoder_folder(root / "teacher", layers=3)
    (root / "text.txt").write_text("\n".join(sentences(100)))
    text = TypeAdapter(CorpusSource).validate_python({"kind": "files", "files": str(root / "text.txt")})
    asked = {"student": {"layers": 2}, "objective": {"kind": "hidden"}, "batch_tokens": 128, "max_length": 16}
    config = DistillConfig.model_validate({**asked, "tokens": 100_000, **settings})
    tools = Tools("cost", root, root / "cache", root / "checkpoints", Silent())
    return measure_cost(config.each(), TeacherConfig(source=str(folder)).folder(root), text, tools, steps=steps)


def test_the_cost_of_a_run_is_told_from_a_few_steps_and_nothing_is_left(tmp_path: Path) -> None:
    cost = measured(tmp_path)

    assert cost is not None
    assert (cost.students, cost.tokens, cost.measured_steps) == (("student",), 100_000, 4)
    assert 100_000 / 128 <= cost.steps < 2 * 100_000 / 128
    assert cost.seconds == pytest.approx(100_000 / cost.tokens_per_s)
    assert cost.seconds_low <= cost.seconds <= cost.seconds_high
    assert 0.1 < cost.memory_gb < 20
    assert cost.gpu_memory_gb is None
    assert not (tmp_path / "checkpoints").exists()


def test_students_of_one_pass_are_measured_together(tmp_path: Path) -> None:
    cost = measured(tmp_path, students={"a": {}, "b": {"tokens": 200_000}, "c": {"objective": {"kind": "none"}}})
    assert cost is not None
    assert (cost.students, cost.tokens) == (("a", "b"), 200_000)


def test_no_objective_costs_nothing(tmp_path: Path) -> None:
    assert measured(tmp_path, objective={"kind": "none"}) is None


def test_the_whole_is_worked_out_from_tokens_and_not_from_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 10 and 30 tokens that take 1 and 3 seconds, after two slow ones."""
    times = iter([0.0, 50.0, 60.0, 61.0, 64.0, 65.0, 68.0])
    monkeypatch.setattr("pipeline.distillation.cost.time.monotonic", lambda: next(times))

    class Steps:
        def step_at(self, step: int) -> Step:
            return Step([], tokens=(10, 30)[step % 2], positions=40)

    feed = Steps()
    clock = _Clock(feed, steps=6)  # type: ignore[arg-type]
    stops = []
    for step in range(6):
        feed.step_at(step)
        stops.append(clock.after_step(step + 1))
    told = clock.extrapolated(1000)

    assert WARM_STEPS == 2
    assert stops == [False] * 5 + [True]
    assert told == {
        "steps": 50,
        "measured_steps": 4,
        "first_step_s": 50.0,
        "tokens_per_s": 10.0,
        "padding_share": 0.5,
        "seconds": 100.0,
        "seconds_low": 100.0,
        "seconds_high": 100.0,
    }
