"""What a run's record says of the run itself, beside its steps (recorded.py), and what it lacks where a process ended
before it could say all."""

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from pipeline.artifact import Artifact
from pipeline.errors import Failure
from pipeline.events import PARENT, Event, Files, Opened, Params
from pipeline.naming import BENCHMARK
from pipeline.recorded import LINEAGE, origin_tags
from pipeline.sharing import shareable
from pipeline.telling import write_told
from pipeline.told_before import FINISHED, ToldBefore

if TYPE_CHECKING:
    from pipeline.graph import Step
    from pipeline.outbox_session import OutboxSession

REGISTER: Final = "register"
KILLED: Final = "KILLED"
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
UNDRAWN: Final = (Failure, OSError, ValueError, ArithmeticError, LookupError, msgspec.MsgspecError)


class Done(NamedTuple):
    """A step, what it made, and the digests of what it read."""

    step: "Step"
    artifact: Artifact
    digests: Mapping[str, str]


DoneSteps = dict[str, Done]


def opening(name: str, config: Mapping[str, Any], done: DoneSteps) -> Iterator[Event]:
    """A run begins, or goes on."""
    yield Opened(of=PARENT, name=name, tags=origin_tags() | {"retort.name": name} | lineage(done))
    yield Params(of=PARENT, values=shareable(config))


def lineage(done: DoneSteps) -> dict[str, str]:
    """The digest of each step's artifact."""
    return {f"{LINEAGE}{label}": each.artifact.digest for label, each in done.items()}


def unsaid(before: ToldBefore, done: DoneSteps) -> list[Done]:
    """The steps that a process made and ended before it could say so."""
    return [each for label, each in done.items() if before.lacks(label, each.artifact)]


def measured(before: ToldBefore, done: DoneSteps, finished: Collection[str] = ()) -> list[Done]:
    """The measuring sessions of a run, in whichever of its processes: those that have a page."""
    return [
        each
        for label, each in done.items()
        if each.step.stage == BENCHMARK and not each.artifact.manifest.facts.get("skipped")
        if label in finished or before.knows(label, each.artifact)
    ]


def end_of(before: ToldBefore, done: DoneSteps, labels: Collection[str]) -> str | None:
    """How a run ends that had nothing to do and goes on in what was told before; None where nothing is missing there.
    Where some steps are left, and one of them was cut short, it ends as it did."""
    late = {each.step.label for each in unsaid(before, done)}
    whole = len(done) == len(labels)
    told = before.ended.get(PARENT, KILLED)
    if not whole and not late.issuperset(before.cut):
        return told if late else None
    if whole and before.steps == steps_of(done, labels):
        paged = before.pages.issuperset(each.step.label for each in measured(before, done))
    else:
        paged = not whole
    return None if not late and told == FINISHED and paged else FINISHED


def pages(
    name: str,
    shown: Iterable[Done],
    done: DoneSteps,
    *,
    session: "OutboxSession",
    say: Callable[[str], None],
) -> Iterator[Event]:
    """The page about each measuring session; one that cannot be made is said so, and one that there is no room for is
    lacked."""
    register = done[REGISTER].artifact if REGISTER in done else None
    for each in shown:
        try:
            with TemporaryDirectory(dir=session.folder) as place:
                files = write_told(name, each.artifact, register, Path(place))
                kept = session.take({path.name: path for path in files})
        except UNDRAWN as error:
            if isinstance(error, OSError) and error.errno in FULL:
                session.lack_a_page(error)
            else:
                say(f"tracking: the page about {each.step.label} cannot be made ({error}); the run is told without it")
            continue
        yield Files(of=PARENT, folder=kept, to=each.step.label)


def steps_of(done: DoneSteps, labels: Collection[str]) -> str:
    """How many of a run's steps are done."""
    return f"{len(done)} of {len(labels)}"
