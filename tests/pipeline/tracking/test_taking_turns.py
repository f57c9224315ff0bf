"""While one measures, no sender of the workspace is at work; and nobody waits for one that has ended."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from threading import Event, Thread

import pytest

from pipeline.tracking.taking_turns import MEASURING, Measuring, Turn, taken_for_a_sender

PATIENCE_S = 30.0
SOON_S = 0.1
MEASURES = """
import sys
from pathlib import Path
from pipeline.tracking.taking_turns import Measuring
print(Measuring(Path(sys.argv[1])).begin(10.0), flush=True)
sys.stdin.read()
"""


def turn_in(area: Path) -> Turn:
    return Turn(area, taken_for_a_sender(area))


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[tuple[Event, Event]]:
    """A sender between two requests: what lets it look whether it may go on, and what it sets when it has gone on."""
    look, went_on = Event(), Event()
    turn = turn_in(tmp_path)

    def works() -> None:
        look.wait()
        turn.give_way()
        went_on.set()

    thread = Thread(target=works)
    thread.start()
    yield look, went_on
    look.set()
    thread.join()


def test_a_sender_goes_on_where_nobody_measures(sender: tuple[Event, Event]) -> None:
    look, went_on = sender
    look.set()
    assert went_on.wait(PATIENCE_S)


def test_it_is_told_that_a_sender_was_still_at_something_and_again_when_asked_again(
    tmp_path: Path, sender: tuple[Event, Event]
) -> None:
    look, went_on = sender
    run = Measuring(tmp_path)
    assert not run.begin(SOON_S)
    assert not run.begin(SOON_S)
    run.end()
    assert not run.begin(SOON_S)
    look.set()
    assert run.begin(PATIENCE_S)
    assert not went_on.wait(SOON_S)
    run.end()
    assert went_on.wait(PATIENCE_S)


def test_two_measure_at_once_and_the_sender_sleeps_until_both_are_done(
    tmp_path: Path, sender: tuple[Event, Event]
) -> None:
    look, went_on = sender
    one, other = Measuring(tmp_path), Measuring(tmp_path)
    assert (one.begin(SOON_S), other.begin(SOON_S)) == (False, False)
    look.set()
    assert (one.begin(PATIENCE_S), other.begin(PATIENCE_S)) == (True, True)
    one.end()
    assert not went_on.wait(SOON_S)
    other.end()
    assert went_on.wait(PATIENCE_S)


def test_a_sender_that_is_idle_is_waited_for_by_nobody(tmp_path: Path) -> None:
    turn, run = turn_in(tmp_path), Measuring(tmp_path)
    with turn.idle():
        assert run.begin(0.0)
        run.end()
    assert not run.begin(0.0), "it is at work again"


def test_a_sender_counts_from_before_its_birth_until_its_last_descriptor_is_closed(tmp_path: Path) -> None:
    held, run = taken_for_a_sender(tmp_path), Measuring(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=PIPE, pass_fds=(held,)) as child:
        os.close(held)
        assert not run.begin(SOON_S)
        child.kill()
    assert run.begin(PATIENCE_S)


def test_one_that_is_killed_while_it_measures_holds_up_nobody(tmp_path: Path, sender: tuple[Event, Event]) -> None:
    look, went_on = sender
    command = [sys.executable, "-c", MEASURES, str(tmp_path)]
    with ThreadPoolExecutor(1) as pool, subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as run:
        assert run.stdout is not None
        answer = pool.submit(run.stdout.readline)
        until_somebody_measures(tmp_path)
        look.set()
        assert answer.result(PATIENCE_S) == "True\n"
        assert not went_on.wait(SOON_S)
        run.kill()
        assert went_on.wait(PATIENCE_S)


def until_somebody_measures(area: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    with (area / MEASURING).open("ab") as file, suppress(BlockingIOError):
        while time.monotonic() < end:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            time.sleep(0.01)
        raise AssertionError("nobody measures")


def test_a_sender_that_goes_on_at_the_moment_when_one_begins_to_measure_takes_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, run, went_on, real = turn_in(tmp_path), Measuring(tmp_path), Event(), fcntl.flock
    began: list[bool] = []

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        if (descriptor, how) == (turn._measuring, fcntl.LOCK_UN) and not began:
            began.append(True)
            began.append(run.begin(0.0))

    monkeypatch.setattr(fcntl, "flock", flock)

    def works() -> None:
        with turn.idle():
            pass
        went_on.set()

    thread = Thread(target=works)
    thread.start()
    assert not went_on.wait(SOON_S)
    assert began == [True, True]
    run.end()
    assert went_on.wait(PATIENCE_S)
    thread.join()


def test_where_there_are_no_locks_nothing_is_promised(tmp_path: Path) -> None:
    assert not Measuring(tmp_path / "gone").begin(0.0)


def test_of_many_who_measure_and_send_no_two_are_ever_at_it_together(tmp_path: Path) -> None:
    over, at_work, rounds, seen = Event(), [0, 0, 0], [0, 0, 0], list[int]()

    def sends(number: int) -> None:
        turn = turn_in(tmp_path)
        while not over.is_set():
            turn.give_way()
            at_work[number] = 1
            time.sleep(0.001)
            at_work[number] = 0
            rounds[number] += 1

    def measures() -> None:
        run = Measuring(tmp_path)
        for _ in range(20):
            assert run.begin(PATIENCE_S)
            seen.extend(sum(at_work) for _ in range(100))
            time.sleep(0.003)
            seen.append(sum(at_work))
            run.end()
            time.sleep(0.005)

    with ThreadPoolExecutor(5) as pool:
        senders = [pool.submit(sends, number) for number in range(3)]
        runs = [pool.submit(measures) for _ in range(2)]
        for run in runs:
            run.result()
        over.set()
        for sender in senders:
            sender.result()
    assert set(seen) == {0}
    assert min(rounds) > 10
