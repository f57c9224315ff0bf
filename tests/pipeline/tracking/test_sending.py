"""What is sent arrives once and whole, whatever is interrupted. Against a real sqlite store; a server that goes away is
in test_server_away.py."""

import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tracked import ending, known, opening, outbox_in, put, rows

from pipeline.errors import BadRequest, Transient
from pipeline.events import PARENT, Closed, Files, Metrics, Opened, Params, Tags
from pipeline.outbox import Outbox
from pipeline.outbox_reading import EVENTS
from pipeline.tracking import sending, sent
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.sending import send
from pipeline.tracking.sent import REFUSED, STATE, Refusal, read_state, settled, waiting


@pytest.fixture
def experiment() -> str:
    return f"tests-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make(tmp_path: Path, uri: str, experiment: str) -> Callable[..., Outbox]:
    """Makes outboxes whose runs belong to this test's experiment."""

    def outbox(**changes: Any) -> Outbox:
        return outbox_in(tmp_path / "work", **{"uri": uri, "experiment": experiment, **changes})

    return outbox


@pytest.fixture
def outbox(make: Callable[..., Outbox]) -> Iterator[Outbox]:
    """A run that has ended well, and of which nothing was sent."""
    found = make()
    put(found, *opening(), *rows(1, 5), *ending(found, found.folder))
    found.close(whole=True)
    return found


def refusals(outbox: Outbox) -> list[tuple[str, str]]:
    """(what, why) of each."""
    path = outbox.folder / REFUSED
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [(each.what, each.why) for each in (msgspec.json.decode(line, type=Refusal) for line in lines)]


# -- what arrives ------------------------------------------------------------------------------------------------------


def test_a_run_becomes_a_parent_run_with_a_nested_run_a_step(outbox: Outbox, client: Any, experiment: str) -> None:
    found = send(outbox.folder)

    runs = known(client, experiment=experiment)
    assert set(runs) == {"demo", "distill"}
    assert runs["distill"].tags["mlflow.parentRunId"] == found.run_id
    assert {name: run.status for name, run in runs.items()} == {"demo": "FINISHED", "distill": "FINISHED"}
    assert runs["demo"].params == {"distill.tokens": "500"}
    assert runs["distill"].params == {"tokens": "500"}
    assert runs["distill"].metrics["loss"] == [(step, 1.0 / step) for step in range(1, 6)]
    assert runs["distill"].files == ["evidence/curve.png"]
    assert runs["demo"].data == runs["distill"].data == [("sst2", "d" * 36)]
    assert runs["demo"].tags.items() >= {"retort.verdict": "PASS", "retort.git_commit": "c0ffee"}.items()
    assert runs["distill"].tags.items() >= {"retort.digest": "d1", "retort.key": "distill-1"}.items()
    assert (found.events, found.refused, waiting(outbox.folder)) == (16, 0, 0)
    assert settled(outbox.folder)


def test_a_run_begins_and_ends_when_it_did_and_not_when_it_was_sent(outbox: Outbox, client: Any) -> None:
    run_id = send(outbox.folder).run_id
    info = client.get_run(run_id).info
    events = (outbox.folder / EVENTS).read_bytes().splitlines()
    assert info.start_time == msgspec.json.decode(events[0])["at"]
    assert info.end_time == msgspec.json.decode(events[-1])["at"]


def test_what_is_put_later_is_sent_later(make: Callable[..., Outbox], client: Any, experiment: str) -> None:
    outbox = make()
    put(outbox, *opening(), *rows(1, 3))
    first = send(outbox.folder)
    assert known(client, experiment=experiment)["distill"].status == "RUNNING"
    put(outbox, *rows(4, 5), *ending(outbox, outbox.folder))
    again = send(outbox.folder)
    assert (first.run_id, first.events, again.events) == (again.run_id, 7, 9)
    assert len(known(client, experiment=experiment)["distill"].metrics["loss"]) == 5
    outbox.close(whole=True)


