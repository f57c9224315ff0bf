"""The runs of a workspace: those that wait here and those that MLflow knows are told as one."""

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tracked import EXPERIMENT, ending, opening, outbox_in, put, rows

from pipeline.errors import BadArtifact, BadRequest, Failure, Transient
from pipeline.events import PARENT, Closed, Opened, Tags
from pipeline.outbox import Outbox
from pipeline.outbox_reading import TARGET
from pipeline.tracking import runs, sending
from pipeline.tracking.client import talking_to
from pipeline.tracking.runs import Seen, parent_run_id, runs_of
from pipeline.tracking.sending import send
from pipeline.tracking.sent import alone
from pipeline.tracking.syncing import require_sent, sync_all

AWAY = "http://127.0.0.1:9"  # discard: nobody answers


@pytest.fixture
def place(tmp_path: Path, root: Path, uri: str) -> Path:
    """A workspace whose registry has its tables."""
    with talking_to(uri):
        shutil.copyfile(root / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def outbox(place: Path) -> Iterator[Outbox]:
    """A run at work."""
    found = outbox_in(place)
    put(found, *opening(), *rows(1, 3))
    yield found
    found.close(whole=True)


def ended(place: Path, **changes: Any) -> Outbox:
    """A run that is over, of which nothing was sent."""
    found = outbox_in(place, **changes)
    put(found, *opening(), *rows(1, 3), Tags(of=PARENT, values={"retort.model": "m", "retort.version": "3"}))
    put(found, *ending(found, place))
    found.close(whole=True)
    return found


def at(outbox: Outbox) -> int:
    """When the last event but metrics happened."""
    return outbox.target.made_at + 1000


def only(place: Path, **asked: Any) -> Seen:
    (found,) = runs_of(place, **asked).found
    return found


def test_the_run_of_an_outbox_is_made_when_it_is_asked_for(outbox: Outbox, place: Path) -> None:
    run_id = parent_run_id(outbox.folder)
    assert parent_run_id(outbox.folder) == run_id
    with talking_to(f"sqlite:///{place}/mlflow.db") as client:
        assert client.get_run(run_id).data.tags["retort.run"] == outbox.folder.name


def test_a_run_that_its_sender_is_still_telling_of_is_known_at_once(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = parent_run_id(outbox.folder)
    put(outbox, *rows(4, 5))
    monkeypatch.setattr(runs, "SENDER_WAIT_S", 0.1)
    with alone(outbox.folder):
        assert parent_run_id(outbox.folder) == run_id


def test_a_run_that_its_sender_has_not_made_yet_is_not_known(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SENDER_WAIT_S", 0.1)
    with alone(outbox.folder), pytest.raises(Transient, match="another process is sending"):
        parent_run_id(outbox.folder)


def test_an_outbox_that_opens_no_run_is_refused(tmp_path: Path) -> None:
    empty = outbox_in(tmp_path)
    with pytest.raises(BadArtifact) as refused:
        parent_run_id(empty.folder)
    assert str(refused.value) == f"the outbox {empty.folder} opens no run; remove it and run again"
    empty.close(whole=True)


def test_a_run_that_nobody_was_told_of_yet_is_seen_here(place: Path) -> None:
    outbox = ended(place)
    found = only(place)
    assert (found.run, found.name, found.status) == (outbox.folder.name, "demo", "FINISHED")
    assert (found.verdict, found.model, found.version) == ("PASS", "m", "3")
    assert (found.run_id, found.waiting) == (None, 15)


def test_a_run_that_was_sent_is_seen_at_its_server_with_the_same_facts(place: Path) -> None:
    outbox = ended(place)
    before = only(place)
    run_id = send(outbox.folder).run_id
    after = only(place)
    assert after == msgspec.structs.replace(before, run_id=run_id, waiting=0, at=after.at, seconds=after.seconds)
    assert abs(after.at - before.at) < 1000
    shutil.rmtree(outbox.folder)  # as gc does
    assert only(place) == after


def test_a_run_at_work_has_no_end_and_one_whose_process_was_killed_is_said_so(place: Path) -> None:
    outbox = outbox_in(place)
    put(outbox, *opening())
    found = only(place)
    assert (found.status, found.seconds) == ("RUNNING", None)
    outbox.close(whole=False)
    assert only(place).status == "KILLED"


def test_the_newest_is_first_and_a_name_chooses(place: Path) -> None:
    first = ended(place)
    second = ended(place)
    assert [seen.run for seen in runs_of(place).found] == [second.folder.name, first.folder.name]
    assert len(runs_of(place, name="demo").found) == 2
    assert runs_of(place, name="other").found == ()


def test_a_server_that_is_away_is_named_and_the_rest_is_told(place: Path) -> None:
    ended(place, uri=AWAY)
    found = runs_of(place)
    assert [seen.uri for seen in found.found] == [AWAY]
    assert list(found.away) == [AWAY]
    assert "cannot be reached" in found.away[AWAY]


def test_no_password_of_an_address_is_told(place: Path) -> None:
    ended(place)
    ended(place, uri="http://ann:s3cr3t@127.0.0.1:9")
    found = runs_of(place, uris=["http://bob:s3cr3t@127.0.0.1:9/mlflow"])
    assert {seen.uri for seen in found.found} == {AWAY, f"sqlite:///{place}/mlflow.db"}
    assert list(found.away) == [AWAY, f"{AWAY}/mlflow"]
    assert b"s3cr3t" not in msgspec.json.encode(found)


def test_runs_of_another_server_are_told_when_it_is_named(place: Path, tmp_path: Path) -> None:
    send(ended(place).folder)
    other = tmp_path / "other"
    other.mkdir()
    assert runs_of(other).found == ()
    assert not (other / "mlflow.db").exists()
    assert only(other, uris=[f"sqlite:///{place}/mlflow.db"]).name == "demo"


def test_runs_that_mlflow_has_of_others_are_none_of_ours(place: Path) -> None:
    with talking_to(f"sqlite:///{place}/mlflow.db") as client:
        client.create_run(client.create_experiment(EXPERIMENT), run_name="theirs")
    assert runs_of(place).found == ()


def test_a_record_whose_run_nobody_was_told_of_is_told(place: Path) -> None:
    (place / "runs" / "old").mkdir(parents=True)
    (place / "runs" / "old" / "run.json").write_text("{}")
    found = only(place)
    assert (found.name, found.status, found.uri) == ("old", "UNTOLD", str(place / "runs" / "old"))


def test_what_waits_in_an_outbox_that_joined_a_run_is_the_run_s(
    outbox: Outbox, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.outbox.LOCK_WAIT_S", 0.0)
    other = outbox_in(place)
    put(other, opening()[0])
    assert only(place).waiting == 7 + 1
    other.close(whole=False)


@pytest.fixture
def joined(place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Outbox, Outbox]:
    """A run, and an outbox of a process that joined it."""
    monkeypatch.setattr("pipeline.outbox.LOCK_WAIT_S", 0.0)
    owner = outbox_in(place)
    put(owner, *opening(), Closed(of="distill", status="FINISHED"))
    return owner, outbox_in(place)


@pytest.mark.parametrize("sent", [False, True], ids=["waiting", "sent"])
def test_a_run_that_a_process_joined_runs_until_the_last_of_them_has_ended(
    place: Path, joined: tuple[Outbox, Outbox], sent: bool
) -> None:
    owner, other = joined
    put(other, Opened(of=PARENT, name="demo", tags={}), Closed(of=PARENT, status="FAILED", at=at(owner) + 5))
    put(owner, Closed(of=PARENT, status="FINISHED", at=at(owner) + 3))
    owner.close(whole=False)
    for each in (owner, other) if sent else ():
        send(each.folder)
    assert (only(place).status, only(place).seconds) == ("RUNNING", None)
    other.close(whole=False)
    assert only(place).status == "FAILED"
    assert (only(place).waiting == 0) == sent


def test_a_run_whose_own_outbox_is_gone_is_told_of_by_one_that_joined_it(
    place: Path, joined: tuple[Outbox, Outbox]
) -> None:
    owner, other = joined
    owner.close(whole=False)
    shutil.rmtree(owner.folder)
    put(other, Opened(of=PARENT, name="demo", tags={}))
    assert (only(place).run, only(place).status, only(place).waiting) == (owner.target.run, "RUNNING", 1)
    other.close(whole=False)


def test_to_list_runs_makes_no_registry(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    put(outbox, *opening())
    outbox.close(whole=False)
    named = f"sqlite:///{tmp_path}/named.db"
    found = runs_of(tmp_path, uris=(named,))
    assert ([seen.status for seen in found.found], found.away) == (
        ["KILLED"],
        {named: f"there is no registry at {named} yet"},
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outbox"]


def test_an_outbox_that_cannot_be_read_is_named_and_hides_no_other(place: Path) -> None:
    bad, good = ended(place), ended(place)
    (bad.folder / TARGET).write_text('{"schema": 2}')
    found = runs_of(place)
    assert [seen.run for seen in found.found] == [good.folder.name]
    assert found.unreadable == {
        str(bad.folder): f"the outbox {bad.folder} was written by a newer Retort (schema 2); send it with that one"
    }


def test_an_outbox_that_cannot_be_read_keeps_no_other_from_being_sent(place: Path) -> None:
    bad, good = ended(place), ended(place)
    (bad.folder / TARGET).write_text('{"schema": 2}')
    sent, unread = sync_all(place)
    why = f"the outbox {bad.folder} was written by a newer Retort (schema 2); send it with that one"
    assert (sent.run, sent.sent, sent.waiting, sent.why) == (good.folder.name, 15, 0, "")
    assert (unread.run, unread.sent, unread.waiting, unread.why) == (bad.folder.name, 0, 0, why)
    with pytest.raises(BadArtifact) as refused:
        require_sent([sent, unread])
    assert str(refused.value) == why


# -- sending all -------------------------------------------------------------------------------------------------------


def test_all_that_waits_is_sent_and_what_was_sent_is_left_alone(place: Path) -> None:
    first = ended(place)
    time.sleep(0.002)  # the oldest comes first
    second = ended(place)
    synced = sync_all(place)
    assert [(one.run, one.sent, one.waiting, one.why) for one in synced] == [
        (first.folder.name, 15, 0, ""),
        (second.folder.name, 15, 0, ""),
    ]
    require_sent(synced)
    assert sync_all(place) == []


def test_a_server_that_is_away_keeps_no_other_from_being_told(place: Path) -> None:
    away, here = ended(place, uri=AWAY), ended(place)
    synced = sync_all(place)
    assert {one.run: (one.sent, one.waiting) for one in synced} == {
        away.folder.name: (0, 15),
        here.folder.name: (15, 0),
    }
    with pytest.raises(Transient, match=r"^15 events of 1 run wait: .* cannot be reached .*; `retort sync` sends"):
        require_sent(synced)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Transient, "no space left for {}; make room there"),
        (
            OSError(errno.EROFS, "Read-only file system", "FILE"),
            BadRequest,
            "FILE cannot be written (Read-only file system)",
        ),
    ],
    ids=["full", "read-only"],
)
def test_an_outbox_that_cannot_be_written_is_said_so_and_keeps_no_other_from_being_sent(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[Failure], told: str
) -> None:
    bad, good = ended(place), ended(place)

    @contextmanager
    def unwritable(folder: Path, wait_s: float | None = None) -> Iterator[None]:
        if folder == bad.folder:
            raise error
        with alone(folder, wait_s):
            yield

    monkeypatch.setattr(sending, "alone", unwritable)
    synced = sync_all(place)
    assert {one.run: (one.sent, one.waiting) for one in synced} == {
        bad.folder.name: (0, 15),
        good.folder.name: (15, 0),
    }
    with pytest.raises(kind) as refused:
        require_sent(synced)
    assert str(refused.value).startswith(f"15 events of 1 run wait: {told.format(bad.folder)}")


def test_where_a_server_is_away_and_that_cannot_be_noted_it_is_said_that_the_server_is_away(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ended(place, uri=AWAY)
    monkeypatch.setattr(sending, "write_state", full)
    (one,) = sync_all(place)
    assert (one.transient, "cannot be reached" in one.why) == (True, True)
