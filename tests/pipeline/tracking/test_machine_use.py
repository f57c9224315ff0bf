"""What a run takes of its machine, as MLflow's own monitor calls it."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import mlflow.system_metrics.metrics as theirs
import pytest
from registries import or_absent, small_disk

from pipeline.tracking.machine_use import MachineUse

HERE = Path(__file__).parent
EATS = "eaten = b'x' * 200_000_000; print('full', flush=True); input()"


def test_all_but_the_run_s_own_memory_is_called_as_mlflow_s_monitors_call_it() -> None:
    modules = [import_module(f"{theirs.__name__}.{name}_monitor") for name in ("cpu", "disk", "network", "gpu")]
    said = "".join(Path(str(module.__file__)).read_text() for module in modules)
    looked = {name.removeprefix("system/") for name in MachineUse(os.getpid(), HERE).look()}
    ours = {re.sub(r"^gpu_\d+", "gpu_{i}", name) for name in looked}
    assert {name for name in ours if f'"{name}"' not in said} == {"process_tree_memory_megabytes"}


def test_children_count_and_are_gone_when_they_are_gone() -> None:
    use = MachineUse(os.getpid(), HERE)
    before = use.look()["system/process_tree_memory_megabytes"]
    with subprocess.Popen([sys.executable, "-c", EATS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        during = use.look()["system/process_tree_memory_megabytes"]
        child.kill()
    assert during > before + 190
    assert use.look()["system/process_tree_memory_megabytes"] < before + 150


def test_shares_are_shares() -> None:
    found = MachineUse(os.getpid(), HERE).look()
    for name in ("cpu_utilization_percentage", "system_memory_usage_percentage", "disk_usage_percentage"):
        assert 0 <= found[f"system/{name}"] <= 100
    assert found["system/network_receive_megabytes"] >= 0


def test_a_process_that_has_ended_takes_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        use = MachineUse(child.pid, HERE)
    assert use.look()["system/process_tree_memory_megabytes"] == pytest.approx(0.0)


def test_the_disk_is_the_folder_s_own(tmp_path: Path) -> None:
    with or_absent(), small_disk(tmp_path / "other", size_kib=1000):
        (tmp_path / "other" / "file").write_bytes(bytes(256_000))
        found = MachineUse(os.getpid(), tmp_path / "other").look()
    assert found["system/disk_usage_megabytes"] == pytest.approx(0.256, abs=0.01)
    assert found["system/disk_available_megabytes"] == pytest.approx(0.768, abs=0.01)
    assert found["system/disk_usage_percentage"] == pytest.approx(25, abs=1)
