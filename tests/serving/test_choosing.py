"""How a server comes to its setting: told, tuned, calibrated; and what the log says of it."""

import logging
from pathlib import Path

import msgspec
import pytest
from fakes import Clock, tiny_bundle, tuning_of

from serving import choosing
from serving.bundle import Bundle
from serving.choosing import Timed, candidates, choose_setting, pick, succeeding_setting, time_setting, where_pays
from serving.machine import machine_identity
from serving.tuning import Setting, Together, plain, write_tuning

TWO = Setting(sessions=2, threads=1, executors=2)
WIDE = plain(2)
GIB = 2**30


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of two cores with enough memory."""
    root = tmp_path / "machine"
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemAvailable: 8388608 kB\n")
    monkeypatch.setattr(choosing, "usable_threads", lambda _root: 2)
    return root


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def tune(bundle: Bundle, root: Path, setting: Setting = TWO, **changes: object) -> None:
    write_tuning(tuning_of(bundle, setting, **{"machine": machine_identity(root), **changes}), bundle.path)


def times(monkeypatch: pytest.MonkeyPatch, rps: dict[Setting, float]) -> list[float]:
    """Calibration finds these; the seconds that it gave to each."""
    given: list[float] = []

    def timed(_bundle: Bundle, setting: Setting, *, seconds: float) -> Timed:
        given.append(seconds)
        return Timed(setting, rps=rps[setting], service_ms=1e3 * setting.executors / rps[setting])

    monkeypatch.setattr(choosing, "_timed", timed)
    return given


def refuses_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, {})  # any setting is a KeyError


def test_told_threads_are_one_session_and_nothing_else_is_asked(
    bundle: Bundle, machine: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses_to_time(monkeypatch)
    tune(bundle, machine)
    assert choose_setting(bundle, threads=2, root=machine) == where_pays(WIDE)
    assert log.messages == ["tiny runs as 1 session of 2 threads, 2 executors, items together where it pays (as told)"]


def test_a_tuning_of_this_machine_is_followed_without_a_calibration(
    bundle: Bundle, machine: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses_to_time(monkeypatch)
    tune(bundle, machine)
    assert choose_setting(bundle, threads=None, root=machine) == TWO
    assert log.messages == [
        "tiny runs as 2 sessions of 1 thread, 2 executors, each item alone (tuning@here.json: 812 requests/s within "
        "p99 <= 20 ms, 2026-11-21T10:00:00+00:00)"
    ]


def test_a_foreign_tuning_is_ignored_with_the_reason_and_the_server_calibrates(
    bundle: Bundle, machine: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = times(monkeypatch, {WIDE: 500.0, TWO: 400.0})
    tune(bundle, machine, machine="Other CPU")
    assert choose_setting(bundle, threads=None, root=machine) == where_pays(WIDE)
    assert given == [1.0, 1.0]
    assert log.record_tuples[0][1:] == (
        logging.WARNING,
        "tiny: tuning@here.json is ignored: it was earned on another machine (Other CPU; this is "
        f"{machine_identity(machine)})",
    )
    assert log.messages[1:] == [
        "tiny runs as 1 session of 2 threads, 2 executors, items together where it pays (calibrated at the start, at "
        "full use: 1 session of 2 threads, 2 executors, each item alone: 500 requests/s, 4 ms each; "
        "2 sessions of 1 thread, 2 executors, each item alone: 400 requests/s, 5 ms each)"
    ]


def test_a_tuned_setting_that_memory_does_not_hold_is_ignored(
    bundle: Bundle, machine: Path, log: pytest.LogCaptureFixture
) -> None:
    tune(bundle, machine)
    (machine / "proc/meminfo").write_text("MemAvailable: 1 kB\n")
    assert choose_setting(bundle, threads=None, root=machine) == where_pays(WIDE)
    assert log.messages == [
        "tiny: tuning@here.json is ignored: memory is short for 2 sessions of 1 thread, 2 executors, each item alone",
        "tiny runs as 1 session of 2 threads, 2 executors, items together where it pays (cores and memory allow "
        "no other)",
    ]


def test_on_one_core_there_is_nothing_to_calibrate(
    bundle: Bundle, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses_to_time(monkeypatch)
    monkeypatch.setattr(choosing, "usable_threads", lambda _root: 1)
    assert choose_setting(bundle, threads=None, root=machine) == where_pays(Setting())


def test_what_a_gpu_computes_is_not_calibrated(
    tmp_path: Path, machine: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses_to_time(monkeypatch)
    bundle = tiny_bundle(tmp_path / "gpu", providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert choose_setting(bundle, threads=None, root=machine) == where_pays(WIDE)
    assert log.messages[0].endswith("(CUDAExecutionProvider computes; threads of the CPU decide little)")


def test_a_calibration_really_times_the_bundle_here(
    bundle: Bundle, machine: Path, log: pytest.LogCaptureFixture
) -> None:
    chosen = choose_setting(bundle, threads=None, root=machine)
    assert chosen in (where_pays(WIDE), where_pays(TWO))
    (told,) = log.messages
    assert told.startswith(f"tiny runs as {chosen.told()} (calibrated at the start, at full use: ")
    assert told.count(" requests/s, ") == 2


@pytest.mark.parametrize(
    ("threads", "sessions"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (64, [1, 2, 4, 8])],
)
def test_candidates_split_all_cores(threads: int, sessions: list[int]) -> None:
    found = candidates(threads)
    assert found[0] == plain(threads)
    assert [each.sessions for each in found] == sessions
    assert all(each.sessions * each.threads <= threads for each in found)
    assert all(each.executors == each.sessions for each in found[1:])


def test_candidates_stop_where_memory_does() -> None:
    found = candidates(8, weights_bytes=GIB, available=7 * GIB)
    assert [each.sessions for each in found] == [1, 2]
    assert [each.sessions for each in candidates(8, weights_bytes=GIB, available=0)] == [1]


def test_more_sessions_must_be_worth_more_than_noise() -> None:
    one = Timed(WIDE, rps=500.0, service_ms=4.0)
    assert pick([one, Timed(TWO, rps=549.0, service_ms=3.6)]) == one
    better = Timed(TWO, rps=551.0, service_ms=3.6)
    assert pick([one, better]) == better


class Ticking:
    """Every answer takes so long on a clock that nobody else moves."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds, self.asked = clock, seconds, []

    def answer(self, items: object) -> None:
        self.asked.append(items)
        self.clock.advance(self.seconds)


