"""Times measured again and again: added up, told with their bounds, and those of a process with what it computed."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.repeats import Repeats, Seconds, build_table, process_time, timed, timing, told


def failing() -> None:
    time.sleep(0.01)
    raise ValueError("no")


def test_times_of_one_name_add_up_also_where_the_block_fails() -> None:
    seconds: Seconds = {}
    with timed(seconds, "a"):
        time.sleep(0.01)
    with pytest.raises(ValueError, match="no"), timed(seconds, "a"):
        failing()
    assert 0.02 <= seconds["a"] < 1


def test_a_function_is_timed_while_the_block_lasts_and_does_what_it_did() -> None:
    class Owner:
        def double(self, value: int, *, plus: int) -> int:
            return 2 * value + plus

    seconds: Seconds = {}
    before: Any = Owner.double
    with timing(seconds, "double", Owner, "double"):
        assert Owner().double(3, plus=1) == 7
    assert list(seconds) == ["double"]
    assert Owner.double is before


def test_a_bound_is_kept_by_the_median() -> None:
    late = Repeats("late", (1.0, 3.0, 9.0), at_most_s=2.0)
    assert told(late) == {"n": 3, "median_s": 3.0, "min_s": 1.0, "max_s": 9.0, "at_most_s": 2.0, "kept": False}
    assert Repeats("exact", (2.0,), at_most_s=2.0).kept is True
    assert told(Repeats("free", (2.0,))) == {"n": 1, "median_s": 2.0, "min_s": 2.0, "max_s": 2.0}


def test_parts_are_set_in_below_what_they_are_of() -> None:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(build_table([Repeats("all", (1.0,), at_most_s=2.0), Repeats("part", (0.5,), depth=1)], title="t"))
    lines = [line.rstrip() for line in shown.get().splitlines()]
    assert any(line.startswith(" all ") and line.endswith("yes") for line in lines)
    assert any(line.startswith("   part ") and line.endswith("0.500") for line in lines)


def test_of_a_process_the_time_is_told_and_what_it_computed(tmp_path: Path) -> None:
    text = "import os, time; open('here', 'w'); end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    seconds = process_time("it", [sys.executable, "-c", text], folder=tmp_path)
    assert seconds.keys() == {"it", "it: CPU"}
    assert seconds["it: CPU"] >= 0.2
    assert (tmp_path / "here").exists()


def test_a_process_that_fails_is_no_time(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 1: [\s\S]*ZeroDivisionError"):
        process_time("it", [sys.executable, "-c", "1 / 0"], folder=tmp_path)
