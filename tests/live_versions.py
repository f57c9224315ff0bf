"""Loaded versions of tiny models, and small tools for tests that put them in and out of service."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fakes import Clock, tiny_bundle

from serving.engine import Answer, Given
from serving.instances import Instances
from serving.models import Live, load
from serving.packing import Packing
from serving.registry import Resolved
from serving.tallies import Tally

WAIT_S = 10
GOOD, BAD = [("good",)], [("bad",)]


def loaded(path: Path, *, version: str = "1", name: str = "m", **options: Any) -> Live:
    """A tiny bundle made in `path` and loaded."""
    bundle = tiny_bundle(path, **options)
    return load(Resolved(path=path, name=name, version=version, digest=bundle.digest), threads=1)


def again(live: Live, *, version: str, clock: Clock | None = None, fault: Exception | None = None) -> Live:
    """The same model as another version, with nothing done yet; one with a `fault` fails on every request."""
    engine = Broken(live.engine, fault) if fault else live.engine
    return replace(live, engine=engine, version=version, tally=Tally(clock=clock) if clock else Tally())


class Broken(Instances):
    """Fails on everything since it was loaded."""

    def __init__(self, engine: Instances, fault: Exception) -> None:
        self.bundle, self.setting, self.together, self.fault = engine.bundle, engine.setting, 1, fault

    def answer_jobs(self, jobs: Sequence[Sequence[Given]], *, packing: Packing) -> list[Answer | Exception]:
        """The fault for each."""
        return [self.fault for _ in jobs]


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; fail where it does not come."""
    pause = threading.Event()
    for _ in range(WAIT_S * 100):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"it did not happen within {WAIT_S} s")