def test_a_setting_is_timed_until_its_seconds_are_over() -> None:
    clock = Clock()
    answers = Ticking(clock, 0.125)
    timed = time_setting(answers, [("a",), ("b",)], setting=Setting(), seconds=0.5, clock=clock)
    assert timed == Timed(Setting(), rps=8.0, service_ms=125.0)
    assert answers.asked == [[("a",)], [("b",)]] * 2


def test_a_slow_model_is_asked_once_by_every_executor() -> None:
    clock = Clock()
    answers = Ticking(clock, 8.0)
    timed = time_setting(answers, [("a",), ("b",)], setting=TWO, seconds=0.5, clock=clock)
    assert len(answers.asked) == 2
    assert timed.rps == 2 / 16


def test_a_version_that_follows_without_a_tuning_runs_as_the_one_before(
    bundle: Bundle, machine: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses_to_time(monkeypatch)
    current = msgspec.structs.replace(TWO, batch=Together(items=4))
    assert succeeding_setting(bundle, threads=None, current=current, root=machine) == where_pays(TWO)
    assert log.messages == [
        "tiny runs as 2 sessions of 1 thread, 2 executors, items together where it pays (as the version before it)"
    ]


def test_a_version_that_follows_brings_its_own_tuning_to_the_executors_there_are(bundle: Bundle, machine: Path) -> None:
    tune(bundle, machine, setting=msgspec.structs.replace(TWO, executors=4))
    assert succeeding_setting(bundle, threads=None, current=plain(2), root=machine) == TWO


def test_told_threads_hold_for_every_version(bundle: Bundle, machine: Path) -> None:
    tune(bundle, machine)
    assert succeeding_setting(bundle, threads=2, current=WIDE, root=machine) == where_pays(WIDE)


def test_a_tuning_for_other_executors_than_run_waits_for_a_restart(
    bundle: Bundle, machine: Path, log: pytest.LogCaptureFixture
) -> None:
    tune(bundle, machine)
    assert succeeding_setting(bundle, threads=None, current=Setting(), root=machine) == where_pays(Setting())
    assert log.messages == [
        "tiny runs as 1 session of 1 thread, 1 executor, items together where it pays (as the version before it: "
        "tuning@here.json: 812 requests/s within p99 <= 20 ms, 2026-11-21T10:00:00+00:00 is for other executors than "
        "run; restart to use it)"
    ]