def test_more_than_one_request_takes_is_sent_in_several(
    make: Callable[..., Outbox], client: Any, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "METRICS_A_BATCH", 10)
    monkeypatch.setattr(sending, "PARAMS_A_BATCH", 10)
    outbox = make()
    put(outbox, *opening()[:1], Params(of=PARENT, values={f"p{i}": i for i in range(23)}))
    put(outbox, Metrics(of=PARENT, step=1, values={f"m{i}": float(i) for i in range(25)}))
    put(outbox, *(Metrics(of=PARENT, step=step, values={"loss": 0.5}) for step in range(11)))
    send(outbox.folder)
    run = known(client, experiment=experiment)["demo"]
    assert (len(run.params), len(run.metrics), len(run.metrics["loss"])) == (23, 26, 11)
    outbox.close(whole=True)


def test_numbers_that_are_not_finite_arrive(make: Callable[..., Outbox], client: Any) -> None:
    outbox = make()
    put(outbox, *opening()[:1], Metrics(of=PARENT, step=1, values={"norm": "nan", "loss": "inf", "other": "-inf"}))
    found = client.get_run(send(outbox.folder).run_id).data.metrics
    assert (found["norm"] != found["norm"], found["loss"] > 1e300, found["other"] < -1e300) == (True, True, True)
    outbox.close(whole=True)


def test_files_of_the_workspace_s_own_registry_lie_in_the_workspace(tmp_path: Path, root: Path, uri: str) -> None:
    with talking_to(uri):  # its tables are there
        shutil.copyfile(root / "mlflow.db", tmp_path / "mlflow.db")
    outbox = outbox_in(tmp_path, experiment="own")
    put(outbox, *opening(), *ending(outbox, outbox.folder))
    outbox.close(whole=True)
    send(outbox.folder)
    assert [path.name for path in (tmp_path / "mlartifacts" / "own").rglob("*.png")] == ["curve.png"]


# -- interruptions -----------------------------------------------------------------------------------------------------


def test_what_was_sent_twice_arrived_once(outbox: Outbox, client: Any, experiment: str) -> None:
    first = send(outbox.folder)
    before = known(client, experiment=experiment)
    (outbox.folder / STATE).unlink()
    again = send(outbox.folder)
    assert known(client, experiment=experiment) == before
    assert (again.run_id, again.events) == (first.run_id, 16)


@pytest.mark.parametrize("notes", range(12))
def test_a_sender_killed_between_the_server_s_answer_and_its_note_doubles_nothing_and_loses_nothing(
    outbox: Outbox, client: Any, experiment: str, monkeypatch: pytest.MonkeyPatch, notes: int
) -> None:
    written = 0

    def killed(folder: Path, state: sent.State) -> None:
        nonlocal written
        if written == notes:
            raise KeyboardInterrupt
        written += 1
        sent.write_state(folder, state)

    with monkeypatch.context() as patch:
        patch.setattr(sending, "write_state", killed)
        with pytest.raises(KeyboardInterrupt):
            send(outbox.folder)
    send(outbox.folder)

    runs = known(client, experiment=experiment)
    assert {name: run.status for name, run in runs.items()} == {"demo": "FINISHED", "distill": "FINISHED"}
    assert runs["distill"].metrics["loss"] == [(step, 1.0 / step) for step in range(1, 6)]
    assert runs["demo"].data == [("sst2", "d" * 36)]


def test_a_torn_state_sends_all_again(outbox: Outbox, client: Any, experiment: str) -> None:
    send(outbox.folder)
    before = known(client, experiment=experiment)
    (outbox.folder / STATE).write_bytes(b'{"offset":')
    assert send(outbox.folder).events == 16
    assert known(client, experiment=experiment) == before


