"""What the machine's GPUs are at, under the names that MLflow's pages know; nothing where there are none."""

from typing import Any, Final

MEGA: Final = 1e6


class GpuUse:
    """Looks at every GPU that NVIDIA's driver knows. What a device does not tell is left out."""

    def __init__(self) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
            self._devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:  # no driver, or none that this process may ask
            self._devices = []

    def look(self) -> dict[str, float]:
        """One look: some hundred microseconds a device."""
        return {
            f"system/gpu_{index}_{name}": value
            for index, device in enumerate(self._devices)
            for name, value in (_memory(device) | _busy(device) | _power(device)).items()
        }


def _memory(device: Any) -> dict[str, float]:
    import pynvml

    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(device)
    except pynvml.NVMLError:
        return {}
    share = memory.used / memory.total * 100
    return {"memory_usage_megabytes": memory.used / MEGA, "memory_usage_percentage": share}


def _busy(device: Any) -> dict[str, float]:
    import pynvml

    try:
        return {"utilization_percentage": float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)}
    except pynvml.NVMLError:
        return {}


def _power(device: Any) -> dict[str, float]:
    import pynvml

    try:
        used, limit = pynvml.nvmlDeviceGetPowerUsage(device), pynvml.nvmlDeviceGetEnforcedPowerLimit(device)
    except pynvml.NVMLError:
        return {}
    return {"power_usage_watts": used / 1000, "power_usage_percentage": used / limit * 100}
