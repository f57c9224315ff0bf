"""Find the best way to run a bundle on this machine, and leave it where the server looks: what `retort tune` does.

Every setting of the sweep (sweep.py) is loaded in a process of its own and offered requests in an open loop. The winner
goes to `tuning@TARGET.json` beside the bundle's core, where a server on the same kind of machine finds it; the bundle's
digest does not change.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks.children import run_child
from benchmarks.machine import affinity, read
from benchmarks.openloop.engine import EngineJob
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import ServerResult
from benchmarks.openloop.scenarios import QUEUE
from benchmarks.sweep import LeftOut, Measure, Tell, sweep, winner
from serving.bundle import Bundle, Item, read_bundle
from serving.cpu import usable_threads
from serving.engine import Engine
from serving.errors import BadRequest
from serving.instances import require_invariance
from serving.machine import machine_identity
from serving.tuning import Earned, Setting, Together, Tuning, tuning_file, write_tuning

if TYPE_CHECKING:
    from rich.table import Table

STEP_SEAL: Final = "manifest.json"
PLAN: Final = Plan(bound_ms=25.0, seconds=3.0, steps=8)


def tune(
    bundle: Path,
    requests: Sequence[Sequence[Item]],
    *,
    plan: Plan = PLAN,
    target: str = "here",
    out: Path | None = None,
    queue: int = QUEUE,
    threads: int | None = None,
    tell: Tell = lambda _: None,
    left_out: LeftOut = lambda _setting, _why: None,
) -> Tuning:
    """Sweep `bundle` here with `requests` in turn, each setting in a process of its own with at most `threads` (None:
    all), and write the tuning into `out` (None: the bundle's folder). `left_out` is told whose process died.

    Raises:
        BadRequest: no requests, or such as the bundle does not answer; no such plan, target's name, or `out`; no
            setting keeps the bound.
        BadArtifact: not a bundle, or not fit for this machine; or the tuning cannot be written.
        Failure: every setting's process died.
    """
    _require_sweep(requests, plan, target)
    _require_place(bundle, out)
    started, sealed = datetime.now(UTC).isoformat(timespec="seconds"), read_bundle(bundle)
    _require_answered(sealed, requests)
    measure, items = _in_processes(sealed, requests, plan=plan, queue=queue), max(map(len, requests))
    earned = sweep(threads or usable_threads(), measure, items_per_request=items, tell=tell, left_out=left_out)
    found = Tuning(
        bundle=sealed.digest,
        machine=machine_identity(),
        target=target,
        started=started,
        bound_ms=plan.bound_ms,
        percent=plan.percent,
        libraries=read().libraries,
        setting=winner(earned, plan=plan).setting,
        earned=earned,
    )
    write_tuning(found, out or bundle)
    return found


def _require_sweep(requests: Sequence[Sequence[Item]], plan: Plan, target: str) -> None:
    """What can be said before the bundle is opened."""
    if not requests or not all(requests):
        raise BadRequest(f"a sweep needs requests of one item or more: got {len(requests)}; give it texts")
    plan.require()
    tuning_file(target)


def _require_place(bundle: Path, out: Path | None) -> None:
    """A step's artifact is sealed whole, what lies beside the bundle's core included; another folder is made."""
    folder = out or bundle
    if any((each / STEP_SEAL).is_file() for each in (folder, folder.resolve().parent)):
        raise BadRequest(
            f"{folder} is part of a sealed step, which one file more would break; copy the bundle and sweep the copy, "
            "or name another folder with --out"
        )
    if out is not None:
        _make(out)


def _require_answered(bundle: Bundle, requests: Sequence[Sequence[Item]]) -> None:
    """A request that fails counts as one that broke the bound, so that the search would blame the bound for it."""
    wanted = bundle.spec.texts_per_item
    for item in (item for request in requests for item in request if len(item) != wanted):
        way_out = "give lines of two texts with a tab between" if wanted > 1 else "give lines without a tab"
        raise BadRequest(f"{item[0][:40]!r} is of an item of {len(item)} text(s), the bundle takes {wanted}: {way_out}")
    try:
        Engine(bundle, threads=1).answer(requests[0])
    except BadRequest as error:
        raise BadRequest(f"the first request is not answered: {error}; give it texts as are served") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"--out {folder} cannot be made ({error.strerror}); name another folder") from error


def _in_processes(bundle: Bundle, requests: Sequence[Sequence[Item]], *, plan: Plan, queue: int) -> Measure:
    """The search for one setting begins at half of what the one before it earned: settings are not that far apart."""
    start_rps = plan.start_rps

    def measure(setting: Setting) -> ServerResult:
        nonlocal start_rps
        if isinstance(setting.batch, Together):
            require_invariance(Engine(bundle, threads=1), most=setting.batch.items)
        job = EngineJob(
            variant=setting.told(),
            path=str(bundle.path.resolve()),
            setting=setting,
            requests=tuple(tuple(request) for request in requests),
            plan=msgspec.structs.replace(plan, start_rps=start_rps),
            queue=queue,
            cores=affinity(),
        )
        module = "benchmarks.openloop.engine"
        result = run_child(job, result_type=ServerResult, threads=1, tell=lambda _: None, module=module)
        start_rps = max(plan.start_rps, (result.best_rps or 0.0) / 2)
        return result

    return measure


def read_requests(texts: Path, *, items: int) -> tuple[tuple[Item, ...], ...]:
    """The lines of a file, of pairs two texts with a tab between, as requests of `items` each; what is left over at the
    end is dropped.

    Raises:
        BadRequest: no such file, not UTF-8, or too few lines for one request.
    """
    if not texts.is_file():
        raise BadRequest(f"{texts} is no file; name one with a text a line")
    try:
        written = texts.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{texts} is not UTF-8 from byte {error.start} on; write it in UTF-8") from error
    lines = [tuple(line.split("\t")) for line in written.splitlines() if line.strip()]
    if items < 1 or len(lines) < items:
        raise BadRequest(f"{texts} has {len(lines)} texts, too few for a request of {items}; add texts")
    return tuple(tuple(lines[at : at + items]) for at in range(0, len(lines) - items + 1, items))


def told(earned: Earned) -> str:
    """One setting in a line."""
    return f"{earned.setting.told()}: {_rates(earned)} requests/s"


def told_left_out(setting: Setting, why: Exception) -> str:
    """One that was not measured, in a line or, with the last lines of its process, several."""
    return f"{setting.told()}: left out: {why}"


def build_table(tuning: Tuning) -> "Table":
    """Every setting that was measured, for people, in the order of what it earned."""
    from rich import box
    from rich.table import Table

    title = f"requests/s within p{tuning.percent} <= {tuning.bound_ms:g} ms; finalists were measured twice"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in ("sessions", "threads", "executors", "requests/s"):
        table.add_column(heading, justify="right")
    table.add_column("items")
    for earned in sorted(tuning.earned, key=lambda each: -each.rps):
        setting = earned.setting
        counts = (str(count) for count in (setting.sessions, setting.threads, setting.executors))
        mark = "chosen" if setting == tuning.setting else ""
        table.add_row(mark, *counts, _rates(earned), setting.batch.told())
    return table


def _rates(earned: Earned) -> str:
    return ", ".join("none" if best is None else f"{best:.4g}" for best in earned.best_rps)
