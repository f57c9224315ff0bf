"""The driver's library is asked for real; where there is no driver, its answers are those of a device that is told."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.system_metrics.metrics as theirs
import pynvml
import pytest

from pipeline.tracking.gpu_use import GpuUse


def gpus_here() -> int:
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device, of which the driver tells this."""
    answers: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": "device",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=2_000_000_000, total=8_000_000_000),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37),
        "nvmlDeviceGetPowerUsage": 350_000,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)


def test_there_are_as_many_gpus_as_the_driver_knows() -> None:
    found = {name.split("_")[1] for name in GpuUse().look()}
    assert len(found) == gpus_here()


@pytest.mark.usefixtures("device")
def test_a_gpu_is_told_as_mlflow_s_monitor_calls_it() -> None:
    found = GpuUse().look()
    assert found == {
        "system/gpu_0_memory_usage_megabytes": 2000.0,
        "system/gpu_0_memory_usage_percentage": 25.0,
        "system/gpu_0_utilization_percentage": 37.0,
        "system/gpu_0_power_usage_watts": 350.0,
        "system/gpu_0_power_usage_percentage": 50.0,
    }
    said = Path(str(import_module(f"{theirs.__name__}.gpu_monitor").__file__)).read_text()
    assert all(name.replace("system/gpu_0_", "gpu_{i}_") in said for name in found)


@pytest.mark.usefixtures("device")
def test_what_a_device_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(_: Any) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", unsupported)
    assert sorted(GpuUse().look()) == [
        "system/gpu_0_memory_usage_megabytes",
        "system/gpu_0_memory_usage_percentage",
        "system/gpu_0_utilization_percentage",
    ]


@pytest.mark.usefixtures("device")
def test_a_share_of_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: SimpleNamespace(used=0, total=0))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", lambda _: 0)
    assert GpuUse().look() == {"system/gpu_0_utilization_percentage": 37.0, "system/gpu_0_power_usage_watts": 350.0}


@pytest.mark.usefixtures("device")
def test_the_power_of_a_device_that_has_no_limit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(_: Any) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", unsupported)
    found = GpuUse().look()
    assert found["system/gpu_0_power_usage_watts"] == 350.0
    assert "system/gpu_0_power_usage_percentage" not in found


@pytest.mark.usefixtures("device")
def test_one_device_that_cannot_be_had_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(index: int) -> str:
        if index == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return "device"

    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    assert {name.split("_")[1] for name in GpuUse().look()} == {"1", "2"}
