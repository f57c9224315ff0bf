"""CPU time and memory of a process and all that it started."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.serving.processes import PAGE_BYTES, TICKS, cpu_s, rss_bytes, tree

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "held = b'x' * 64_000_000; print(len(held), flush=True); input()"],
                         stdin=subprocess.PIPE)
input()
child.kill()
"""


def stat(root: Path, pid: int, *, parent: int, ticks: tuple[int, int], pages: int, name: str = "x") -> None:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    rest = ["S", parent, *[0] * 9, *ticks, *[0] * 8, pages, 0]
    (folder / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, rest))}\n")


def test_a_process_counts_with_its_children_and_theirs(tmp_path: Path) -> None:
    stat(tmp_path, 10, parent=1, ticks=(TICKS, TICKS), pages=100, name="a (b) c")
    stat(tmp_path, 11, parent=10, ticks=(0, TICKS), pages=20)
    stat(tmp_path, 12, parent=11, ticks=(3 * TICKS, 0), pages=3)
    stat(tmp_path, 13, parent=1, ticks=(100 * TICKS, 0), pages=1000)
    assert sorted(tree(10, root=tmp_path)) == [10, 11, 12]
    assert cpu_s(10, root=tmp_path) == 6.0
    assert rss_bytes(10, root=tmp_path) == 123 * PAGE_BYTES


def test_a_process_that_has_ended_takes_nothing(tmp_path: Path) -> None:
    assert (cpu_s(10, root=tmp_path), rss_bytes(10, root=tmp_path)) == (0.0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_real_child_holds_is_seen() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"64000000\n"
        assert len(tree(process.pid)) == 2
        assert rss_bytes(process.pid) > 64_000_000
        process.communicate(b"\n")
    time.sleep(0.05)
    assert rss_bytes(process.pid) == 0
