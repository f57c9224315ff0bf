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

from pipeline.tracking.gpu_use import GpuUse
from pipeline.tracking.machine_use import MachineUse

HERE = Path(__file__).parent
EATS = "eaten = b'x' * 200_000_000; print('full', flush=True); input()"


def use_of(process: int, folder: Path = HERE) -> MachineUse:
    """Which says nothing."""
    said: list[str] = []
    found = MachineUse(process, folder, say=said.append)
    found.look()
    assert said == []
    return found


def test_all_but_the_run_s_own_memory_is_called_as_mlflow_s_monitors_call_it() -> None:
    modules = [import_module(f"{theirs.__name__}.{name}_monitor") for name in ("cpu", "disk", "network", "gpu")]
    said = "".join(Path(str(module.__file__)).read_text() for module in modules)
    looked = {name.removeprefix("system/") for name in use_of(os.getpid()).look()}
    ours = {re.sub(r"^gpu_\d+", "gpu_{i}", name) for name in looked}
    assert {name for name in ours if f'"{name}"' not in said} == {"process_tree_memory_megabytes"}


def test_children_count_and_are_gone_when_they_are_gone() -> None:
    use = use_of(os.getpid())
    before = use.look()["system/process_tree_memory_megabytes"]
    with subprocess.Popen([sys.executable, "-c", EATS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        during = use.look()["system/process_tree_memory_megabytes"]
        child.kill()
    assert during > before + 190
    assert use.look()["system/process_tree_memory_megabytes"] < before + 150


def test_shares_are_shares() -> None:
    found = use_of(os.getpid()).look()
    for name in ("cpu_utilization_percentage", "system_memory_usage_percentage", "disk_usage_percentage"):
        assert 0 <= found[f"system/{name}"] <= 100
    assert found["system/network_receive_megabytes"] >= 0


def test_a_process_that_has_ended_takes_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        use = use_of(child.pid)
    assert use.look()["system/process_tree_memory_megabytes"] == pytest.approx(0.0)


def test_the_disk_is_the_folder_s_own(tmp_path: Path) -> None:
    with or_absent(), small_disk(tmp_path / "other", size_kib=1000):
        (tmp_path / "other" / "file").write_bytes(bytes(256_000))
        found = use_of(os.getpid(), tmp_path / "other").look()
    assert found["system/disk_usage_megabytes"] == pytest.approx(0.256, abs=0.01)
    assert found["system/disk_available_megabytes"] == pytest.approx(0.768, abs=0.01)
    assert found["system/disk_usage_percentage"] == pytest.approx(25, abs=1)


@pytest.mark.parametrize("at", ["__init__", "look"])
def test_a_driver_that_answers_what_nobody_expects_costs_the_gpus_alone_and_is_said_once(
    monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def odd(_: GpuUse) -> dict[str, float]:
        raise TypeError("odd")

    monkeypatch.setattr(GpuUse, at, odd)
    said: list[str] = []
    use = MachineUse(os.getpid(), HERE, say=said.append)
    for _ in range(2):
        assert use.look()["system/process_tree_memory_megabytes"] > 10
    assert said == ["what the run takes of its GPUs is not told (TypeError: odd)"]


def test_without_nvidia_s_library_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    said: list[str] = []
    found = MachineUse(os.getpid(), HERE, say=said.append).look()
    assert found["system/process_tree_memory_megabytes"] > 10
    assert said == [
        "what the run takes of its GPUs is not told (ModuleNotFoundError: import of pynvml halted; None in sys.modules)"
    ]
