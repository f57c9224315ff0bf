"""Which students the comparison compares, and how."""

from pathlib import Path

import pytest

from benchmarks.students_bench import TAUGHT, compared, pairs_of, schooling
from pipeline.config import load_config
from pipeline.tasking.base import Judged


def test_every_student_is_compared_with_the_last_and_with_its_own_int8_and_the_teacher() -> None:
    assert pairs_of(["mha", "hs", "none"], []) == [
        ("mha, fp32", "none, fp32"),
        ("hs, fp32", "none, fp32"),
        ("mha, int8", "none, int8"),
        ("hs, int8", "none, int8"),
        ("mha, int8", "mha, fp32"),
        ("hs, int8", "hs, fp32"),
        ("none, int8", "none, fp32"),
        ("mha, fp32", "teacher, fp32"),
        ("hs, fp32", "teacher, fp32"),
        ("none, fp32", "teacher, fp32"),
    ]


def test_a_student_that_was_taught_is_compared_with_itself_untaught() -> None:
    assert pairs_of(["student"], [], taught=True) == [
        ("student+taught, fp32", "student, fp32"),
        ("student+taught, int8", "student, int8"),
        ("student, int8", "student, fp32"),
        ("student+taught, int8", "student+taught, fp32"),
        ("student, fp32", "teacher, fp32"),
        ("student+taught, fp32", "teacher, fp32"),
    ]


def test_pairs_that_are_asked_for_take_their_place() -> None:
    found = pairs_of(["mha", "hs", "none"], ["mha:hs"])
    assert found[:2] == [("mha, fp32", "hs, fp32"), ("mha, int8", "hs, int8")]
    assert ("hs, fp32", "none, fp32") not in found


@pytest.mark.parametrize(("name", "alone"), [("clinc150", (None, 4)), ("stsb-embedding", (None, 0))])
def test_a_student_is_fine_tuned_as_configured_and_alone(name: str, alone: tuple[str | None, int]) -> None:
    config = load_config(Path(f"configs/{name}.yaml"))
    found = schooling(config, "")
    assert (found.distill_from, found.epochs) == alone
    assert schooling(config, TAUGHT) == config.finetune


def test_a_config_without_a_teacher_is_taught_by_its_run_s_own() -> None:
    config = load_config(Path("configs/smoke.yaml"))
    assert config.finetune.distill_from is None
    assert schooling(config, TAUGHT) == config.finetune.model_copy(update={"distill_from": "teacher"})


def test_a_figure_s_difference_is_between_the_means_over_seeds() -> None:
    truths = [1] * 10
    nine, seven, six = ({"oos_refused": Judged("accuracy", [1] * n + [0] * (10 - n), truths)} for n in (9, 7, 6))
    found = compared("oos_refused", [nine, seven], [six])
    assert [found[units]["estimate"] for units in ("sentences", "sentences and seeds")] == [pytest.approx(0.2)] * 2
    assert found["sentences"]["low"] <= 0.2 <= found["sentences"]["high"]
