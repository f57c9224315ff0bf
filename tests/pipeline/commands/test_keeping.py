"""`retort runs` and `retort sync` from the command line: what is printed, and how they end. What they find and send is
tested in tests/pipeline/tracking."""

import re
from pathlib import Path
from typing import Any

import pytest
from commands import Retort, runner
from tracked import ending, opening, outbox_in, put, rows

from pipeline.events import PARENT, Tags
from pipeline.outbox import Outbox
from pipeline.tracking import syncing
from pipeline.tracking.sending import Sent
from pipeline.tracking.sent import State, waiting, write_state

AWAY = "http://127.0.0.1:9"  # discard: nobody answers


@pytest.fixture
def retort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retort:
    """Runs the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return runner(monkeypatch, capsys)


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    """A run that is over, and whose server is away."""
    found = outbox_in(tmp_path / ".retort", uri=AWAY)
    put(found, *opening(), *rows(1, 3), Tags(of=PARENT, values={"retort.model": "m", "retort.version": "3"}))
    put(found, *ending(found, tmp_path))
    found.close(whole=True)
    return found


def accept(monkeypatch: pytest.MonkeyPatch, *, refused: int = 0) -> None:
    """A server that takes everything but what it refuses."""

    def send(folder: Path) -> Sent:
        sent = waiting(folder)
        write_state(folder, State(offset=(folder / "events.jsonl").stat().st_size, refused=refused))
        return Sent("r1", events=sent, refused=refused)

    monkeypatch.setattr(syncing, "send", send)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_runs_are_a_table_for_people_and_a_line_for_machines(retort: Retort, outbox: Outbox) -> None:
    told = retort("runs")
    assert told.code == 0, told.err
    (found,) = told.json["runs"]
    expected = {"name": "demo", "status": "FINISHED", "verdict": "PASS", "version": "3", "waiting": 15, "uri": AWAY}
    assert found.items() >= expected.items()
    shown = " ".join(told.out.split())
    assert "demo" in shown
    assert "m/3" in shown
    assert re.search(r"not asked: the registry http://127.0.0.1:9 .*cannot be reached", shown)


def test_an_outbox_that_cannot_be_read_was_not_read_and_a_server_that_is_away_not_asked(
    retort: Retort, outbox: Outbox, tmp_path: Path
) -> None:
    bad = outbox_in(tmp_path / ".retort", asked="b" * 64)
    bad.close(whole=True)
    (bad.folder / "target.json").write_text('{"schema": 2}')
    asked, read = retort("runs").out.splitlines()[-3:-1]
    assert asked.startswith("not asked:  the registry http://127.0.0.1:9 ")
    assert read == (
        f"not read:   the outbox {bad.folder} was written by a newer Retort (schema 2); send it with that one"
    )


def test_json_is_all_that_is_printed_when_it_is_asked_for(retort: Retort, outbox: Outbox) -> None:
    for command in ("runs", "sync"):
        assert len(retort(command, "--json").out.splitlines()) == 1


def test_no_password_of_a_server_is_printed(retort: Retort, outbox: Outbox) -> None:
    for options in ((), ("--json",)):
        told = retort("runs", "--tracking-uri", "http://ann:s3cr3t@127.0.0.1:9/mlflow", *options)
        assert list(told.json["away"]) == [AWAY, f"{AWAY}/mlflow"]
        assert "s3cr3t" not in told.out + told.err


def test_only_runs_of_a_name_are_told_where_one_is_given(retort: Retort, outbox: Outbox) -> None:
    assert [run["name"] for run in retort("runs", "demo", "--json").json["runs"]] == ["demo"]
    assert retort("runs", "other", "--json").json["runs"] == []


def test_a_workspace_without_runs_has_none_and_is_not_made(retort: Retort, tmp_path: Path) -> None:
    assert retort("runs").json == {"runs": [], "away": {}, "unreadable": {}}
    assert list(tmp_path.iterdir()) == []


# -- sync --------------------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_ends_it_with_75_and_how_much_waits(retort: Retort, outbox: Outbox) -> None:
    told = retort("sync")
    assert told.code == 75
    assert (told.json["sent"], told.json["waiting"]) == (0, 15)
    assert told.err.startswith("retort: 15 events of 1 run wait: the registry http://127.0.0.1:9 ")
    assert "cannot be reached" in told.err
    assert told.err.endswith("`retort sync` sends them later\n")
    assert told.out.startswith(f"{outbox.folder.name}: 0 events sent, 15 wait (the registry http://127.0.0.1:9")


def test_what_waits_is_sent_and_counted(retort: Retort, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(monkeypatch)
    told = retort("sync")
    assert told.code == 0, told.err
    sums: dict[str, Any] = {name: told.json[name] for name in ("sent", "waiting", "refused")}
    assert sums == {"sent": 15, "waiting": 0, "refused": 0}
    assert told.out.splitlines()[0] == f"{outbox.folder.name}: 15 events sent, 0 wait"
    assert retort("sync").json == {"sent": 0, "waiting": 0, "refused": 0, "runs": []}


def test_what_was_refused_is_named(retort: Retort, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(monkeypatch, refused=2)
    told = retort("sync")
    assert told.code == 0
    assert told.out.splitlines()[1] == f"{outbox.folder.name}: 2 were refused; see {outbox.folder}/refused.jsonl"


def test_a_workspace_where_nothing_waits_is_left_as_it_is(retort: Retort, tmp_path: Path) -> None:
    assert retort("sync").code == 0
    assert list(tmp_path.iterdir()) == []
