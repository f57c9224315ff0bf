"""Staying on some cores: times of a process that wanders between them are not reported."""

import os
from collections.abc import Sequence

from serving.errors import BadRequest


def pin(cores: Sequence[int]) -> None:
    """Stay on these cores; libraries that are opened later size their pools and inherit the affinity. Where the system
    knows no affinity nothing is done, and the receipt says so.

    Raises:
        BadRequest: this process may not be pinned.
    """
    if not cores or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise BadRequest(
            f"cannot pin to core {', '.join(map(str, cores))} (sched_setaffinity: {error.strerror}), and times of a "
            "process that wanders between cores are not reported: allow that system call (in a container: its seccomp "
            "profile), or measure where it is allowed"
        ) from error


def unpinned() -> tuple[str, ...]:
    """What a receipt says where the system knows no affinity."""
    told = "processes cannot be pinned to cores here: they may have wandered"
    return () if hasattr(os, "sched_setaffinity") else (told,)
