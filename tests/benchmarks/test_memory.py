"""Memory as the system tells it."""

from pathlib import Path

from benchmarks.memory import Memory, memory


def test_memory_is_the_process_s_own_high_water_mark_and_what_is_resident(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t 9 kB\nVmHWM:\t  250000 kB\nVmRSS:\t 125000 kB\n")
    assert memory(status) == Memory(peak_mb=256.0, rss_mb=128.0)


def test_where_nothing_is_told_but_the_mark_it_stands_for_both(tmp_path: Path) -> None:
    found = memory(tmp_path / "absent")
    assert found.peak_mb == found.rss_mb > 0


def test_this_process_holds_some() -> None:
    found = memory()
    assert found.peak_mb >= found.rss_mb > 10
