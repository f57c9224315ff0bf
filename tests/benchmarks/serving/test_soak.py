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
from benchmarks.serving.soak import Reading, Soak, main, slope, soak_server, soaked

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


def test_a_flat_hour_is_flat_in_spite_of_noise() -> None:
    found = soaked(readings(hours=1, mb_per_hour=0.0, noise_mb=0.3), rps=200.0)
    assert (found.verdict, found.warm_s, round(found.resident_mb)) == ("yes", 300.0, 150)
    assert abs(found.slope_mb_per_hour) < 0.2


def test_an_hour_in_which_it_grows_is_not() -> None:
    found = soaked(readings(hours=1, mb_per_hour=4.0, noise_mb=0.3), rps=200.0)
    assert found.verdict == "NO"
    assert found.slope_mb_per_hour == pytest.approx(4.0, abs=0.2)


def test_growth_while_it_warms_up_does_not_count() -> None:
    warming = [Reading(second, (100 + second) * MB) for second in range(300)]
    steady = [Reading(300 + second, 400 * MB) for second in range(3301)]
    assert soaked([*warming, *steady], rps=200.0).verdict == "yes"


def test_a_minute_cannot_tell_a_slow_leak_and_says_which_it_could() -> None:
    found = soaked(readings(hours=1 / 60, mb_per_hour=20.0), rps=200.0)
    assert found.verdict == "not known"
    assert found.shows_mb_per_hour == pytest.approx(240.0)
    assert found.told() == (
        "+20.00 MB/h over 30 s at 200/s (0 of 0 answered), grown by +0.14 MB to 150 MB; flat: not known (a leak of 240 "
        "MB/h would have been seen)"
    )


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
    assert (found["digest"], code) == (bundle.digest, int(found["verdict"] == "NO"))
    assert found["soak"]["sent"] > 10
    assert (tmp_path / "soak.json").read_text() == f"{last}\n"


def test_a_soak_of_no_time_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--seconds", "0"])
    assert capsys.readouterr().err.endswith("error: --seconds, --rps and --bound-ms must be above 0\n")
