"""What a run takes of its machine, under the names that MLflow's pages know."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pipeline.tracking.gpu_use import GpuUse

MEGA: Final = 1e6


class MachineUse:
    """Looks at the machine, its GPUs, the disk that has a folder, and a process with all its children; the share of the
    CPU is since the look before. `say` is told once what keeps it from looking at GPUs."""

    def __init__(self, process: int, folder: Path, *, say: Callable[[str], None]) -> None:
        import psutil

        self._folder, self._say = folder, say
        self._gpus: GpuUse | None = None
        self._said = False
        self._root = psutil.Process(process)
        self._network = psutil.net_io_counters()
        psutil.cpu_percent()

    def look(self) -> dict[str, float]:
        """One look: microseconds to some milliseconds.

        Raises:
            OSError: the folder is gone.
        """
        import psutil

        memory, network = psutil.virtual_memory(), psutil.net_io_counters()
        disk = psutil.disk_usage(str(self._folder))
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MEGA,
            "system/system_memory_usage_percentage": memory.used / memory.total * 100,
            "system/process_tree_memory_megabytes": sum(self._resident()) / MEGA,
            "system/disk_usage_megabytes": disk.used / MEGA,
            "system/disk_usage_percentage": disk.percent,
            "system/disk_available_megabytes": disk.free / MEGA,
            "system/network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / MEGA,
            "system/network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / MEGA,
        } | self._gpu_look()

    def _gpu_look(self) -> dict[str, float]:
        try:
            self._gpus = self._gpus or GpuUse()
            return self._gpus.look()
        except Exception as error:  # noqa: BLE001  (a driver's library may answer anything, and GPUs alone are lost)
            if not self._said:
                self._said = True
                self._say(f"what the run takes of its GPUs is not told ({type(error).__name__}: {error})")
            return {}

    def _resident(self) -> Iterator[int]:
        """Of each process of the tree; one that has just ended counts for nothing."""
        import psutil

        try:
            tree: list[Any] = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in tree:
            try:
                yield process.memory_info().rss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
