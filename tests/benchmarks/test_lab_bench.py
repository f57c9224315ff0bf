"""The parts of the lab's own benchmark that decide: who is judged, what is counted, what a neighbour does."""

import json
import time
from pathlib import Path

import pytest
from fakes import tiny_bundle
from receipts import NOISE, measured, receipt

from benchmarks import lab_bench
from benchmarks.counters import read_counters
from benchmarks.lab_bench import Compared, counted, judged, neighbour, overhead_us
from benchmarks.machine import affinity
from benchmarks.receipt import Load


def one(part: str, verdict: str) -> Compared:
    return Compared(part, verdict, ratio=1.0, low=0.9, high=1.1, attempts=1, seconds=1.0, noise="", set_aside=0)


def test_verdicts_are_counted_by_part() -> None:
    found = [one("a/a", "PASS"), one("a/a", "PASS"), one("a/a", "INCONCLUSIVE"), one("slowed", "FAIL")]
    assert counted(found) == {
        "a/a": {"PASS": 2, "FAIL": 0, "INCONCLUSIVE": 1},
        "slowed": {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 0},
    }


def test_a_session_is_judged_as_a_gate_would() -> None:
    sides = [measured("one", ms=5.0), measured("other", ms=6.0)]
    found = judged("slowed", receipt(sides), "other")
    assert (found.verdict, round(found.ratio, 3)) == ("FAIL", 1.2)
    assert found.low <= found.ratio <= found.high
    assert judged("slowed", receipt(sides, findings=(NOISE,)), "other").verdict == "INCONCLUSIVE"


def test_the_loop_is_timed_with_steps_that_do_nothing() -> None:
    found = overhead_us(runs=2)
    assert 0 < found["in_a_figure"] < found["wall"]


def test_a_neighbour_keeps_a_core_busy_until_it_is_let_go() -> None:
    core = affinity()[:1]

    def busy_ms() -> int:
        counters = read_counters(core, clock=time.perf_counter_ns, cpu_clock=time.process_time_ns, root=Path("/"))
        assert counters.cores is not None
        return counters.cores.busy_ms

    with neighbour(core=core[0], busy_s=60.0, idle_s=0.0):
        deadline, before = time.monotonic() + 20, busy_ms()
        while busy_ms() < before + 500 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert busy_ms() >= before + 500


def test_what_was_measured_is_written_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_bundle(tmp_path / "model" / "bundle")
    texts = tmp_path / "texts.txt"
    texts.write_text("good bad fine dull\nbright awful fine\n\nfine fine dull bad good\n" * 5)
    monkeypatch.setattr(lab_bench, "Load", lambda: Load(lengths=(5,), n=20, processes=2, real=0, again_s=0.0))
    arguments = ["lab_bench", str(tmp_path / "model" / "bundle"), "--texts", str(texts), "--only", "default_benchmark"]
    monkeypatch.setattr("sys.argv", [*arguments, "--out", str(tmp_path / "lab.json")])
    lab_bench.main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    written = json.loads((tmp_path / "lab.json").read_text())
    assert told["default_benchmark"] == written["default_benchmark"]
    assert (told["verdicts"], written["default_benchmark"]["items"]) == ({}, 15)
    assert list(written["bundles"]) == ["model"]
