"""How this process runs a bundle: as it is told, as a tuning that matches says, or by a short calibration at the start.

A sweep (`benchmarks.sweep`) offers requests as clients would and knows the bound on latency. The calibration knows
neither, so it compares settings at full use: all their executors ask without a pause, and what counts is how many
requests are answered a second. Whatever is chosen, one line of the log says what and why.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, Protocol

import msgspec

from serving.bundle import ONNX_CPU, Bundle, Item
from serving.cpu import ROOT, usable_threads
from serving.instances import open_instances
from serving.machine import available_bytes, machine_identity
from serving.tuning import EXECUTORS_PER_SESSION, Setting, WherePays, find_tuning, plain

GAIN: Final = 0.10  # more sessions cost memory and slow a lone request: they must be worth more than two runs differ by
SECONDS: Final = 2.0  # of a whole calibration, loading not counted
MOST_SESSIONS: Final = 8  # that a calibration loads; a sweep may find more worth it
COPIES: Final = 2  # a session holds its weights as they are and packed for its products
_log = logging.getLogger(__name__)


class Timed(NamedTuple):
    """One setting at full use: requests of one item answered a second, and the median time of one."""

    setting: Setting
    rps: float
    service_ms: float

    def told(self) -> str:
        return f"{self.setting.told()}: {self.rps:.4g} requests/s, {self.service_ms:.3g} ms each"


class Choice(NamedTuple):
    """A setting, and why it is this one."""

    setting: Setting
    why: str


class Answers(Protocol):
    """What is timed; serving.instances.Instances is one."""

    def answer(self, items: Sequence[Item]) -> object: ...


def where_pays(setting: Setting) -> Setting:
    """As `setting`, with items together where what calls cost says so; without a sweep nobody knows better."""
    return msgspec.structs.replace(setting, batch=WherePays())


def choose_setting(bundle: Bundle, *, threads: int | None, root: Path = ROOT) -> Setting:
    """The way to run `bundle` here. `threads` is what somebody told: then nothing else is asked."""
    if threads is not None:
        return _logged(bundle, Choice(where_pays(plain(threads)), "as told"))
    usable = usable_threads(root)
    if tuned := _tuned(bundle, usable, root):
        return _logged(bundle, tuned)
    chosen = _calibrated(bundle, usable, root)
    return _logged(bundle, chosen._replace(setting=where_pays(chosen.setting)))


def succeeding_setting(bundle: Bundle, *, threads: int | None, current: Setting, root: Path = ROOT) -> Setting:
    """The way to run a version that takes the place of the one in service: its own tuning within the executors there
    are, unless somebody told `threads`; else as `current`. Settings are not compared while requests are answered."""
    tuned = _tuned(bundle, usable_threads(root), root) if threads is None else None
    as_before = where_pays(current)  # what was measured of items together was measured of the version in service
    if tuned is None:
        return _logged(bundle, Choice(as_before, "as the version before it"))
    if not _keeps_busy(tuned.setting, executors=current.executors):
        why = f"as the version before it: {tuned.why} is for other executors than run; restart to use it"
        return _logged(bundle, Choice(as_before, why))
    return _logged(bundle, tuned._replace(setting=msgspec.structs.replace(tuned.setting, executors=current.executors)))


def candidates(threads: int, *, weights_bytes: int = 0, available: int | None = None) -> tuple[Setting, ...]:
    """One session of all `threads` first, then 2, 4 and so on of fewer each, as far as the `available` bytes reach."""
    counts = sorted(n for n in {2, 4, MOST_SESSIONS, threads} if 1 < n <= min(threads, MOST_SESSIONS))
    fits = [n for n in counts if _fits(n, weights_bytes=weights_bytes, available=available)]
    return plain(threads), *(Setting(sessions=n, threads=threads // n, executors=n) for n in fits)


def pick(timed: Sequence[Timed]) -> Timed:
    """The first, unless another answers GAIN more a second."""
    best = max(timed, key=lambda each: each.rps)
    return best if best.rps >= (1 + GAIN) * timed[0].rps else timed[0]


def time_setting(
    answers: Answers,
    items: Sequence[Item],
    *,
    setting: Setting,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Timed:
    """Every executor asks for one item after the other until `seconds` have passed; each asks once at least."""
    started = clock()

    def ask(first: int) -> list[float]:
        durations = []
        for item in islice(cycle(items), first, None):
            begun = clock()
            answers.answer([item])
            durations.append(clock() - begun)
            if clock() - started >= seconds:
                break
        return durations

    with ThreadPoolExecutor(setting.executors, thread_name_prefix="calibration") as pool:
        durations = [each for run in pool.map(ask, range(setting.executors)) for each in run]
    return Timed(setting, rps=len(durations) / (clock() - started), service_ms=median(durations) * 1e3)


def _tuned(bundle: Bundle, usable: int, root: Path) -> Choice | None:
    found = find_tuning(bundle.path, digest=bundle.digest, machine=machine_identity(root), threads=usable)
    for why in found.ignored:
        _log.warning("%s: %s", bundle.spec.name, why)
    if found.tuning is None:
        return None
    setting = found.tuning.setting
    if not _fits(setting.sessions, weights_bytes=_weights_bytes(bundle), available=available_bytes(root)):
        told = setting.told()
        _log.warning("%s: %s is ignored: memory is short for %s", bundle.spec.name, found.name, told)
        return None
    return Choice(setting, f"{found.name}: {found.tuning.told()}")


def _calibrated(bundle: Bundle, usable: int, root: Path) -> Choice:
    settings = candidates(usable, weights_bytes=_weights_bytes(bundle), available=available_bytes(root))
    if bundle.spec.providers != ONNX_CPU:
        return Choice(settings[0], f"{bundle.spec.providers[0]} computes; threads of the CPU decide little")
    if len(settings) == 1:
        return Choice(settings[0], "cores and memory allow no other")
    timed = [_timed(bundle, setting, seconds=SECONDS / len(settings)) for setting in settings]
    told = "; ".join(each.told() for each in timed)
    return Choice(pick(timed).setting, f"calibrated at the start, at full use: {told}")


def _timed(bundle: Bundle, setting: Setting, *, seconds: float) -> Timed:
    """The sessions are gone when this returns: no two settings lie in memory together."""
    instances = open_instances(bundle, setting=setting)
    return time_setting(instances, [tuple(i) for i in bundle.golden.items], setting=setting, seconds=seconds)


def _keeps_busy(setting: Setting, *, executors: int) -> bool:
    return setting.sessions <= executors <= EXECUTORS_PER_SESSION * setting.sessions


def _fits(sessions: int, *, weights_bytes: int, available: int | None) -> bool:
    """One session always: without it there is nothing to serve."""
    return sessions == 1 or available is None or sessions * weights_bytes * COPIES <= available


def _weights_bytes(bundle: Bundle) -> int:
    return (bundle.path / "model.onnx").stat().st_size


def _logged(bundle: Bundle, choice: Choice) -> Setting:
    _log.info("%s runs as %s (%s)", bundle.spec.name, choice.setting.told(), choice.why)
    return choice.setting
