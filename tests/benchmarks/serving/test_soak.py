"""Whether memory grows: the figures of readings, and the real server, once as it is and once with a leak."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fakes import tiny_bundle

from benchmarks.machine import affinity
from benchmarks.openloop.running import running
from benchmarks.serving import soak as soak_module
from benchmarks.serving.running import Served
from benchmarks.serving.soak import NOISE_MB, Reading, Soak, interval, main, slope, soak_server, soaked

MB = 1_000_000
BODY = '{"texts": ["good bad"]}'
LEAKING = """
import sys
from serving import models

kept = []
answer = models.Models.answer_jobs

def leaking(self, lane, jobs):
    kept.append(b"x" * LEAK)
    return answer(self, lane, jobs)

models.Models.answer_jobs = leaking
sys.argv = ["serving", *sys.argv[1:]]
from serving.__main__ import main
main()
"""


def readings(*, hours: float, mb_per_hour: float, noise_mb: float = 0.0) -> list[Reading]:
    """Once a second, 150 MB at first."""
    random = np.random.default_rng(0)
    return [
        Reading(second, round((150 + mb_per_hour * second / 3600 + noise_mb * random.standard_normal()) * MB))
        for second in range(round(hours * 3600) + 1)
    ]


def told_by(these: list[Reading], *, answered: int = 1000, lost: int = 0) -> Soak:
    return soaked(these, rps=200.0, sent=1000, answered=answered, lost=lost)


def test_a_flat_hour_is_flat_in_spite_of_noise() -> None:
    found = told_by(readings(hours=1, mb_per_hour=0.0, noise_mb=0.3))
    assert (found.verdict, found.warm_s, round(found.resident_mb)) == ("yes", 300.0, 150)
    assert abs(found.slope_mb_per_hour) < 0.2
    assert [(each.name, each.kept) for each in found.figures()] == [("memory", "yes"), ("soak, requests lost", "yes")]


def test_an_hour_in_which_it_grows_is_not() -> None:
    found = told_by(readings(hours=1, mb_per_hour=4.0, noise_mb=0.3))
    assert found.verdict == "NO"
    assert found.slope_mb_per_hour == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize(
    ("mb_per_hour", "verdict"), [(0.5, "yes"), (1.0, "not known"), (1.5, "NO"), (1.9, "NO"), (2.6, "NO")]
)
def test_an_hour_tells_on_which_side_of_a_megabyte_an_hour_a_leak_is(mb_per_hour: float, verdict: str) -> None:
    found = told_by(readings(hours=1, mb_per_hour=mb_per_hour, noise_mb=0.3))
    assert found.growth_mb < NOISE_MB  # which alone would have told nothing
    assert (found.verdict, found.figures()[0].kept) == (verdict, verdict)


def test_the_slowest_leak_that_would_have_been_seen_is_seen_and_a_slower_one_is_not() -> None:
    for hours in (1, 1 / 6):
        flat = told_by(readings(hours=hours, mb_per_hour=0.0, noise_mb=0.1))
        faster, slower = (
            told_by(readings(hours=hours, mb_per_hour=times * flat.shows_mb_per_hour, noise_mb=0.1))
            for times in (1.05, 0.9)
        )
        assert (faster.verdict, slower.verdict != "NO") == ("NO", True)


def test_an_interval_that_spans_the_bound_leaves_it_open_and_is_told() -> None:
    found = told_by(readings(hours=1, mb_per_hour=1.0, noise_mb=0.3))
    low, high = found.low_mb_per_hour or 0.0, found.high_mb_per_hour or 0.0
    assert 0.8 < low < 1.0 < high < 1.2
    assert found.told().startswith(f"{found.slope_mb_per_hour:+.2f} MB/h ({low:+.2f} to {high:+.2f}) over 3300 s at")


def test_a_step_late_in_the_hour_is_no_slope_and_yet_growth() -> None:
    stepped = [Reading(second, (150 + 12 * (second > 2700)) * MB) for second in range(3601)]
    found = told_by(stepped)
    assert (found.slope_mb_per_hour, found.growth_mb, found.verdict) == (0.0, 12.0, "NO")
    assert (found.figures()[0].kept, round(found.figures()[0].value or 0, 1)) == ("NO", 16.4)  # 12 MB in 0.73 h


@pytest.mark.parametrize(("answered", "verdict"), [(999, "yes"), (998, "not known"), (0, "not known")])
def test_the_memory_of_a_server_that_answers_little_tells_nothing(answered: int, verdict: str) -> None:
    assert told_by(readings(hours=1, mb_per_hour=0.0), answered=answered).verdict == verdict
    assert told_by(readings(hours=1, mb_per_hour=4.0), answered=answered).verdict == "NO"


def test_one_request_lost_in_an_hour_is_missed_beside_memory_that_is_flat() -> None:
    memory, lost = told_by(readings(hours=1, mb_per_hour=0.0), answered=999, lost=1).figures()
    assert (memory.kept, lost.kept) == ("yes", "NO")
    assert lost.row() == ("soak, requests lost", "1", "<= 0", "NO")


def test_an_interval_holds_what_most_parts_say() -> None:
    x = np.arange(200.0)
    assert interval(x, 3 * x) == (3.0, 3.0)
    one_spike = np.where((x > 90) & (x < 95), 1000.0, 3 * x)
    assert interval(x, one_spike) == (3.0, 3.0)


def test_growth_while_it_warms_up_does_not_count() -> None:
    warming = [Reading(second, (100 + second) * MB) for second in range(300)]
    steady = [Reading(300 + second, 400 * MB) for second in range(3301)]
    assert told_by([*warming, *steady]).verdict == "yes"


def test_a_minute_cannot_tell_a_slow_leak_and_says_which_it_could() -> None:
    found = told_by(readings(hours=1 / 60, mb_per_hour=20.0))
    assert found.verdict == "not known"
    assert found.shows_mb_per_hour == pytest.approx(300.0)
    assert found.told() == (
        "+20.00 MB/h (not known in less than 1800 s) over 30 s at 200/s (1,000 of 1,000 answered, 0 lost), grown by "
        "+0.14 MB to 150 MB; flat: not known (a leak of 300 MB/h would have been seen)"
    )


def test_a_flat_minute_does_not_show_a_megabyte_an_hour() -> None:
    assert told_by(readings(hours=1 / 60, mb_per_hour=0.0)).verdict == "not known"


def test_a_step_does_not_bend_the_slope() -> None:
    y = np.array([1.0] * 60 + [9.0] + [1.0] * 39)
    assert slope(np.arange(100.0), y) == 0.0
    assert slope(np.arange(1.0), np.ones(1)) == 0.0


@contextmanager
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, leak_bytes: int) -> Iterator[Served]:
    bundle = tiny_bundle(tmp_path / "bundle")
    (tmp_path / "leaking_server.py").write_text(LEAKING.replace("LEAK", str(leak_bytes), 1))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    command = ["leaking_server", str(bundle.path), "--port", "0", "--threads", "1"]
    with running(command, cores=()) as server:
        url, pid = f"{server.url}/classify", server.process.pid
        yield Served("retort", url, pid, 0.0, 0.0, None, server.process, server.log)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("leak_bytes", "wanted"), [(200_000, "NO"), (0, "not NO")])
def test_a_deliberate_leak_in_the_real_server_is_caught_and_none_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leak_bytes: int, wanted: str
) -> None:
    monkeypatch.setattr(soak_module, "EVERY_S", 0.1)
    with served(tmp_path, monkeypatch, leak_bytes=leak_bytes) as server:
        found: Soak = soak_server(server, [BODY], rps=40.0, seconds=8.0, bound_ms=500.0)
    assert found.answered > 100
    assert (found.verdict == "NO") is (wanted == "NO"), found.told()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_that_ends_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path, monkeypatch, leak_bytes=0) as server:
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
        with pytest.raises(Exception, match=r"^retort ended with exit code -9 while it was measured"):
            soak_server(server, [BODY], rps=40.0, seconds=1.0, bound_ms=500.0)


@pytest.mark.skipif(len(affinity()) < 2, reason="the generator needs a core of its own")
def test_the_command_ends_with_a_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    code = main([str(bundle.path), "--seconds", "2", "--rps", "30", "--out", str(tmp_path / "soak.json")])
    last = capsys.readouterr().out.splitlines()[-1]
    found = json.loads(last)
    assert (found["digest"], found["verdict"] != "yes", code) == (bundle.digest, True, 1)  # of two seconds
    assert found["soak"]["sent"] > 10
    assert (tmp_path / "soak.json").read_text() == f"{last}\n"


def test_a_soak_of_no_time_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--seconds", "0"])
    assert capsys.readouterr().err.endswith("error: --seconds, --rps and --bound-ms must be above 0\n")
