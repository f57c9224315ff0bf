"""Many calls at the same moment, and what came of each."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from threading import Barrier
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a call gave, or why it did not, and how long it took."""

    value: T | None
    failed: str
    seconds: float


def all_at_once(calls: Sequence[Callable[[], T]], *, expected: type[Exception]) -> list[Answer[T]]:
    """Let a thread each make the calls, all begun together; failures that are not `expected` are raised."""
    barrier = Barrier(len(calls))

    def one(call: Callable[[], T]) -> Answer[T]:
        barrier.wait()
        start = time.perf_counter()
        try:
            value = call()
        except expected as error:
            return Answer(None, str(error), time.perf_counter() - start)
        return Answer(value, "", time.perf_counter() - start)

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(one, calls))


def counted(
    answers: Sequence[Answer[str]], wanted: Sequence[Mapping[str, str]], kept: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """What came of registrations, each of which gave a version or failed: `wanted` are the tags of each, `kept` those
    that the registry has, by version. Two that were given the same version are one lost."""
    made = {each.value: tags for each, tags in zip(answers, wanted, strict=True) if each.value is not None}
    failed, took = [each.failed for each in answers if each.value is None], [each.seconds for each in answers]
    return {
        "asked": len(answers),
        "failed": failed,
        "lost": len(answers) - len(failed) - len(made.keys() & kept.keys()),
        "incomplete": sum(not made[number].items() <= kept[number].items() for number in made.keys() & kept.keys()),
        "surplus": len(kept.keys() - made.keys()),
        "seconds": round(max(took), 3),
        "median_s": round(median(took), 3),
    }


def lost_of(found: Mapping[str, Any]) -> list[str]:
    """What is not as it should be of `counted`, a sentence each."""
    faults = {name: found[name] for name in ("failed", "lost", "incomplete", "surplus") if found[name]}
    return [f"of {found['asked']} registrations at once {name}: {fault}" for name, fault in faults.items()]
