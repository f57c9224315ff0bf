"""How much memory a process holds."""

import re
import resource
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """Resident memory in MB: the high-water mark since exec (getrusage's would include the parent's from before it),
    and what is resident now."""

    peak_mb: float
    rss_mb: float


def memory(status: Path = Path("/proc/self/status")) -> Memory:
    """This process's; by one reading, so that the mark is never below what is resident."""
    if not status.is_file():
        mark = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes, and knows the mark alone
        return Memory(mark, mark)
    found = dict(re.findall(r"^(VmHWM|VmRSS):\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE))
    return Memory(*(int(found.get(name, 0)) * 1024 / 1e6 for name in ("VmHWM", "VmRSS")))