def test_a_run_whose_process_was_killed_is_closed_as_killed_and_goes_on_when_it_is_resumed(
    make: Callable[..., Outbox], client: Any, experiment: str
) -> None:
    outbox = make()
    put(outbox, *opening(), *rows(1, 2))
    send(outbox.folder)
    assert {run.status for run in known(client, experiment=experiment).values()} == {"RUNNING"}
    outbox.close(whole=False)  # as the kernel does
    assert not settled(outbox.folder)
    killed = send(outbox.folder)
    assert {run.status for run in known(client, experiment=experiment).values()} == {"KILLED"}
    assert settled(outbox.folder)

    again = make()
    put(again, *opening(), *rows(3, 4))
    assert send(again.folder).run_id == killed.run_id
    assert {run.status for run in known(client, experiment=experiment).values()} == {"RUNNING"}
    put(again, *ending(again, again.folder))
    again.close(whole=True)
    send(again.folder)
    runs = known(client, experiment=experiment)
    assert {run.status for run in runs.values()} == {"FINISHED"}
    assert [step for step, _ in runs["distill"].metrics["loss"]] == [1, 2, 3, 4]


def test_a_step_with_another_key_is_another_nested_run(make: Callable[..., Outbox], client: Any) -> None:
    outbox = make()
    put(outbox, *opening(), *rows(1, 1), Closed(of="distill", status="FAILED"))
    put(outbox, Opened(of="distill", name="distill", key="distill-2", tags={}), *rows(2, 2))
    run_id = send(outbox.folder).run_id
    parent = client.get_run(run_id)
    nested = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {run.info.status: list(run.data.metrics) for run in nested} == {
        "FAILED": ["loss", "grad_norm"],
        "RUNNING": ["loss", "grad_norm"],
    }
    outbox.close(whole=True)


