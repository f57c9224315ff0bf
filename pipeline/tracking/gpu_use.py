"""What the machine's GPUs are at, under the names that MLflow's pages know; nothing where there are none."""

from collections.abc import Callable
from typing import Any, Final

MEGA: Final = 1e6


class GpuUse:
    """Looks at every GPU that NVIDIA's driver knows and gives. What a device does not tell is left out.

    Raises:
        ImportError: there is no nvidia-ml-py.
    """

    def __init__(self) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError:  # no driver, or none that this process may ask
            count = 0
        found = {index: _told(pynvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)}
        self._devices = {index: device for index, device in found.items() if device is not None}

    def look(self) -> dict[str, float]:
        """One look: some hundred microseconds a device."""
        return {
            f"system/gpu_{index}_{name}": value
            for index, device in self._devices.items()
            for name, value in (_memory(device) | _busy(device) | _power(device)).items()
        }


def _told(question: Callable[[Any], Any], of: Any) -> Any | None:
    """The driver's answer; None where it has none."""
    import pynvml

    try:
        return question(of)
    except pynvml.NVMLError:
        return None


def _memory(device: Any) -> dict[str, float]:
    import pynvml

    memory = _told(pynvml.nvmlDeviceGetMemoryInfo, device)
    if memory is None or not memory.total:  # a GPU that was divided tells none of its own
        return {}
    share = memory.used / memory.total * 100
    return {"memory_usage_megabytes": memory.used / MEGA, "memory_usage_percentage": share}


def _busy(device: Any) -> dict[str, float]:
    import pynvml

    rates = _told(pynvml.nvmlDeviceGetUtilizationRates, device)
    return {} if rates is None else {"utilization_percentage": float(rates.gpu)}


def _power(device: Any) -> dict[str, float]:
    import pynvml

    used = _told(pynvml.nvmlDeviceGetPowerUsage, device)
    if used is None:
        return {}
    limit = _told(pynvml.nvmlDeviceGetEnforcedPowerLimit, device)
    share = {"power_usage_percentage": used / limit * 100} if limit else {}
    return {"power_usage_watts": used / 1000} | share
