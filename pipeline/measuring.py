"""Around the measuring session of the benchmark stage: the server scenario that is asked for, its variants and
the champion as one more, a target that this machine is not, what the session leaves and what is said of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from pydantic import Field

from pipeline.naming import CHAMPION
from pipeline.records import Record

if TYPE_CHECKING:
    from benchmarks.receipt import Receipt
    from benchmarks.session import Serve, Variant
    from benchmarks.targets import Target
    from pipeline.artifact import Artifact
    from pipeline.champion import Champion
    from pipeline.judging import Behind
    from pipeline.progress import Reporter
    from pipeline.quality import Score
    from pipeline.tasking.base import TaskData
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


def variants(artifacts: "Mapping[str, Artifact]", target: "Target", *, task: "AnyTask") -> "list[Variant]":
    """Every artifact of a benchmark's inputs at the target; the teacher in PyTorch cuts long texts as its bundle
    does."""
    from benchmarks.session import Variant
    from benchmarks.targets import Torch
    from serving.bundle import read_bundle

    max_length = read_bundle(artifacts["teacher-onnx-fp32"].path / "bundle").spec.max_length
    torch = Torch(task=task.kind, max_length=max_length, threads=target.threads)
    return [
        Variant(name, torch, artifact.path)
        if name.endswith("-torch-fp32")
        else Variant(name, target, artifact.path / "bundle")
        for name, artifact in artifacts.items()
    ]


def champion_variant(
    source: "Champion | None",
    target: "Target",
    *,
    task: "AnyTask",
    labels: tuple[str, ...],
    length: int,
    cache: Path,
) -> "list[Variant]":
    """Nothing where the gate compares with no champion, or there is none yet; `labels` are the names of the data's.

    Raises:
        BadRequest: it cannot be measured beside this run's variants.
    """
    from benchmarks.session import Variant

    if source is None:
        return []
    found = source.rival(cache, task=task.kind, texts_per_item=task.texts_per_item, labels=labels, length=length)
    return [] if found is None else [Variant(CHAMPION, target, found.path)]


def skip(target: str, why: str, out: Path, reporter: "Reporter") -> dict[str, Any]:
    """The facts of a session that could not be held, since this machine is not its target: `why` says what it needs.
    There is no receipt, so nothing can be judged by it."""
    from pipeline.artifact import write_json

    reporter.line(f"{target} is skipped: it needs {why}")
    write_json(out / "skipped.json", {"target": target, "needs": why})
    return {"target": target, "skipped": f"it needs {why}", "disturbed": {}}


def leave_figures(
    receipt: "Receipt",
    own: "Sequence[Variant]",
    champion: "Sequence[Variant]",
    *,
    task: "AnyTask",
    data: "TaskData",
    out: Path,
) -> dict[str, Any]:
    """Judge what the run's own variants and the champion answered; write the gate's figures and what lies behind
    them. The facts."""
    from benchmarks import report
    from benchmarks.figures import merged, timed_figures
    from pipeline import judging
    from pipeline.artifact import EVIDENCE, write_json

    answered = {v.name: judging.answered(v, out, task, data) for v in (*own, *champion)}
    metric = task.metrics[0]
    also = {name: judging.scores(each) for name, each in answered.items()}
    behind = judging.behind({v.name: answered[v.name] for v in own}, task, data.label_names)
    rivals = {v.name: judging.rival(answered[v.name], answered[report.BASELINE], task) for v in champion}
    others = {
        name: found | _compared(behind.get(name), rivals.get(name), task, n=found[metric].n)
        for name, found in also.items()
    }
    scores = {name: found.pop(metric) for name, found in also.items()}
    baselines = {name for name in answered if name.endswith(judging.FP32) or name == CHAMPION}
    figures = merged(
        report.figures(receipt, scores, metric=metric, others=others),
        timed_figures(receipt, baselines=baselines),
    )
    write_json(out / "figures.json", figures)
    write_json(out / EVIDENCE / "diagnostics.json", behind)
    return {
        "rows": msgspec.to_builtins(report.build_rows(receipt, scores)),
        "figures": figures,
        "metric": metric,
        "also": msgspec.to_builtins(also),
        **judging.facts_of(behind),
    }


def _compared(own: "Behind | None", rival: "Behind | None", task: "AnyTask", *, n: int) -> "dict[str, Score]":
    """What is known of a variant beside others: of the run's own against its fp32, of the champion less."""
    from pipeline import judging

    if own is not None:
        return judging.gate_scores(own, task, n=n) | agreement(own, task, n=n)
    assert rival is not None, "what answered is the run's own or the champion"
    return agreement(rival, task, n=n) | ({"ece": rival.ece} if rival.ece is not None else {})


def circumstances(receipt: "Receipt", *, noise: Noise) -> dict[str, Any]:
    """How it was measured, what noise there was, and by target what makes its times unfit for a verdict."""
    load = receipt.how.load
    return {
        "target": receipt.target,
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