def test_a_process_that_joins_a_run_adds_to_it_and_does_not_end_it(
    make: Callable[..., Outbox], client: Any, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.outbox.LOCK_WAIT_S", 0.0)
    first = make()
    put(first, *opening())
    other = make()
    put(other, opening()[0], Opened(of="export", name="export", key="export-1", tags={}))
    assert send(first.folder).run_id == send(other.folder).run_id
    other.close(whole=False)
    send(other.folder)
    assert {name: run.status for name, run in known(client, experiment=experiment).items()} == {
        "demo": "RUNNING",
        "distill": "RUNNING",
        "export": "KILLED",
    }
    first.close(whole=False)


def test_of_two_runs_that_a_lost_answer_made_the_first_one_is_it(
    make: Callable[..., Outbox], client: Any, experiment: str
) -> None:
    outbox = make()
    put(outbox, opening()[0])
    first = send(outbox.folder).run_id
    parent = client.get_run(first)
    tags = {"retort.run": outbox.target.run}
    client.create_run(parent.info.experiment_id, start_time=parent.info.start_time + 1, tags=tags, run_name="twice")
    put(outbox, opening()[0])
    assert send(outbox.folder).run_id == first
    assert set(known(client, experiment=experiment)) == {"demo"}
    outbox.close(whole=True)


def test_a_server_that_lost_its_database_is_told_all_of_it_again(tmp_path: Path, root: Path, uri: str) -> None:
    with talking_to(uri):
        shutil.copyfile(root / "mlflow.db", tmp_path / "empty.db")
    for name in ("one", "two"):
        shutil.copyfile(tmp_path / "empty.db", tmp_path / f"{name}.db")
    outbox = outbox_in(tmp_path, uri=f"sqlite:///{tmp_path}/one.db", experiment="again")
    put(outbox, *opening(), *rows(1, 3))
    send(outbox.folder)
    target = outbox.folder / "target.json"
    target.write_text(target.read_text().replace("one.db", "two.db"))
    put(outbox, *rows(4, 5), *ending(outbox, outbox.folder))
    outbox.close(whole=True)
    send(outbox.folder)
    with talking_to(f"sqlite:///{tmp_path}/two.db") as client:
        runs = known(client, experiment="again")
    assert [step for step, _ in runs["distill"].metrics["loss"]] == [1, 2, 3, 4, 5]
    assert {run.status for run in runs.values()} == {"FINISHED"}
    assert refusals(outbox) == []


def test_another_process_that_is_sending_is_waited_for_and_then_said_so(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent, "LOCK_WAIT_S", 0.1)
    with sent.alone(outbox.folder), pytest.raises(Transient) as busy:
        send(outbox.folder)
    assert str(busy.value) == f"another process is sending {outbox.folder}; run again when it is done"


def test_between_requests_the_sender_may_rest(outbox: Outbox) -> None:
    rests: list[int] = []
    send(outbox.folder, rest=lambda: rests.append(waiting(outbox.folder)))
    assert rests == [16, 16, 15, 14, 13, 12, 7, 6, 5, 4, 3, 2, 1, 0]


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_the_server_refuses_is_set_aside_and_the_rest_goes_on(
    make: Callable[..., Outbox], client: Any, experiment: str
) -> None:
    outbox = make()
    put(outbox, *opening(), Params(of="distill", values={"a": 1, "tokens": 7, "b": 2, "c": 3}))
    put(outbox, *rows(1, 2), *ending(outbox, outbox.folder))
    outbox.close(whole=True)
    assert send(outbox.folder).refused == 1
    run = known(client, experiment=experiment)["distill"]
    assert run.params == {"a": "1", "tokens": "500", "b": "2", "c": "3"}
    assert (run.status, len(run.metrics["loss"])) == ("FINISHED", 2)
    ((what, why),) = refusals(outbox)
    assert what == "tokens"
    assert why.startswith("Changing param values is not allowed.")
    assert waiting(outbox.folder) == 0


def test_a_torn_line_files_that_are_gone_and_a_run_nobody_opened_are_set_aside(
    make: Callable[..., Outbox], client: Any, experiment: str
) -> None:
    outbox = make()
    put(outbox, *opening())
    with (outbox.folder / EVENTS).open("ab") as file:
        file.write(b'{"event":"met\n')
    put(outbox, Files(of="distill", folder="files/none", to=""), *rows(1, 2, of="nobody"))
    put(outbox, Tags(of="distill", values={"retort.digest": "d1"}))
    assert send(outbox.folder).refused == 4
    assert refusals(outbox) == [
        ("all of it", "no event that this Retort knows"),
        ("all of it", f"{outbox.folder}/files/none is gone"),
        ("loss, grad_norm", "no event says which run 'nobody' is"),
        ("loss, grad_norm", "no event says which run 'nobody' is"),
    ]
    assert known(client, experiment=experiment)["distill"].tags["retort.digest"] == "d1"
    outbox.close(whole=True)


def test_a_run_that_somebody_deleted_is_not_asked_for_each_number(
    make: Callable[..., Outbox], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = make()
    put(outbox, *opening())
    client.delete_run(send(outbox.folder).run_id)
    put(outbox, *(Metrics(of=PARENT, step=step, values={"loss": 0.5}) for step in range(500)))
    asked: list[int] = []
    from mlflow import MlflowClient

    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *a, **k: asked.append(1) or log_batch(*a, **k))
    assert send(outbox.folder).refused == 500
    assert len(asked) == 1
    outbox.close(whole=True)


def test_a_server_that_is_not_there_loses_nothing_and_is_named(make: Callable[..., Outbox]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        outbox = make(uri=uri)
        put(outbox, *opening())
        with pytest.raises(Transient, match="cannot be reached"):
            send(outbox.folder)
    assert waiting(outbox.folder) == 4
    assert "cannot be reached" in read_state(outbox.folder).why
    outbox.close(whole=True)


def test_a_deleted_experiment_refuses_all_and_loses_nothing(
    make: Callable[..., Outbox], client: Any, experiment: str
) -> None:
    number = client.create_experiment(experiment)
    client.delete_experiment(number)
    outbox = make()
    put(outbox, *opening())
    with pytest.raises(BadRequest, match=f"the experiment {experiment} was deleted"):
        send(outbox.folder)
    assert waiting(outbox.folder) == 4
    client.restore_experiment(number)
    assert send(outbox.folder).events == 4
    assert read_state(outbox.folder).why == ""
    outbox.close(whole=True)


def test_an_outbox_with_nothing_to_send_asks_nobody(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    send(outbox.folder)
    monkeypatch.setattr(sending, "talking_to", lambda _: pytest.fail("nobody is asked"))
    assert send(outbox.folder).events == 0


def test_the_workspace_s_own_registry_is_the_default(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    assert sending.uri_of(outbox.folder) == default_uri(tmp_path)
    outbox.close(whole=True)


# -- two processes at one run ------------------------------------------------------------------------------------------

AT = 4_070_908_800_000  # than any of these tests is made later


@pytest.fixture
def joined(make: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch) -> tuple[Outbox, Outbox]:
    """The outbox of a run, and that of a process that joined it, each in the middle of a step."""
    monkeypatch.setattr("pipeline.outbox.LOCK_WAIT_S", 0.0)
    owner, other = make(), make()
    put(owner, *opening())
    put(other, opening()[0], Opened(of="export", name="export", key="export-1", tags={}))
    return owner, other


def statuses(client: Any, experiment: str) -> dict[str, str]:
    return {name: run.status for name, run in known(client, experiment=experiment).items()}


@pytest.mark.parametrize("owner_first", [True, False])
def test_of_two_ends_of_a_run_the_later_one_holds_whichever_is_sent_last(
    joined: tuple[Outbox, Outbox], client: Any, experiment: str, owner_first: bool
) -> None:
    owner, other = joined
    put(owner, *(Closed(of=of, status="FAILED", at=AT) for of in ("distill", PARENT)))
    owner.close(whole=False)
    put(other, Opened(of="distill", name="distill", key="distill-1", tags={}, at=AT + 1))
    put(other, *(Closed(of=of, status="FINISHED", at=AT + 2) for of in ("distill", "export", PARENT)))
    other.close(whole=True)
    for each in (owner, other) if owner_first else (other, owner):
        send(each.folder)
    assert statuses(client, experiment) == dict.fromkeys(("demo", "distill", "export"), "FINISHED")
    assert (settled(owner.folder), settled(other.folder)) == (True, True)


def test_who_joins_a_run_that_has_ended_does_not_set_it_running(
    joined: tuple[Outbox, Outbox], client: Any, experiment: str
) -> None:
    owner, other = joined
    put(owner, *(Closed(of=of, status="FINISHED", at=owner.target.made_at) for of in ("distill", PARENT)))
    owner.close(whole=False)
    send(owner.folder)
    send(other.folder)
    assert statuses(client, experiment) == {"demo": "FINISHED", "distill": "FINISHED", "export": "RUNNING"}
    other.close(whole=False)
    send(other.folder)
    assert statuses(client, experiment) == {"demo": "FINISHED", "distill": "FINISHED", "export": "KILLED"}


def test_a_run_whose_owner_was_killed_is_ended_by_the_one_that_joined_it(
    joined: tuple[Outbox, Outbox], client: Any, experiment: str
) -> None:
    owner, other = joined
    owner.close(whole=False)
    for each in joined:
        send(each.folder)
    assert statuses(client, experiment) == {"demo": "RUNNING", "distill": "KILLED", "export": "RUNNING"}
    put(other, Closed(of="export", status="FINISHED"), Closed(of=PARENT, status="FINISHED"))
    other.close(whole=False)
    for each in (other, owner):
        send(each.folder)
    assert statuses(client, experiment) == {"demo": "FINISHED", "distill": "KILLED", "export": "FINISHED"}
    assert (settled(owner.folder), settled(other.folder)) == (True, True)


def test_a_run_of_which_all_processes_were_killed_is_killed(
    joined: tuple[Outbox, Outbox], client: Any, experiment: str
) -> None:
    for each in joined:
        each.close(whole=False)
    for each in joined:
        send(each.folder)
    assert statuses(client, experiment) == dict.fromkeys(("demo", "distill", "export"), "KILLED")
