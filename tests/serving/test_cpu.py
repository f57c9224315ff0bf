import os
import sys
import threading
from pathlib import Path

import pytest

from serving.cpu import affinity_cores, cgroup_quota_cores, cpu_features, stand_back, standing_back, usable_threads
from serving.errors import BadArtifact


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/host/path/unseen\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/pod/box/cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/box\n",
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_the_tightest_quota_from_the_process_up_is_found(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    assert cgroup_quota_cores(write(tmp_path, files)) == cores


def test_threads_are_whole_cores_of_the_quota_and_at_least_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    quota = write(tmp_path, {"proc/self/cgroup": "0::/\n"}) / "sys/fs/cgroup/cpu.max"
    quota.parent.mkdir(parents=True)
    found = {}
    for text in ("max 100000", "50000 100000", "390000 100000", "1600000 100000"):
        quota.write_text(text)
        found[text] = usable_threads(tmp_path)
    assert found == {"max 100000": 8, "50000 100000": 1, "390000 100000": 3, "1600000 100000": 8}


def test_affinity_is_what_the_scheduler_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert affinity_cores() == 3


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is the process's elsewhere")
def test_a_thread_that_stands_back_does_so_alone_and_once() -> None:
    found = []

    def work() -> None:
        for _ in range(2):
            stand_back()
            found.append(niceness())

    mine = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [min(mine + 10, 19)] * 2
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is the process's elsewhere")
def test_what_is_called_standing_back_and_what_it_starts_give_way_and_the_caller_does_not() -> None:
    found: list[int] = []

    def work() -> str:
        thread = threading.Thread(target=lambda: found.append(niceness()))
        thread.start()
        thread.join()
        found.append(niceness())
        return "done"

    mine = niceness()
    assert standing_back(work) == "done"
    assert (found, niceness()) == ([min(mine + 10, 19)] * 2, mine)


def test_what_fails_standing_back_fails_for_its_caller() -> None:
    def work() -> None:
        raise BadArtifact("no")

    with pytest.raises(BadArtifact, match="no"):
        standing_back(work)


def test_where_niceness_may_not_be_changed_all_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbidden)
    stand_back()


@pytest.mark.parametrize(
    ("text", "features"),
    [
        (
            "processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor : 1\nflags : other\n",
            {"fpu", "avx2", "avx512_vnni"},
        ),
        ("processor : 0\nFeatures\t: fp asimd asimddp\n", {"fp", "asimd", "asimddp"}),
        ("processor : 0\n", set()),
    ],
)
def test_cpu_features_are_read_for_both_architectures(tmp_path: Path, text: str, features: set[str]) -> None:
    assert cpu_features(write(tmp_path, {"proc/cpuinfo": text})) == features


def test_a_system_without_cpuinfo_has_no_known_features(tmp_path: Path) -> None:
    assert cpu_features(tmp_path) == set()
