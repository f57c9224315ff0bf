"""The process beside a run: it sends while the run goes on, sleeps when it is told to, outlives its run by a little,
and no server that goes away makes it lose or double anything."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from registries import await_answer, free_port, running
from tracked import Known, ending, known, opening, outbox_in, put, rows

from pipeline.outbox import Outbox
from pipeline.tracking.client import talking_to
from pipeline.tracking.sender_process import SenderProcess
from pipeline.tracking.sent import read_state, settled, waiting

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
