"""A run is put into an outbox as it happens. The sender is a fake here, and no stage is run; what arrives at a real
server is in tracking/."""

import errno
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import manifest_of

from pipeline.artifact import MANIFEST, Artifact, read_artifact, sealed_files, write_json
from pipeline.data.corpus import DocstringsCorpus
from pipeline.data.sources import HubSource
from pipeline.errors import BadArtifact
from pipeline.events import PARENT, Closed, Event, Files, Metrics, Opened, Params, Read, Tags, event_of
from pipeline.graph import Step
from pipeline.outbox import Outbox
from pipeline.outbox_reading import lines_after, outboxes
from pipeline.progress import Silent, measured
from pipeline.recording import Asked, Recorder
from pipeline.records import Record
from pipeline.sharing import NOTE
from pipeline.tasks import Classification, TaskSplits
from pipeline.tracking.sender_process import SenderProcess
from pipeline.tracking.sent import State, write_state

CONFIG = {"distill": {"tokens": 7}}
MADE_AT = "2026-01-01T00:00:00+00:00"
LATER, LATER_MS = "2099-01-01T00:00:00+00:00", 4_070_908_800_000  # than any step of these tests began
LABELS = ("distill-small", "distill-tiny", "benchmark", "register")


class Sender:
    """What is asked of a sender, in order; it sends nothing."""

    def __init__(
        self,
        asked: list[str],
        folder: Path,
        *,
        rests: bool = True,
        state: State | None = None,
        code: int | None = None,
    ) -> None:
        self._asked, self._folder, self._rests, self._state, self._code = asked, folder, rests, state, code
        asked.append("start")

    def rest(self) -> bool:
        self._asked.append("rest")
        return self._rests

    def go(self) -> None:
        self._asked.append("go")

    def end(self, wait_s: float) -> int | None:
        self._asked.append(f"end {wait_s:g}")
        if self._state is not None:
            write_state(self._folder, self._state)
        return self._code


