"""The inputs of a session's processes."""

from itertools import product
from pathlib import Path

import pytest
from fakes import tiny_bundle

from benchmarks import plan as plans
from benchmarks.plan import SessionPlan, Variant, plan_session
from benchmarks.receipt import Load
from benchmarks.targets import OrtCpu
from serving.errors import BadRequest

TEXTS = [(" ".join(words),) for words in product(("good", "bad", "fine"), ("dull", "bright"), ("good", "awful"))]


def plan(path: Path, *, texts: int = 12, **load: int) -> SessionPlan:
    tiny_bundle(path / "a")
    return plan_session(
        [Variant("a", OrtCpu(threads=1), path / "a")],
        items=TEXTS[:texts],
        out=path / "out",
        load=Load(**{"lengths": (5,), "n": 4, "processes": 3, "real": 4, **load}),  # type: ignore[arg-type]
        task="classification",
        progress=lambda _done, _what: None,
    )


def test_every_repeat_has_other_inputs_as_far_as_there_are_any(tmp_path: Path) -> None:
    made = plan(tmp_path)
    jobs = [made.latency_job(made.variants[0], repeat=repeat) for repeat in range(4)]
    for inputs in ([job.real for job in jobs], [job.buckets[5] for job in jobs]):
        assert sorted(item for repeat in inputs[:3] for item in repeat) == sorted(TEXTS)
        assert inputs[3] == inputs[0], "what is measured again begins anew"


def test_few_texts_are_each_asked_about_several_times(tmp_path: Path) -> None:
    made = plan(tmp_path, texts=3)
    job = made.latency_job(made.variants[0], repeat=1)
    assert (len(job.real), set(job.real)) == (4, set(TEXTS[:3]))
    assert (len(job.buckets[5]), job.n) == (3, 4), "the process takes them in turn"


def test_a_session_may_have_no_texts_as_they_come(tmp_path: Path) -> None:
    made = plan(tmp_path, real=0)
    assert made.latency_job(made.variants[0], repeat=2).real == ()


@pytest.mark.parametrize("name", ["out", "out/logits"])
def test_a_file_where_the_session_s_folder_should_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(BadRequest) as refused:
        plan(tmp_path)
    assert str(refused.value).startswith(f"the session's folder {tmp_path / 'out'} cannot be made or written into (")
    assert str(refused.value).endswith("); name another one")


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(plans, "TemporaryFile", refuse)
    with pytest.raises(BadRequest) as refused:
        plan(tmp_path)
    assert str(refused.value) == (
        f"the session's folder {tmp_path / 'out'} cannot be made or written into (Permission denied); name another one"
    )


def test_progress_comes_in_steps_and_notes_add_nothing_to_it(tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    made = SessionPlan(**{**vars(plan(tmp_path)), "progress": lambda *each: told.append(each)})
    tell, note = made.tell("latency of a"), made.note("a under load")
    tell(10)
    tell(25)
    note(3)
    assert told == [(10, "latency of a"), (15, "latency of a"), (0, "a under load")]
