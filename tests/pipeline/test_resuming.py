"""`retort run --resume` goes on, and never begins."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import Retort, runner

from pipeline.config import RunConfig
from pipeline.errors import BadRequest
from pipeline.progress import Console
from pipeline.resuming import require_unfinished
from pipeline.runner import Planned
from pipeline.workspace import Workspace

CONFIG = RunConfig.model_validate(
    {
        "name": "tickets",
        "teacher": "package:x",
        "text": {"kind": "docstrings"},
        "task": {"kind": "classification", "data": {"kind": "docstrings"}},
        "register": {"name": "tickets", "gate": ["accuracy >= 0.9"]},
    }
)
LABELS = ("distill", "benchmark", "register")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path)


def asked(place: Workspace, *states: str) -> None:
    """`--resume`, where the steps are in these states."""
    planned = [
        Planned(SimpleNamespace(label=label), state, None if state == "waits" else f"{label}-key")  # type: ignore[arg-type]
        for label, state in zip(LABELS, states, strict=True)
    ]
    require_unfinished(CONFIG, planned, place)


def told(place: Workspace, *events: tuple[str, str]) -> None:
    console = Console(place.run_folder("tickets") / "events.jsonl")
    for kind, label in events:
        console.event(kind, label=label, key=f"{label}-key")


def recorded(place: Workspace, *labels: str, **changes: Any) -> None:
    config = CONFIG.model_copy(update=changes).model_dump(mode="json")
    place.record("tickets", config=config, steps={label: {"key": f"{label}-key"} for label in labels})


NOT_BEGUN = (
    "--resume: no run of tickets with these settings was begun in {}; give the --set and --workspace of the one to go "
    "on with, or leave --resume out to begin"
)
AT_ITS_END = (
    "--resume: the last run of tickets with these settings came to its end in {}; `retort show` shows it, and `retort "
    "run` without --resume measures again what is too old"
)


def test_what_was_never_begun_is_not_begun_by_it(place: Workspace) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(place, "run", "waits", "waits")
    assert str(refused.value) == NOT_BEGUN.format(place.root)


def test_steps_that_another_run_made_are_no_run_of_these_settings(place: Workspace) -> None:
    recorded(place, "distill", name="other")
    told(place, ("started", "distill"), ("step", "distill"))
    with pytest.raises(BadRequest) as refused:
        asked(place, "done", "run", "waits")
    assert str(refused.value) == NOT_BEGUN.format(place.root)


def test_a_run_that_was_killed_in_its_first_step_goes_on(place: Workspace) -> None:
    told(place, ("started", "distill"))
    asked(place, "run", "waits", "waits")


def test_a_run_that_was_killed_between_two_steps_goes_on(place: Workspace) -> None:
    recorded(place, "distill")
    asked(place, "done", "run", "waits")


def test_a_torn_line_among_the_events_is_passed_over(place: Workspace) -> None:
    told(place, ("started", "distill"))
    with (place.run_folder("tickets") / "events.jsonl").open("ab") as events:
        events.write(b'{"at": 1, "event": "st')
    asked(place, "run", "waits", "waits")


def test_a_run_that_came_to_its_end_is_not_measured_again_by_it(place: Workspace) -> None:
    recorded(place, *LABELS)
    told(place, *((kind, label) for label in LABELS for kind in ("started", "step")))
    for states in (("done", "done", "done"), ("done", "stale", "waits")):
        with pytest.raises(BadRequest) as refused:
            asked(place, *states)
        assert str(refused.value) == AT_ITS_END.format(place.root)


def test_measuring_again_that_was_interrupted_goes_on(place: Workspace) -> None:
    recorded(place, *LABELS)
    told(place, ("started", "benchmark"), ("step", "benchmark"), ("started", "benchmark"))
    asked(place, "done", "stale", "waits")


def test_a_run_that_finished_without_a_trace_here_has_nothing_left(place: Workspace) -> None:
    """Its artifacts came from a shared store."""
    with pytest.raises(BadRequest) as refused:
        asked(place, "done", "done", "done")
    assert str(refused.value) == AT_ITS_END.format(place.root)


# -- the command -------------------------------------------------------------------------------------------------------

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "smoke.yaml"


@pytest.fixture
def retort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retort:
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def test_the_command_refuses_before_anything_runs(retort: Retort, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.runner.run", lambda *_, **__: pytest.fail("it ran"))
    ended = retort("run", SMOKE, "--resume", "--workspace", tmp_path / "w")
    assert (ended.code, ended.out) == (64, "")
    assert ended.err == "retort: " + NOT_BEGUN.format(tmp_path / "w").replace("tickets", "smoke") + "\n"


def test_the_command_goes_on_with_what_was_left(retort: Retort, tmp_path: Path, monkeypatch: Any) -> None:
    from pipeline.runner import plan

    def killed(config: RunConfig, place: Workspace, **_: Any) -> dict[str, Any]:
        key = plan(config, place)[0].key
        Console(place.run_folder(config.name) / "events.jsonl").event("started", label="distill", key=key)
        raise KeyboardInterrupt

    went_on: list[str] = []
    monkeypatch.setattr("pipeline.runner.run", killed)
    assert retort("run", SMOKE, "--workspace", tmp_path / "w").code == 130
    monkeypatch.setattr("pipeline.runner.run", lambda config, *_, **__: went_on.append(config.name) or {})
    assert retort("run", SMOKE, "--resume", "--workspace", tmp_path / "w").code == 0
    assert went_on == ["smoke"]
    other = retort("run", SMOKE, "--resume", "--workspace", tmp_path / "w", "--set", "finetune.seed=7")
    assert other.code == 0, "the step that was begun is the same one, of any settings further down"
    other = retort("run", SMOKE, "--resume", "--workspace", tmp_path / "w", "--set", "distill.seed=7")
    assert (other.code, other.out) == (64, "")
