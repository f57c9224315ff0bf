"""What the benchmark stage and `retort bench` share around a measuring session: the server scenario that is asked for,
the champion as one variant more, what is said of a session, and agreement with the teacher."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from pydantic import Field

from pipeline.gate_rules import CHAMPION
from pipeline.records import Record

if TYPE_CHECKING:
    from benchmarks.receipt import Receipt
    from benchmarks.session import Serve, Variant
    from benchmarks.targets import Target
    from pipeline.champion import Champion
    from pipeline.judging import Behind
    from pipeline.quality import Score
    from pipeline.tasks import AnyTask

# What noise that measuring again did not get rid of does to rules on times: they stay open, or are judged all the same.
Noise = Literal["refuse", "record"]


class ServerConfig(Record):
    """Find the highest rate of requests, one text each, whose `percent` keeps `bound_ms` from the time a request was
    due, from `start_rps` on. `http` asks the real server, and takes a core for the one who asks."""

    scenario: Literal["engine", "http"] = "engine"
    bound_ms: float = Field(gt=0)
    percent: Literal[50, 90, 99] = 99
    start_rps: float = Field(default=50.0, gt=0)

    def serve(self) -> "Serve":
        """What a session calls for each variant.

        Raises:
            BadRequest: this cannot be measured here.
        """
        from benchmarks.openloop.plan import Plan
        from benchmarks.served_load import server_scenario

        plan = Plan(bound_ms=self.bound_ms, percent=self.percent, start_rps=self.start_rps)
        return server_scenario(self.scenario, plan)


def champion_variant(
    source: "Champion | None", target: "Target", *, task: "AnyTask", length: int, cache: Path
) -> "list[Variant]":
    """Nothing where the gate compares with no champion, or there is none yet.

    Raises:
        BadRequest: it cannot be measured beside this run's variants.
    """
    from benchmarks.session import Variant

    if source is None:
        return []
    found = source.rival(cache, task=task.kind, texts_per_item=task.texts_per_item, length=length)
    return [] if found is None else [Variant(CHAMPION, target, found.path)]


def circumstances(receipt: "Receipt", *, noise: Noise) -> dict[str, Any]:
    """How it was measured, what noise there was, and by target what makes its times unfit for a verdict."""
    load = receipt.how.load
    return {
        "lengths": list(load.lengths),
        "samples": load.n * load.processes,
        "threads": receipt.how.threads,
        "steady": all(warm.steady for v in receipt.variants for runs in v.warm_ups.values() for warm in runs),
        "disturbance": msgspec.to_builtins(receipt.disturbance),
        "noise": receipt.disturbed,
        "disturbed": {receipt.target: receipt.disturbed} if receipt.disturbed and noise == "refuse" else {},
        "attempts": receipt.attempts,
    }


def agreement(each: "Behind", task: "AnyTask", *, n: int) -> "dict[str, Score]":
    """The share of n items answered as the teacher does; nothing where answers are numbers, which are never quite the
    same."""
    from pipeline.quality import Score

    if task.numeric:
        return {}
    flips = each.against_teacher.flips if each.against_teacher is not None else Score("flips", 0.0, 0.0, 0.0, n)
    assert flips is not None, "answers that are no numbers are compared"
    return {"agreement": Score("agreement", value=1 - flips.value, low=1 - flips.high, high=1 - flips.low, n=n)}
