"""How a process that serves, or is measured as one, has Python behave once everything is loaded."""

import gc
import sys
from typing import Final

SWITCH_S: Final = 0.0005
_COLLECT_AFTER: Final = (10_000, 20, 50)  # objects, and then so many of the smaller collections


def settle_down() -> None:
    """What was loaded stays: looking at it again takes the collector tens of milliseconds, in which nobody is answered;
    what requests leave behind is little, and takes it well under one. And an executor that is in Python lets the loop
    go on after SWITCH_S; Python's own 5 ms would be longer than many an answer takes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    sys.setswitchinterval(SWITCH_S)