class Said(Silent):
    """Keeps lines and events."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append(kind)


class StudentConfig(Record):
    tokens: int = 7


class Place:
    """A workspace, and what a recorder in it was asked and put."""

    def __init__(self, root: Path) -> None:
        self.root, self.said, self.asked = root, Said(), list[str]()

    def recorder(
        self, *, labels: tuple[str, ...] = LABELS, config: Mapping[str, Any] = CONFIG, **sender: Any
    ) -> Recorder:
        """Whose sender is a fake."""
        asked = Asked(self.root, "demo", config, "models", None, "here", labels)

        def start(folder: Path) -> SenderProcess:
            return Sender(self.asked, folder, **sender)  # type: ignore[return-value]

        return Recorder(self.said, asked, start=start)

    @property
    def folders(self) -> list[Path]:
        return outboxes(self.root)

    def events(self, *kinds: type[Event], of: str | None = None) -> list[Any]:
        """What was put, of all outboxes."""
        found = [event_of(line) for folder in self.folders for line, _ in lines_after(folder)]
        return [each for each in found if isinstance(each, kinds or object) and of in (None, each.of)]

    def artifact(
        self, label: str, *, files: Mapping[str, str] | None = None, finished_at: str = MADE_AT, **facts: Any
    ) -> Artifact:
        """As a stage leaves it."""
        out = self.root / "artifacts" / label
        for name, content in {"evidence/curve.jsonl": "{}", "model.onnx": "weights", **(files or {})}.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(content)
        stage = label.partition("-")[0]
        told = {"stage": stage, "label": label, "facts": facts, "finished_at": finished_at}
        write_json(out / MANIFEST, manifest_of(f"{label}-key", sealed_files(out), **told))
        return read_artifact(out)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def step(label: str, **sources: Any) -> Step:
    return Step(label.partition("-")[0], label, StudentConfig(), {}, sources)


def begin(recorder: Recorder, label: str, *, key: str = "") -> None:
    recorder.started(step(label), key or f"{label}-key", {"text": "t1"})


def end(recorder: Recorder, place: Place, label: str, **made: Any) -> None:
    artifact = place.artifact(label, **made)
    recorder.sealed(step(label), artifact, {"text": "t1"})
    recorder.done(step(label), artifact, {"text": "t1"})


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_run_with_nothing_to_do_records_nothing_and_starts_nothing(place: Place) -> None:
    with place.recorder() as recorder:
        recorder.done(step("distill-small"), place.artifact("distill-small"), {"text": "t1"})
        assert recorder.outbox is None
    assert (place.folders, place.asked, place.said.lines) == ([], [], [])
    assert not (place.root / "outbox").exists()


def test_the_first_step_opens_the_run_with_its_settings_source_and_what_was_there_before(place: Place) -> None:
    with place.recorder() as recorder:
        recorder.done(step("distill-small"), place.artifact("distill-small"), {"text": "t1"})
        begin(recorder, "distill-tiny")
        assert recorder.outbox == place.folders[0]
    opened, nested = place.events(Opened)
    assert (opened.of, opened.name) == (PARENT, "demo")
    assert opened.tags.keys() >= {"retort.git_commit", "retort.git_dirty", "retort.lock", "retort.host", "mlflow.user"}
    assert opened.tags["mlflow.source.git.commit"] == opened.tags["retort.git_commit"]
    assert opened.tags["retort.lineage.distill-small"] == place.artifact("distill-small").digest
    assert (nested.of, nested.key) == ("distill-tiny", "distill-tiny-key")
    assert nested.tags.items() >= {"retort.stage": "distill", "retort.lineage.text": "t1"}.items()
    assert [(each.of, each.values) for each in place.events(Params)] == [
        (PARENT, {"distill": {"tokens": 7}}),
        ("distill-tiny", {"tokens": 7}),
    ]


def test_a_sealed_step_tells_its_files_before_the_tags_that_announce_them_and_is_closed(place: Place) -> None:
    with place.recorder() as recorder:
        begin(recorder, "distill-small")
        end(recorder, place, "distill-small")
    own = place.events(of="distill-small")
    assert [type(each).__name__ for each in own] == ["Opened", "Params", "Files", "Tags", "Closed"]
    kept = place.folders[0] / own[2].folder
    names = sorted(path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file())
    assert names == ["evidence/curve.jsonl", "manifest.json"]  # and no weights
    assert own[3].values == {"retort.digest": place.artifact("distill-small").digest, "retort.seconds": "1"}
    assert own[4].status == "FINISHED"


def test_a_benchmark_s_figures_are_metrics_of_the_run_too_and_those_of_another_target_are_called_by_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.recorded_run.write_told", lambda *_: ())
    figures = {"student": {"p95_ms": 1.5, "p95_ms/teacher": 0.5, "agreement": None}}
    with place.recorder() as recorder:
        for target in ("here", "edge"):
            begin(recorder, f"benchmark-{target}")
            end(recorder, place, f"benchmark-{target}", target=target, figures=figures)
    assert [each.values for each in place.events(Metrics, of="benchmark-edge")] == [{"student/p95_ms": 1.5}]
    assert [each.values for each in place.events(Metrics, of=PARENT)] == [
        {"student/p95_ms": 1.5},
        {"edge/student/p95_ms": 1.5},
    ]


def test_the_page_about_a_session_is_the_run_s(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, session: Artifact, register: Artifact | None, folder: Path) -> tuple[Path, ...]:
        (folder / "report.html").write_text(f"{name} {session.manifest.label} {register and register.manifest.label}")
        return (folder / "report.html",)

    monkeypatch.setattr("pipeline.recorded_run.write_told", write)
    with place.recorder() as recorder:
        begin(recorder, "benchmark")
        end(recorder, place, "benchmark", target="here")
        begin(recorder, "register")
        end(recorder, place, "register")
    (files,) = place.events(Files, of=PARENT)
    assert files.to == "benchmark"
    assert (place.folders[0] / files.folder / "report.html").read_text() == "demo benchmark register"


def test_a_verdict_and_the_version_are_tags_of_the_run(place: Place) -> None:
    facts = {
        "verdict": {"verdict": "PASS", "reason": "it is small"},
        "registered": {"name": "models", "version": "3"},
    }
    with place.recorder() as recorder:
        begin(recorder, "register")
        end(recorder, place, "register", **facts)
    tags = {name: value for each in place.events(Tags, of=PARENT) for name, value in each.values.items()}
    assert tags.items() >= {"retort.verdict": "PASS", "retort.reason": "it is small"}.items()
    assert tags.items() >= {"retort.model": "models", "retort.version": "3"}.items()


def test_what_nothing_was_registered_of_has_a_verdict_and_no_version(place: Place) -> None:
    with place.recorder() as recorder:
        begin(recorder, "register")
        end(recorder, place, "register", verdict={"verdict": "FAIL", "reason": "slow"}, registered=None)
    tags = {name: value for each in place.events(Tags, of=PARENT) for name, value in each.values.items()}
    assert tags["retort.verdict"] == "FAIL"
    assert "retort.version" not in tags


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_a_row_of_training_is_told_as_it_is_and_belongs_to_the_step_at_work(place: Place) -> None:
    with place.recorder() as recorder:
        recorder.metrics("model", step=1, values={"loss": 9.0})  # of no step: nobody can say of which
        begin(recorder, "finetune-teacher")
        recorder.metrics("model", step=10, values={"step": 10, "loss": 0.5, "grad_norm": float("nan")})
    (row,) = place.events(Metrics)
    assert (row.of, row.step, row.values) == ("finetune-teacher", 10, {"loss": 0.5, "grad_norm": "nan"})


def test_of_students_that_train_together_each_has_its_own_rows(place: Place) -> None:
    with place.recorder() as recorder:
        for label in ("distill-small", "distill-tiny"):
            begin(recorder, label)
        recorder.metrics("tiny", step=10, values={"loss": 0.5})
        recorder.metrics("small", step=10, values={"loss": 0.25})
    assert [(row.of, row.values["loss"]) for row in place.events(Metrics)] == [
        ("distill-tiny", 0.5),
        ("distill-small", 0.25),
    ]


def test_what_is_trained_again_after_a_kill_is_not_told_twice(place: Place) -> None:
    with suppress(KeyboardInterrupt), place.recorder() as recorder:
        begin(recorder, "distill-small")
        for number in (10, 20, 30):
            recorder.metrics("student", step=number, values={"loss": 1 / number})
        raise KeyboardInterrupt
    with place.recorder() as recorder:
        begin(recorder, "distill-small")
        for number in (20, 30, 40):
            recorder.metrics("student", step=number, values={"loss": 1 / number, "dev_f1": 0.5})
    rows = [(row.step, sorted(row.values)) for row in place.events(Metrics)]
    assert rows == [
        *((n, ["loss"]) for n in (10, 20, 30)),
        *((n, ["dev_f1"]) for n in (20, 30)),
        (40, ["dev_f1", "loss"]),
    ]


def test_a_step_whose_code_has_changed_is_told_from_its_first_row(place: Place) -> None:
    for key in ("one", "other"):
        with suppress(KeyboardInterrupt), place.recorder() as recorder:
            begin(recorder, "distill-small", key=key)
            recorder.metrics("student", step=10, values={"loss": 0.5})
            raise KeyboardInterrupt
    assert [row.step for row in place.events(Metrics)] == [10, 10]


# -- the end -----------------------------------------------------------------------------------------------------------


def statuses(place: Place) -> list[tuple[str, str]]:
    return [(each.of, each.status) for each in place.events(Closed)]


def end_by(place: Place, error: BaseException, **asked: Any) -> None:
    """A run that fails in its first step."""
    with place.recorder(**asked) as recorder:
        begin(recorder, "distill-small")
        raise error


def test_a_whole_run_is_finished_and_the_next_one_is_another(place: Place) -> None:
    for _ in range(2):
        with place.recorder(labels=("distill-small",)) as recorder:
            begin(recorder, "distill-small")
            end(recorder, place, "distill-small")
    assert statuses(place) == [("distill-small", "FINISHED"), (PARENT, "FINISHED")] * 2
    assert len(place.folders) == 2
    assert place.asked == ["start", "end 15"] * 2


def test_a_run_of_some_of_its_steps_is_finished_for_now_and_goes_on_in_the_same_run(place: Place) -> None:
    for label in ("distill-small", "distill-tiny"):
        with place.recorder() as recorder:
            begin(recorder, label)
            end(recorder, place, label)
    assert len(place.folders) == 1
    assert [each.of for each in place.events(Opened)] == [PARENT, "distill-small", PARENT, "distill-tiny"]
    assert [each.values["retort.steps"] for each in place.events(Tags, of=PARENT) if "retort.steps" in each.values] == [
        "1 of 4",
        "1 of 4",
    ]


def test_a_failure_closes_what_was_at_work_and_says_why(place: Place) -> None:
    with pytest.raises(BadArtifact):
        end_by(place, BadArtifact("the text is empty"))
    assert statuses(place) == [("distill-small", "FAILED"), (PARENT, "FAILED")]
    assert place.events(Tags, of=PARENT)[-1].values["retort.error"] == "the text is empty"


def test_a_run_that_recovered_tells_no_error_any_more(place: Place) -> None:
    with pytest.raises(BadArtifact):
        end_by(place, BadArtifact("the text is empty"))
    for label in ("distill-small", "distill-tiny"):
        with place.recorder() as recorder:
            begin(recorder, label)
            end(recorder, place, label)
    assert errors(place) == ["the text is empty", ""]


def errors(place: Place) -> list[str]:
    """What the run was told to have failed by, one after another."""
    told = [each.values for each in place.events(Tags, of=PARENT)]
    return [values["retort.error"] for values in told if "retort.error" in values]


def test_a_bug_is_told_with_its_kind(place: Place) -> None:
    with pytest.raises(KeyError):
        end_by(place, KeyError("student"))
    assert place.events(Tags, of=PARENT)[-1].values["retort.error"] == "KeyError: 'student'"


def test_no_secret_of_a_url_in_the_config_or_in_a_failure_is_on_disk(place: Place) -> None:
    url = "https://ann:s3cr3t@host/x.parquet?X-Amz-Signature=t0ken"
    config = {"text": {"files": [url, "s3://AKIAKEY:s3cr3t@bucket/y"]}}
    with pytest.raises(BadArtifact):
        end_by(place, BadArtifact(f"{url} is empty"), config=config)
    assert place.events(Params, of=PARENT)[0].values == {"text": {"files": ["https://host/x.parquet", "s3://bucket/y"]}}
    assert place.events(Tags, of=PARENT)[-1].values["retort.error"] == "https://host/x.parquet is empty"
    told = b"".join(path.read_bytes() for path in place.folders[0].iterdir() if path.is_file())
    assert not any(secret in told for secret in (b"ann:", b"s3cr3t", b"t0ken", b"AKIAKEY"))


def test_a_manifest_with_a_secret_is_told_as_a_copy_without_it_and_is_not_touched(place: Place) -> None:
    with place.recorder() as recorder:
        begin(recorder, "distill-small")
        end(recorder, place, "distill-small", read="https://ann:s3cr3t@host/x.parquet?sig=t0ken")
    (files,) = place.events(Files)
    told = msgspec.json.decode((place.folders[0] / files.folder / MANIFEST).read_bytes())
    sealed = msgspec.json.decode((place.root / "artifacts" / "distill-small" / MANIFEST).read_bytes())
    assert sealed["facts"] == {"read": "https://ann:s3cr3t@host/x.parquet?sig=t0ken"}
    assert told == {"redacted": NOTE, **sealed, "facts": {"read": "https://host/x.parquet"}}


@pytest.mark.parametrize("how", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_run_is_killed_soon_and_goes_on_later_in_the_same_run(place: Place, how: BaseException) -> None:
    with pytest.raises(type(how)):
        end_by(place, how)
    assert statuses(place) == [("distill-small", "KILLED"), (PARENT, "KILLED")]
    assert place.asked == ["start", "end 5"]
    with place.recorder() as recorder:
        begin(recorder, "distill-small")
    assert len(place.folders) == 1


def test_what_a_killed_process_left_open_is_closed_by_the_next(place: Place) -> None:
    killed = place.recorder()
    begin(killed, "distill-small")
    assert killed._session is not None
    killed._session.outbox.close(whole=False)  # as the kernel does
    with place.recorder() as recorder:
        begin(recorder, "distill-tiny")
    kinds = [(type(each).__name__, each.of) for each in place.events(Opened, Closed)]
    assert kinds == [
        ("Opened", PARENT),
        ("Opened", "distill-small"),
        ("Closed", "distill-small"),
        ("Opened", PARENT),
        ("Opened", "distill-tiny"),
        ("Closed", "distill-tiny"),
        ("Closed", PARENT),
    ]


def test_what_is_left_is_said_in_one_line_each(place: Place) -> None:
    with place.recorder(state=State(why="the server is away", refused=2)) as recorder:
        begin(recorder, "distill-small")
    (folder,) = place.folders
    assert place.said.lines == [
        f"tracking: 7 events wait in {folder} (the server is away); the next run or `retort sync` sends them",
        f"tracking: the server refused 2 events of this run; they are kept in {folder}/refused.jsonl",
    ]


def test_a_sender_that_takes_its_time_is_said_so(place: Place) -> None:
    with place.recorder() as recorder:
        begin(recorder, "distill-small")
    (line,) = place.said.lines
    assert "(the process that sends them is still at it)" in line


def test_a_sender_that_broke_is_said_so_and_where_its_log_is(place: Place) -> None:
    with place.recorder(code=1) as recorder:
        begin(recorder, "distill-small")
    (line,) = place.said.lines
    assert f"(it ended with 1; its log is {place.folders[0]}/sender.log)" in line


# -- trouble -----------------------------------------------------------------------------------------------------------


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def cannot_be_written(place: Place) -> str:
    return (
        f"tracking: {place.folders[0]} cannot be written (No space left on device); the run goes on, and until that "
        "works the numbers and files of its steps are lost to its tracking server"
    )


def test_where_the_disk_is_full_at_the_end_the_run_ends_as_it_did_and_the_next_one_tells_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = place.recorder(labels=("distill-small",))
    begin(recorder, "distill-small")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.outbox.Outbox.put", full)
        end(recorder, place, "distill-small", finished_at=LATER)
        recorder.__exit__(None, None, None)
    assert place.asked == ["start", "end 15"]
    assert place.said.lines[0] == cannot_be_written(place)
    assert place.said.lines[-1] == (
        "tracking: the end of this run could not be written; `retort run` of the same config tells it"
    )
    assert statuses(place) == []
    with place.recorder(labels=("distill-small",)) as again:
        again.done(*done(place, "distill-small"))
    assert statuses(place) == [("distill-small", "FINISHED"), (PARENT, "FINISHED")]
    assert len(place.folders) == 1
    assert not any((place.root / "outbox").glob("*.open"))


def test_while_the_disk_is_full_training_goes_on_and_only_its_numbers_are_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.recorder() as recorder:
        begin(recorder, "distill-small")
        recorder.metrics("student", step=10, values={"loss": 0.5})
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.outbox.Outbox.put", full)
            recorder.metrics("student", step=20, values={"loss": 0.4})
            end(recorder, place, "distill-small")
            begin(recorder, "distill-tiny")
            recorder.metrics("student", step=10, values={"loss": 0.3})
        recorder.metrics("student", step=20, values={"loss": 0.2})
    kinds = [(type(each).__name__, each.of) for each in place.events(Opened, Closed, Metrics)]
    assert kinds == [
        ("Opened", PARENT),
        ("Opened", "distill-small"),
        ("Metrics", "distill-small"),
        ("Closed", "distill-small"),
        ("Opened", "distill-tiny"),
        ("Metrics", "distill-tiny"),
        ("Closed", "distill-tiny"),
        ("Closed", PARENT),
    ]
    assert place.said.lines[0] == cannot_be_written(place)
    assert place.said.lines[-1] == (
        "tracking: 2 events of this run were lost, as they could not be written (No space left on device)"
    )
    assert len(place.said.lines) == 3  # and what waits


def test_a_run_whose_outbox_cannot_be_made_goes_on_untold_and_is_told_once_it_can(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.recorder() as recorder:
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.recording.open_outbox", full)
            begin(recorder, "distill-small")
            recorder.metrics("student", step=10, values={"loss": 0.5})
            end(recorder, place, "distill-small")
            begin(recorder, "distill-tiny")
            assert recorder.outbox is None
        begin(recorder, "benchmark")
        recorder.sealed(step("distill-tiny"), place.artifact("distill-tiny"), {"text": "t1"})
    assert place.said.lines[:1] == [
        "tracking: this run is not told to its tracking server ([Errno 28] No space left on device); it goes on"
    ]
    assert [each.of for each in place.events(Opened)] == [PARENT, "benchmark", "distill-tiny"]
    assert place.events(Opened)[0].tags["retort.lineage.distill-small"]


def test_a_run_whose_sender_cannot_be_started_goes_on_and_its_events_are_kept(place: Place) -> None:
    def refuse(folder: Path) -> SenderProcess:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    asked = Asked(place.root, "demo", CONFIG, "models", None, "here", LABELS)
    with Recorder(place.said, asked, start=refuse) as recorder:
        begin(recorder, "benchmark")
        with measured(recorder):
            recorder.metrics("student", step=10, values={"loss": 0.5})
    (folder,) = place.folders
    assert place.said.lines == [
        "tracking: the process that sends this run cannot be started (Cannot allocate memory); its events are kept in "
        f"{folder}, and the next run or `retort sync` sends them"
    ]
    assert len(place.events(Metrics)) == 1
    assert statuses(place)[-1] == (PARENT, "FINISHED")


@pytest.mark.parametrize(
    "error", [BadArtifact("the receipt is of another version"), ValueError("no axis"), OSError(5, "I/O")]
)
def test_a_page_that_cannot_be_made_is_said_so_and_the_run_has_ended_well(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("pipeline.recorded_run.write_told", refuse)
    with place.recorder(labels=("benchmark",)) as recorder:
        begin(recorder, "benchmark")
        end(recorder, place, "benchmark")
    assert statuses(place) == [("benchmark", "FINISHED"), (PARENT, "FINISHED")]
    assert (
        f"tracking: the page about benchmark cannot be made ({error}); the run is told without it" in place.said.lines
    )
    assert not any((place.root / "outbox").glob("*.open"))
    assert {path.name for path in place.folders[0].iterdir() if path.is_dir()} == {"files"}


def write_page(name: str, session: Artifact, register: Artifact | None, folder: Path) -> tuple[Path, ...]:
    (folder / "report.html").write_text("a page")
    return (folder / "report.html",)


@pytest.mark.parametrize("fails", ["written", "taken", "told"])
def test_a_page_that_there_is_no_room_for_is_told_by_the_next_run(
    place: Place, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr("pipeline.recorded_run.write_told", write_page)
    recorder = place.recorder(labels=("benchmark",))
    begin(recorder, "benchmark")
    end(recorder, place, "benchmark", finished_at=LATER)
    with monkeypatch.context() as patch:
        if fails == "written":
            patch.setattr("pipeline.recorded_run.write_told", full)
        elif fails == "taken":
            patch.setattr("pipeline.outbox.Outbox.keep", full)
        else:
            put = Outbox.put
            patch.setattr(
                Outbox,
                "put",
                lambda to, event: full() if (type(event), event.of) == (Files, PARENT) else put(to, event),
            )
        recorder.__exit__(None, None, None)
    lacked = "the end" if fails == "told" else "a page"
    assert place.said.lines == [
        cannot_be_written(place),
        f"tracking: 10 events wait in {place.folders[0]} (the process that sends them is still at it); the next run or "
        "`retort sync` sends them",
        f"tracking: {lacked} of this run could not be written; `retort run` of the same config tells it",
    ]
    assert place.events(Files, of=PARENT) == []
    with place.recorder(labels=("benchmark",)) as again:
        again.done(*done(place, "benchmark"))
    (files,) = place.events(Files, of=PARENT)
    assert (place.folders[0] / files.folder / "report.html").read_text() == "a page"
    assert len(place.folders) == 1
    assert not any((place.root / "outbox").glob("*.open"))


# -- what a killed process could not say -------------------------------------------------------------------------------


def killed(recorder: Recorder) -> None:
    """Let go of the outbox, as the kernel does."""
    assert recorder._session is not None
    recorder._session.outbox.close(whole=False)


def done(place: Place, label: str, **made: Any) -> tuple[Step, Artifact, dict[str, str]]:
    """A step that was made and sealed since it began."""
    return step(label), place.artifact(label, **{"finished_at": LATER, **made}), {"text": "t1"}


def test_a_step_that_was_sealed_when_its_process_was_killed_is_told_by_the_next_which_has_nothing_to_do(
    place: Place,
) -> None:
    first = place.recorder(labels=("distill-small",))
    begin(first, "distill-small")
    killed(first)
    with place.recorder(labels=("distill-small",)) as again:
        again.done(*done(place, "distill-small"))
    kinds = [(type(each).__name__, each.of) for each in place.events()]
    assert kinds[4:] == [
        ("Files", "distill-small"),
        ("Tags", "distill-small"),
        ("Closed", "distill-small"),
        ("Tags", PARENT),
        ("Tags", PARENT),
        ("Closed", PARENT),
    ]
    assert statuses(place) == [("distill-small", "FINISHED"), (PARENT, "FINISHED")]
    assert {each.at for each in place.events(Closed)} == {LATER_MS}  # and not when it was told
    assert place.asked == ["start", "start", "end 15"]
    assert not any((place.root / "outbox").glob("*.open"))
    with place.recorder(labels=("distill-small",)) as last:
        last.done(*done(place, "distill-small"))
    assert len(place.asked) == 3


def test_a_run_that_was_killed_at_its_very_end_is_finished_by_the_next_which_has_nothing_to_do(place: Place) -> None:
    first = place.recorder(labels=("distill-small",))
    begin(first, "distill-small")
    end(first, place, "distill-small")
    killed(first)
    last_at = place.events()[-1].at
    with place.recorder(labels=("distill-small",)) as again:
        again.done(*done(place, "distill-small"))
    assert statuses(place) == [("distill-small", "FINISHED"), (PARENT, "FINISHED")]
    assert place.events()[-1].at == last_at
    assert place.events(Tags, of=PARENT)[-1].values == {"retort.steps": "1 of 1"}
    assert not any((place.root / "outbox").glob("*.open"))


def test_a_run_of_which_all_was_told_before_it_was_killed_is_only_let_go_of(place: Place) -> None:
    with place.recorder(labels=("distill-small",)) as first:
        begin(first, "distill-small")
        end(first, place, "distill-small")
    (place.root / "outbox" / f"{first._asked.digest[:32]}.open").write_text(place.folders[0].name)
    before = place.events()
    with place.recorder(labels=("distill-small",)) as again:
        again.done(*done(place, "distill-small"))
    assert place.events() == before
    assert place.asked == ["start", "end 15"]
    assert not any((place.root / "outbox").glob("*.open"))


def test_a_stage_that_is_only_read_leaves_an_unfinished_run_as_it_is(place: Place) -> None:
    first = place.recorder()
    begin(first, "distill-small")
    end(first, place, "distill-small")
    begin(first, "distill-tiny")
    killed(first)
    before = place.events()
    with place.recorder() as again:
        again.done(*done(place, "distill-small"))
    assert place.events() == before
    assert place.asked == ["start"]
    assert any((place.root / "outbox").glob("*.open"))


def killed_at_both(place: Place) -> None:
    """A process that began with two steps and was killed."""
    first = place.recorder()
    for label in ("distill-small", "distill-tiny"):
        begin(first, label)
    killed(first)


def test_of_an_unfinished_run_what_was_sealed_is_told_and_it_stays_unfinished(place: Place) -> None:
    killed_at_both(place)
    with place.recorder() as again:
        again.done(*done(place, "distill-small"))
    assert statuses(place) == [("distill-tiny", "KILLED"), ("distill-small", "FINISHED"), (PARENT, "KILLED")]
    assert any((place.root / "outbox").glob("*.open"))


def test_a_process_that_goes_on_tells_what_the_killed_one_sealed(place: Place) -> None:
    killed_at_both(place)
    with place.recorder() as again:
        again.done(*done(place, "distill-small"))
        begin(again, "benchmark")
        again.done(*done(place, "distill-tiny"))
        end(again, place, "benchmark", skipped="no such target")
    assert [each for each in statuses(place) if each[0] != PARENT] == [
        ("distill-tiny", "KILLED"),  # as far as was known when it went on
        ("distill-small", "FINISHED"),
        ("distill-tiny", "FINISHED"),
        ("benchmark", "FINISHED"),
    ]


def test_what_was_made_before_a_step_began_is_not_what_came_of_it(place: Place) -> None:
    """A measurement that was killed, where the one before it is read."""
    first = place.recorder(labels=("benchmark",))
    begin(first, "benchmark")
    killed(first)
    with place.recorder(labels=("benchmark",)) as again:
        again.done(*done(place, "benchmark", finished_at="2020-01-01T00:00:00+00:00", skipped="no such target"))
    assert statuses(place) == [("benchmark", "KILLED"), (PARENT, "FINISHED")]


def test_a_run_that_fails_or_that_somebody_works_on_is_not_ended_by_one_with_nothing_to_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.outbox.LOCK_WAIT_S", 0.0)
    first = place.recorder(labels=("distill-small",))
    begin(first, "distill-small")
    with place.recorder(labels=("distill-small",)) as beside:
        beside.done(*done(place, "distill-small"))
    assert (statuses(place), len(place.folders)) == ([], 1)
    killed(first)
    with suppress(BadArtifact), place.recorder(labels=("distill-small",)):
        raise BadArtifact("an input is gone")
    assert statuses(place) == []


def test_a_run_that_goes_on_has_the_page_of_a_session_of_an_earlier_process(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, session: Artifact, register: Artifact | None, folder: Path) -> tuple[Path, ...]:
        (folder / "report.html").write_text(f"{session.manifest.label} {register and register.manifest.label}")
        return (folder / "report.html",)

    monkeypatch.setattr("pipeline.recorded_run.write_told", write)
    first = place.recorder()
    begin(first, "benchmark")
    end(first, place, "benchmark")
    killed(first)
    with place.recorder() as again:
        again.done(*done(place, "benchmark"))
        begin(again, "register")
        end(again, place, "register")
    (files,) = place.events(Files, of=PARENT)
    assert (place.folders[0] / files.folder / "report.html").read_text() == "benchmark register"
    kinds = [type(each).__name__ for each in place.events(Closed, Files, of=PARENT)]
    assert kinds == ["Closed", "Files"]


# -- two processes at one run ------------------------------------------------------------------------------------------


@pytest.fixture
def both(place: Place, monkeypatch: pytest.MonkeyPatch) -> tuple[Recorder, Recorder]:
    """Who began a run and who joined it, each at a step."""
    monkeypatch.setattr("pipeline.outbox.LOCK_WAIT_S", 0.0)
    owner, other = place.recorder(labels=LABELS[:2]), place.recorder(labels=LABELS[:2])
    begin(owner, "distill-small")
    begin(other, "distill-tiny")
    return owner, other


def test_who_joined_a_run_does_not_end_it_while_its_owner_is_at_work(
    place: Place, both: tuple[Recorder, Recorder]
) -> None:
    owner, other = both
    end(other, place, "distill-tiny")
    other.__exit__(None, None, None)
    assert statuses(place) == [("distill-tiny", "FINISHED")]
    end(owner, place, "distill-small")
    owner.done(*done(place, "distill-tiny"))
    owner.__exit__(None, None, None)
    assert [status for of, status in statuses(place) if of == PARENT] == ["FINISHED"]
    assert not any((place.root / "outbox").glob("*.open"))


def test_who_joined_a_run_ends_it_where_its_owner_has_ended_before_it_was_done(
    place: Place, both: tuple[Recorder, Recorder]
) -> None:
    owner, other = both
    error = BadArtifact("the text is empty")
    owner.__exit__(type(error), error, None)
    assert statuses(place) == [("distill-small", "FAILED"), (PARENT, "FAILED")]
    begin(other, "distill-small")
    for label in LABELS[:2]:
        end(other, place, label)
    other.__exit__(None, None, None)
    assert statuses(place)[-1] == (PARENT, "FINISHED")
    assert errors(place) == ["the text is empty", ""]
    assert not any((place.root / "outbox").glob("*.open"))


def test_a_step_that_goes_on_where_its_owner_was_killed_is_not_told_twice(
    place: Place, both: tuple[Recorder, Recorder]
) -> None:
    owner, other = both
    for number in (10, 20):
        owner.metrics("small", step=number, values={"loss": 1 / number})
    killed(owner)
    end(other, place, "distill-tiny")
    begin(other, "distill-small")
    for number in (20, 30):
        other.metrics("small", step=number, values={"loss": 1 / number})
    other.__exit__(None, None, None)
    assert [row.step for row in place.events(Metrics)] == [10, 20, 30]


def test_who_joined_a_run_and_is_interrupted_leaves_one_that_came_to_its_end(
    place: Place, both: tuple[Recorder, Recorder]
) -> None:
    owner, other = both
    end(owner, place, "distill-small")
    owner.done(*done(place, "distill-tiny"))
    owner.__exit__(None, None, None)
    other.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [status for of, status in statuses(place) if of == PARENT] == ["FINISHED"]


# -- beside the other reporter -----------------------------------------------------------------------------------------


def test_people_see_what_they_see_without_it(place: Place) -> None:
    with place.recorder() as recorder:
        recorder.line("a line")
        recorder.event("started", label="a")
        recorder.show("a table")
        with recorder.bar("a bar", total=1, unit="step") as bar:
            bar.advance()
    assert (place.said.lines, place.said.events) == (["a line"], ["started"])


def test_a_sender_that_cannot_be_asked_to_sleep_is_said_so_and_stops_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for asked in ("rest", "go"):
        monkeypatch.setattr(Sender, asked, full)
    with place.recorder(state=State(offset=10**9)) as recorder:
        begin(recorder, "benchmark")
        with measured(recorder):
            pass
    assert place.said.lines == [
        "tracking: the process that sends this run is still at work, and may disturb what is measured"
    ]


def test_the_sender_sleeps_while_times_are_measured(place: Place) -> None:
    with place.recorder() as recorder:
        with measured(recorder, label="benchmark"):
            assert place.asked == []  # there is none yet
        begin(recorder, "benchmark")
        with suppress(BadArtifact), measured(recorder, label="benchmark"):
            assert place.asked == ["start", "rest"]
            raise BadArtifact("it fell over")
        assert place.asked == ["start", "rest", "go"]
    assert place.said.events == ["measure_start", "measure_end"] * 2


def test_a_sender_that_does_not_sleep_in_time_is_said_so(place: Place) -> None:
    with place.recorder(rests=False, state=State(offset=10**9)) as recorder:
        begin(recorder, "benchmark")
        with measured(recorder):
            pass
    assert place.said.lines == [
        "tracking: the process that sends this run is still at work, and may disturb what is measured"
    ]


# -- data --------------------------------------------------------------------------------------------------------------


def test_the_data_a_step_read_is_told_with_its_digest_and_the_sizes_of_its_splits(place: Place) -> None:
    task = TaskSplits(Classification(data=HubSource(id="stanfordnlp/sst2")), ("train", "dev"))
    read = {"task": task, "text": DocstringsCorpus()}
    digests = {"task": "d" * 64, "text": "e" * 64}
    with place.recorder() as recorder:
        recorder.started(step("finetune-student", **read), "key", digests)
        artifact = place.artifact("finetune-student", train_texts=7, dev_texts=2)
        recorder.sealed(step("finetune-student", **read), artifact, digests)
    ((of, data), (parent, again)) = [(each.of, each.data) for each in place.events(Read)]
    assert (of, parent, data) == ("finetune-student", PARENT, again)
    assert [(each.name, each.digest, each.kind, each.splits) for each in data] == [
        ("stanfordnlp/sst2", "d" * 64, "hub", {"train": 7, "dev": 2}),
        ("docstrings (text)", "e" * 64, "docstrings", {}),
    ]
    assert data[0].source["id"] == "stanfordnlp/sst2"


# -- cost --------------------------------------------------------------------------------------------------------------

LOADS = """
import sys
from pathlib import Path
from pipeline import runner, recording
from pipeline.progress import Silent
asked = recording.Asked(Path(sys.argv[1]), "a", {}, "b", "http://127.0.0.1:9", "here", ())
recorder = recording.Recorder(Silent(), asked)
recorder._open()
recorder.metrics("model", step=1, values={"loss": 0.5})
recorder.__exit__(SystemExit, None, None)
print(" ".join({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_process_that_trains_never_loads_mlflow(tmp_path: Path) -> None:
    told = subprocess.run([sys.executable, "-c", LOADS, str(tmp_path)], capture_output=True, text=True, check=True)
    loaded = set(told.stdout.split())
    assert "msgspec" in loaded
    assert loaded & {"mlflow", "psutil", "requests", "httpx", "sqlalchemy"} == set()
