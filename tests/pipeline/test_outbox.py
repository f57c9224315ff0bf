"""An outbox loses nothing: not at a kill, not where two processes meet, not where a file is made anew."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline import outbox as module
from pipeline.errors import BadArtifact
from pipeline.events import PARENT, Tags, event_of
from pipeline.outbox import Outbox, append_line, open_outbox, reopen_outbox, while_nobody_opens
from pipeline.outbox_reading import (
    EVENTS,
    TARGET,
    goes_on,
    lines_after,
    outboxes,
    outboxes_of,
    read_target,
    unreadable,
    writer_is_alive,
)

ASKED = "a" * 64


def opened(root: Path, *, asked: str = ASKED, **changes: Any) -> Outbox:
    return open_outbox(root, **{"name": "demo", "experiment": "models", "uri": None, "asked": asked, **changes})


def tag(value: str) -> Tags:
    return Tags(of=PARENT, values={"what": value})


def told(folder: Path, offset: int = 0) -> list[str | None]:
    """What the tags in an outbox say; None for a line that is no event."""
    events = [event_of(line) for line, _ in lines_after(folder, offset)]
    return [event.values["what"] if isinstance(event, Tags) else None for event in events]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    found = opened(tmp_path)
    yield found
    with suppress(OSError):  # closed by the test
        found.close(whole=False)


def test_what_is_put_is_there_in_order(outbox: Outbox) -> None:
    for value in "abc":
        outbox.put(tag(value))
    assert told(outbox.folder) == ["a", "b", "c"]


def test_reading_goes_on_where_it_ended(outbox: Outbox) -> None:
    outbox.put(tag("a"))
    (_, end), *_ = lines_after(outbox.folder)
    outbox.put(tag("b"))
    assert told(outbox.folder, end) == ["b"]


def test_a_line_that_is_being_written_is_not_there_yet(outbox: Outbox) -> None:
    outbox.put(tag("a"))
    with (outbox.folder / EVENTS).open("ab") as file:
        file.write(b'{"event":"tags"')
    assert told(outbox.folder) == ["a"]


def test_what_a_kill_left_of_a_line_spoils_no_other(outbox: Outbox, tmp_path: Path) -> None:
    outbox.put(tag("a"))
    with (outbox.folder / EVENTS).open("ab") as file:
        file.write(b'{"event":"tags"')
    outbox.close(whole=False)
    again = opened(tmp_path)
    again.put(tag("b"))
    again.close(whole=False)
    assert told(outbox.folder) == ["a", None, "b"]


def test_what_another_writer_left_of_a_line_spoils_none_that_is_put_later(outbox: Outbox) -> None:
    """The sender adds figures of its own, and may be killed while it does."""
    outbox.put(tag("a"))
    with (outbox.folder / EVENTS).open("ab") as sender:
        sender.write(b'{"event":"metr')
    outbox.put(tag("b"))
    assert told(outbox.folder) == ["a", None, "b"]


def test_who_mends_what_was_no_torn_line_leaves_no_event(outbox: Outbox) -> None:
    outbox.put(tag("a"))
    descriptor = os.open(outbox.folder / EVENTS, os.O_RDWR | os.O_APPEND)
    append_line(descriptor, b"\n")
    os.close(descriptor)
    outbox.put(tag("b"))
    assert told(outbox.folder) == ["a", "b"]


def test_a_full_disk_is_said_so_and_spoils_no_other_line(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        write = os.write
        patch.setattr(module.os, "write", lambda descriptor, line: write(descriptor, line[:10]))
        with pytest.raises(OSError) as full:  # noqa: PT011 (its number is compared)
            outbox.put(tag("a"))
    outbox.put(tag("b"))
    assert full.value.errno == errno.ENOSPC
    assert told(outbox.folder) == [None, "b"]


def test_an_unfinished_run_goes_on_in_its_outbox(outbox: Outbox, tmp_path: Path) -> None:
    outbox.close(whole=False)
    again = opened(tmp_path)
    assert again.folder == outbox.folder
    assert goes_on(again.folder, ASKED)
    again.close(whole=True)
    assert not goes_on(again.folder, ASKED)


def test_a_finished_run_gives_the_next_one_another(outbox: Outbox, tmp_path: Path) -> None:
    outbox.close(whole=True)
    again = opened(tmp_path)
    assert again.folder != outbox.folder
    assert outboxes(tmp_path) == [outbox.folder, again.folder]
    again.close(whole=True)


def test_other_settings_are_another_run(outbox: Outbox, tmp_path: Path) -> None:
    outbox.close(whole=False)
    other = opened(tmp_path, asked="b" * 64)
    assert read_target(other.folder).run != read_target(outbox.folder).run
    other.close(whole=True)


def test_a_second_process_at_the_same_run_joins_it_with_an_outbox_of_its_own(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.0)
    other = opened(tmp_path)
    target = read_target(other.folder)
    assert other.folder.name.startswith(f"{outbox.folder.name}.")
    assert (target.run, target.joins) == (outbox.folder.name, True)
    assert not read_target(outbox.folder).joins
    other.close(whole=False)


@pytest.fixture
def joined(outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """An outbox that joined the run of another."""
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.0)
    return opened(tmp_path)


def test_who_joined_a_run_leaves_its_end_to_the_process_that_has_it(outbox: Outbox, joined: Outbox) -> None:
    assert (outbox.ends_the_run(), joined.ends_the_run()) == (True, False)
    joined.close(whole=True)
    assert goes_on(outbox.folder, ASKED)
    outbox.close(whole=True)
    assert not goes_on(outbox.folder, ASKED)


def test_who_joined_a_run_ends_it_where_the_process_that_had_it_ended_before(outbox: Outbox, joined: Outbox) -> None:
    outbox.close(whole=False)
    assert joined.ends_the_run()
    joined.close(whole=True)
    assert not goes_on(outbox.folder, ASKED)


def test_of_those_who_joined_a_run_whose_owner_ended_the_last_one_ends_it(
    outbox: Outbox, joined: Outbox, tmp_path: Path
) -> None:
    third = opened(tmp_path)
    outbox.close(whole=False)
    assert (joined.ends_the_run(), third.ends_the_run()) == (False, False)
    joined.close(whole=True)
    assert goes_on(outbox.folder, ASKED)
    assert third.ends_the_run()
    third.close(whole=True)
    assert not goes_on(outbox.folder, ASKED)


def test_who_joined_a_run_that_came_to_its_end_leaves_that_and_the_next_run_alone(
    outbox: Outbox, joined: Outbox, tmp_path: Path
) -> None:
    outbox.close(whole=True)
    following = opened(tmp_path)
    assert not joined.ends_the_run()
    joined.close(whole=True)
    assert goes_on(following.folder, ASKED)
    following.close(whole=True)


def test_where_a_run_is_told_is_its_own_outbox_and_those_that_joined_it(
    outbox: Outbox, joined: Outbox, tmp_path: Path
) -> None:
    other = opened(tmp_path, asked="b" * 64)
    assert {*outboxes_of(tmp_path / "outbox", outbox.target.run)} == {outbox.folder, joined.folder}
    assert outboxes_of(tmp_path / "outbox", other.target.run) == [other.folder]
    for each in (joined, other):
        each.close(whole=True)


def test_only_an_unfinished_run_that_nobody_works_on_is_opened_again(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.0)
    assert reopen_outbox(tmp_path, asked=ASKED) is None  # somebody does
    outbox.close(whole=False)
    assert reopen_outbox(tmp_path, asked="b" * 64) is None
    again = reopen_outbox(tmp_path, asked=ASKED)
    assert again is not None
    assert again.folder == outbox.folder
    again.close(whole=True)
    assert reopen_outbox(tmp_path, asked=ASKED) is None
    assert len(outboxes(tmp_path)) == 1


def test_an_outbox_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        with pytest.raises(OSError, match="No space left on device"):
            opened(tmp_path)
    assert [path.name for path in (tmp_path / "outbox").iterdir() if path.is_dir()] == []
    opened(tmp_path).close(whole=True)


def test_the_target_names_the_server_and_what_it_is_about(tmp_path: Path) -> None:
    found = opened(tmp_path, uri="http://mlflow:5000")
    written = json.loads((found.folder / "target.json").read_text())
    assert (written["name"], written["experiment"], written["uri"]) == ("demo", "models", "http://mlflow:5000")
    assert written["run"] == found.folder.name
    found.close(whole=True)


def test_a_target_that_cannot_be_read_is_named(outbox: Outbox) -> None:
    (outbox.folder / "target.json").write_text("{")
    with pytest.raises(BadArtifact) as refused:
        read_target(outbox.folder)
    assert str(refused.value) == (
        f"the outbox {outbox.folder} cannot be read (Input data was truncated); remove it: its run is not told"
    )


NEWER = b'{"run":"demo-2","schema":2,"written_with":"more"}'


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "the outbox {} cannot be read (Input data was truncated); remove it: its run is not told"),
        (NEWER, "the outbox {} was written by a newer Retort (schema 2); send it with that one"),
    ],
)
def test_an_outbox_that_cannot_be_read_is_passed_over_and_named(
    outbox: Outbox, tmp_path: Path, content: bytes, why: str
) -> None:
    outbox.close(whole=False)
    (outbox.folder / TARGET).write_bytes(content)
    again = opened(tmp_path)  # the run does not go on there
    assert outboxes(tmp_path) == [again.folder]
    assert unreadable(tmp_path) == {str(outbox.folder): why.format(outbox.folder)}
    assert goes_on(again.folder, ASKED)
    again.close(whole=True)


def test_an_outbox_that_goes_while_all_are_looked_at_is_none(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = outbox.folder / "gone" / TARGET
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone, outbox.folder / TARGET]))
    assert outboxes(tmp_path) == [outbox.folder]
    assert unreadable(tmp_path) == {}


def test_what_is_to_be_in_a_file_is_kept_as_one(outbox: Outbox) -> None:
    folder = outbox.keep({"evidence/report.json": b"{}"})
    assert (outbox.folder / folder / "evidence" / "report.json").read_bytes() == b"{}"


def test_kept_files_stay_as_they_were_when_the_artifact_gives_way(outbox: Outbox, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "receipt.json").write_text("old")
    folder = outbox.keep({"evidence/receipt.json": artifact / "receipt.json"})
    artifact.rename(tmp_path / "gone")
    artifact.mkdir()
    (artifact / "receipt.json").write_text("new")
    assert (outbox.folder / folder / "evidence" / "receipt.json").read_text() == "old"
    assert (outbox.folder / folder / "evidence" / "receipt.json").stat().st_nlink == 2


def test_where_no_link_can_be_made_files_are_copied(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    (tmp_path / "curve.png").write_bytes(b"a picture")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder = outbox.keep({"curve.png": tmp_path / "curve.png"})
    assert (outbox.folder / folder / "curve.png").read_bytes() == b"a picture"


def test_while_nobody_opens_one_who_would_waits(outbox: Outbox, tmp_path: Path) -> None:
    began: list[Outbox] = []
    other = threading.Thread(target=lambda: began.append(opened(tmp_path, asked="b" * 64)))
    with while_nobody_opens(tmp_path / "outbox"):
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert outboxes(tmp_path) == [outbox.folder]
    other.join(10)
    assert outboxes(tmp_path) == [outbox.folder, began[0].folder]
    began[0].close(whole=True)


# -- other processes ---------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from pipeline.events import Tags
from pipeline.outbox import open_outbox
found = open_outbox(Path(sys.argv[1]), name="demo", experiment="models", uri=None, asked="a" * 64)
found.put(Tags(of="", values={"what": "alive"}))
print(found.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Starts a process that has an outbox open until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], text=True, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_who_writes_is_known_until_it_is_killed_and_what_it_said_is_kept(
    writer: Callable[[], "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    process = writer()
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert writer_is_alive(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not writer_is_alive(folder)
    again = opened(tmp_path)
    assert again.folder == folder
    assert told(folder) == ["alive"]
    again.close(whole=True)


def test_an_outbox_that_was_closed_has_no_writer(outbox: Outbox) -> None:
    assert writer_is_alive(outbox.folder)
    outbox.close(whole=False)
    assert not writer_is_alive(outbox.folder)


def test_a_workspace_without_runs_has_no_outboxes(tmp_path: Path) -> None:
    assert outboxes(tmp_path) == []
    assert not writer_is_alive(tmp_path / "nothing")
    assert list(lines_after(tmp_path / "nothing")) == []
