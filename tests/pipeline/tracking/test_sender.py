"""The process beside a run: it sends while the run goes on, sleeps when it is told to, outlives its run by a little,
and no server that goes away makes it lose or double anything."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Semaphore, Thread
from typing import Any

import pytest
from registries import await_answer, free_port, or_absent, running, small_disk
from tracked import Known, ending, known, opening, outbox_in, put, rows

from pipeline.errors import Transient
from pipeline.events import PARENT, Metrics, event_of
from pipeline.outbox import Outbox, append_line
from pipeline.outbox_reading import lines_after
from pipeline.tracking import sender as sender_module
from pipeline.tracking.client import talking_to
from pipeline.tracking.sender import Sender, looks_at
from pipeline.tracking.sender_process import SenderProcess
from pipeline.tracking.sent import Busy, read_state, settled, waiting
from pipeline.tracking.taking_turns import Measuring, Turn, taken_for_a_sender

PATIENCE_S = 60.0
Serve = Callable[[], AbstractContextManager[str]]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def place(tmp_path: Path, root: Path, uri: str) -> Path:
    """A workspace whose registry has its tables."""
    with talking_to(uri):
        shutil.copyfile(root / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def outbox(place: Path) -> Outbox:
    return outbox_in(place)


@pytest.fixture
def serve(place: Path) -> Serve:
    """Starts the workspace's MLflow server, at the same address whenever it is started again; it is killed at the end
    of the block."""
    port = free_port()
    stores = ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--artifacts-destination", str(place / "served")]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *stores]

    @contextmanager
    def started() -> Iterator[str]:
        with running(command, log=place / "server.log", end=signal.SIGKILL) as server:
            await_answer(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}"

    return started


class Silent:
    """A server that is in good health, accepts whatever else is asked, and says nothing to it until it is let: then
    that it is not well."""

    def __init__(self) -> None:
        self.asked, self.over, self._answers = Event(), Event(), Semaphore(0)
        silent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/health":
                    silent.asked.set()
                    silent.await_leave()
                self.send_response(200 if self.path == "/health" else 503)
                self.end_headers()

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                """Nothing."""

            def handle(self) -> None:
                with suppress(ConnectionError):
                    super().handle()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"

    def answer_one(self) -> None:
        self.asked.clear()
        self._answers.release()

    def await_leave(self) -> None:
        while not self.over.is_set() and not self._answers.acquire(timeout=0.05):
            pass


@pytest.fixture
def silent() -> Iterator[Silent]:
    found = Silent()
    thread = Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.over.set()
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def found_in(place: Path) -> dict[str, Known]:
    return found_at(f"sqlite:///{place}/mlflow.db")


def found_at(uri: str) -> dict[str, Known]:
    with talking_to(uri) as client:
        return known(client)


def steps(runs: dict[str, Known]) -> list[int]:
    return [step for step, _ in runs["distill"].metrics["loss"]]


def test_it_sends_while_the_run_goes_on_and_ends_when_all_of_it_is_sent(place: Path, outbox: Outbox) -> None:
    sender = SenderProcess(outbox.folder)
    put(outbox, *opening(), *rows(1, 3))
    until(lambda: read_state(outbox.folder).offset > 0 and waiting(outbox.folder) == 0)
    assert steps(found_in(place)) == [1, 2, 3]
    put(outbox, *rows(4, 5), *ending(outbox, place))
    assert sender.end(PATIENCE_S) == 0
    outbox.close(whole=True)
    runs = found_in(place)
    assert steps(runs) == [1, 2, 3, 4, 5]
    assert {run.status for run in runs.values()} == {"FINISHED"}
    assert settled(outbox.folder)


def test_it_tells_what_the_run_takes_of_its_machine(place: Path, outbox: Outbox) -> None:
    sender = SenderProcess(outbox.folder)
    put(outbox, *opening())
    until(lambda: b"system/process_tree_memory_megabytes" in (outbox.folder / "events.jsonl").read_bytes())
    put(outbox, *ending(outbox, place))
    assert sender.end(PATIENCE_S) == 0
    outbox.close(whole=True)
    assert found_in(place)["demo"].metrics["system/process_tree_memory_megabytes"][0][1] > 10


def test_told_to_rest_it_does_nothing_until_it_may_go_on(place: Path, outbox: Outbox) -> None:
    sender = SenderProcess(outbox.folder)
    assert sender.rest(PATIENCE_S)
    used = cpu_s(sender)
    put(outbox, *opening())
    time.sleep(2.0)
    assert waiting(outbox.folder) == 4
    assert cpu_s(sender) - used < 0.02
    sender.go()
    until(lambda: waiting(outbox.folder) == 0)
    assert sender.rest(PATIENCE_S)
    sender.go()
    assert sender.end(PATIENCE_S) == 75  # nothing closed the runs
    outbox.close(whole=True)


def test_a_run_that_asked_too_early_does_not_take_the_late_answer_for_that_to_its_next_question(
    place: Path, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    outbox = outbox_in(place, uri=silent.uri)
    sender = SenderProcess(outbox.folder)
    put(outbox, *opening())
    assert silent.asked.wait(PATIENCE_S)
    assert not sender.rest(0.2)
    sender.go()
    silent.answer_one()
    assert silent.asked.wait(PATIENCE_S), "it goes on, and hangs again"
    assert not sender.rest(0.2)
    silent.answer_one()
    assert sender.rest(PATIENCE_S)
    assert not silent.asked.wait(2.0)
    sender._process.kill()
    sender.end(PATIENCE_S)
    outbox.close(whole=True)


def test_a_sender_that_hangs_in_a_request_outlives_its_run_by_no_more_than_it_may(place: Path, silent: Silent) -> None:
    outbox = outbox_in(place, uri=silent.uri)
    sender = SenderProcess(outbox.folder, at_most_s=0.5)
    put(outbox, *opening())
    assert silent.asked.wait(PATIENCE_S)
    time.sleep(1.0)
    assert sender._process.poll() is None, "its run goes on"
    started = time.monotonic()
    assert sender.end(PATIENCE_S) == -signal.SIGALRM
    assert time.monotonic() - started < 5
    assert read_state(outbox.folder).offset == 0
    outbox.close(whole=True)


def test_one_whose_run_has_ended_rests_too_while_another_run_measures(place: Path, outbox: Outbox) -> None:
    sender, another_run = SenderProcess(outbox.folder), Measuring(outbox.folder.parent)
    until(lambda: another_run.begin(0.0))
    put(outbox, *opening(), *rows(1, 3), *ending(outbox, place))
    assert sender.end(1.0) is None
    outbox.close(whole=True)
    used = cpu_s(sender)
    time.sleep(1.0)
    assert waiting(outbox.folder) == 14
    assert cpu_s(sender) - used < 0.02
    another_run.end()
    assert sender._process.wait(PATIENCE_S) == 0
    assert settled(outbox.folder)


def test_the_end_of_a_run_that_was_measuring_wakes_its_sender(place: Path, outbox: Outbox) -> None:
    sender = SenderProcess(outbox.folder)
    assert sender.rest(PATIENCE_S)
    put(outbox, *opening(), *ending(outbox, place))
    assert sender.end(PATIENCE_S) == 0
    outbox.close(whole=True)


def cpu_s(sender: SenderProcess) -> float:
    import psutil

    times = psutil.Process(sender._process.pid).cpu_times()
    return float(times.user + times.system)


def test_a_sender_that_was_killed_disturbs_nobody(outbox: Outbox) -> None:
    sender = SenderProcess(outbox.folder)
    sender._process.kill()
    sender._process.wait()
    assert sender.rest(1.0)
    sender.go()
    assert sender.end(1.0) == -signal.SIGKILL
    outbox.close(whole=True)


RUN = """
import sys, time
from pathlib import Path
sys.path.append("tests")
from tracked import opening, outbox_in, put, rows
from pipeline.tracking.sender_process import SenderProcess
outbox = outbox_in(Path(sys.argv[1]))
sender = SenderProcess(outbox.folder)
put(outbox, *opening(), *rows(1, 3))
print(sender._process.pid, flush=True)
sys.stdin.read()
"""


def test_of_a_run_that_was_killed_it_sends_what_there_is_closes_it_as_killed_and_ends(place: Path) -> None:
    import psutil

    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", RUN, str(place)], text=True, **pipes) as run:
        assert run.stdout is not None
        sender = psutil.Process(int(run.stdout.readline()))
        run.kill()
    sender.wait(PATIENCE_S)
    runs = found_in(place)
    assert {name: each.status for name, each in runs.items()} == {"demo": "KILLED", "distill": "KILLED"}
    assert steps(runs) == [1, 2, 3]


def test_what_another_run_of_the_workspace_left_is_sent_too(place: Path, outbox: Outbox) -> None:
    left = outbox_in(place, asked="b" * 64, experiment="left")
    put(left, *opening(), *rows(1, 2), *ending(left, place))
    left.close(whole=True)
    sender = SenderProcess(outbox.folder)
    put(outbox, *opening())
    until(lambda: settled(left.folder))
    sender.end(PATIENCE_S)
    outbox.close(whole=True)


class Sending:
    """What a Sender does in this process, whose requests are fakes: the names of the outboxes they are for, in order.
    Each outbox of another run takes four requests."""

    def __init__(self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[str] = []
        self.at_request: Callable[[int], None] = lambda number: None
        self.busy: set[Path] = set()
        self._own, self.ended, area = outbox.folder, Event(), outbox.folder.parent
        monkeypatch.setattr(sender_module, "send", self._send)
        monkeypatch.setattr(sender_module, "POLL_S", 0.0)
        monkeypatch.setattr(sender_module, "LAST_WAIT_S", 0.0)
        turn = Turn(area, taken_for_a_sender(area))
        self.sender = Sender(outbox.folder, ended=self.ended, turn=turn, look=lambda: {"system/x": 1.0})

    def _send(self, folder: Path, *, rest: Callable[[], None], wait_s: float | None) -> None:
        if folder in self.busy:
            assert wait_s == 0
            raise Busy("at it")
        for _ in range(1 if folder == self._own else 4):
            self.requests.append("own" if folder == self._own else "other")
            self.at_request(len(self.requests))
            rest()


@pytest.fixture
def sending(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> Sending:
    return Sending(outbox, monkeypatch)


def left_by_another_run(root: Path, number: int) -> Path:
    left = outbox_in(root, asked=f"{number}" * 64, experiment="left")
    put(left, *opening())
    left.close(whole=True)
    return left.folder


def test_what_other_runs_left_waits_for_what_its_own_run_says(place: Path, sending: Sending) -> None:
    left_by_another_run(place, 1)
    left_by_another_run(place, 2)
    sending.at_request = lambda number: sending.ended.set() if number == 18 else None
    sending.sender.run()
    assert sending.requests[:17] == ["own", *["other", "own"] * 8]


def test_what_other_runs_left_is_let_be_when_its_own_run_ends(place: Path, sending: Sending) -> None:
    left_by_another_run(place, 1)
    sending.at_request = lambda number: sending.ended.set() if number == 4 else None
    sending.sender.run()
    assert sending.requests == ["own", "other", "own", "other", "own"]


def test_what_another_sender_is_still_at_is_left_to_that(place: Path, sending: Sending) -> None:
    sending.busy.add(left_by_another_run(place, 1))
    left_by_another_run(place, 2)
    sending.at_request = lambda number: sending.ended.set() if number == 10 else None
    sending.sender.run()
    assert sending.requests[:9] == ["own", *["other", "own"] * 4]


def looks_in(outbox: Outbox) -> int:
    found = (event_of(line) for line, _ in lines_after(outbox.folder))
    return sum(1 for event in found if isinstance(event, Metrics) and event.of == PARENT)


def test_a_full_disk_costs_no_more_than_looks_at_the_machine_and_is_told_once(
    outbox: Outbox, sending: Sending, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sender_module, "LOOK_EVERY_S", 0.0)
    sending.sender._look_at = 0.0
    room = Event()

    def append(descriptor: int, line: bytes) -> None:
        if not room.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append_line(descriptor, line)

    monkeypatch.setattr(sender_module, "append_line", append)
    steps_of = {3: room.set, 5: sending.ended.set}
    sending.at_request = lambda number: steps_of.get(number, lambda: None)()
    sending.sender.run()
    assert looks_in(outbox) == 2
    assert (
        capfd.readouterr().err == "what the run takes of its machine is not told ([Errno 28] No space left on device)\n"
    )


def test_a_machine_that_answers_what_nobody_expects_costs_looks_and_ends_no_telling(
    outbox: Outbox, sending: Sending, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sender_module, "LOOK_EVERY_S", 0.0)

    def odd(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(sender_module, "MachineUse", odd)
    sending.sender._look, sending.sender._look_at = looks_at(os.getpid(), outbox.folder), 0.0
    sending.at_request = lambda number: sending.ended.set() if number == 4 else None
    sending.sender.run()
    assert (len(sending.requests) >= 5, looks_in(outbox)) == (True, 0)
    assert capfd.readouterr().err == (
        "what the run takes of its machine is not told (ZeroDivisionError: division by zero)\n"
    )


def test_where_it_cannot_note_how_far_it_came_it_goes_on(
    outbox: Outbox, sending: Sending, capfd: pytest.CaptureFixture[str]
) -> None:
    def at(number: int) -> None:
        if number == 4:
            sending.ended.set()
        if number < 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put(outbox, *opening())
    sending.at_request = at
    sending.sender._look_at = float("inf")
    assert sending.sender.run() == Transient.exit_code, "nothing was really sent"
    assert len(sending.requests) > 4
    assert capfd.readouterr().err == f"{outbox.folder} cannot be sent ([Errno 28] No space left on device)\n"


def test_it_outlives_a_disk_that_is_full_for_a_while(tmp_path: Path, uri: str) -> None:
    with or_absent(), small_disk(tmp_path / "small", size_kib=64) as resize:
        outbox = outbox_in(tmp_path / "small", uri=uri, experiment="on-a-small-disk")
        put(outbox, *opening())
        with suppress(OSError):
            (tmp_path / "small" / "filler").write_bytes(bytes(1_000_000))
        sender = SenderProcess(outbox.folder)
        until(lambda: (outbox.folder / ".sent.json").exists())  # it tries to note how far it came
        time.sleep(2.0)  # and looks at the machine
        assert sender._process.poll() is None
        resize(1024)
        put(outbox, *rows(1, 3), *ending(outbox, tmp_path))
        assert sender.end(PATIENCE_S) == 0
        outbox.close(whole=True)
        with talking_to(uri) as client:
            runs = known(client, experiment="on-a-small-disk")
    assert steps(runs) == [1, 2, 3]


@pytest.mark.timeout(300)
def test_a_server_killed_in_the_middle_of_a_run_and_started_again_has_all_of_it_once(place: Path, serve: Serve) -> None:
    with serve() as uri:
        outbox = outbox_in(place, uri=uri)
        sender = SenderProcess(outbox.folder)
        put(outbox, *opening(), *rows(1, 10))
        until(lambda: read_state(outbox.folder).offset > 0 and waiting(outbox.folder) == 0)
        put(outbox, *rows(11, 300))  # it is killed while it is told of these
    put(outbox, *rows(301, 320))
    until(lambda: "cannot be reached" in read_state(outbox.folder).why)
    assert waiting(outbox.folder) > 0
    with serve():
        put(outbox, *rows(321, 330), *ending(outbox, place))
        assert sender.end(PATIENCE_S) == 0
        outbox.close(whole=True)
        runs = found_at(uri)
    assert steps(runs) == [*range(1, 331)]
    assert {run.status for run in runs.values()} == {"FINISHED"}
    assert runs["distill"].files == ["evidence/curve.png"]
    assert runs["demo"].data == [("sst2", "d" * 36)]
    assert (read_state(outbox.folder).refused, settled(outbox.folder)) == (0, True)


def test_where_nobody_answers_the_run_s_end_waits_for_a_moment_and_the_events_wait_on(place: Path) -> None:
    outbox = outbox_in(place, uri=f"http://127.0.0.1:{free_port()}")
    sender = SenderProcess(outbox.folder)
    put(outbox, *opening(), *rows(1, 20), *ending(outbox, place))
    until(lambda: "cannot be reached" in read_state(outbox.folder).why)
    started = time.monotonic()
    assert sender.end(PATIENCE_S) == 75
    assert time.monotonic() - started < 10
    assert waiting(outbox.folder) == 31
    outbox.close(whole=True)
