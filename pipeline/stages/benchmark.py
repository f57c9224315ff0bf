"""benchmark: quality and latency of every variant, from the files that ship; leaves the receipt, raw samples and
logits, the gate's figures, and as evidence what lies behind them (`diagnostics.json`)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import Field

from benchmarks.targets import OrtCpu
from pipeline.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.receipt import Load, Receipt
    from benchmarks.session import Variant
    from pipeline.graph import Inputs, Tools
    from pipeline.tasking.base import TaskData
    from pipeline.tasks import AnyTask

LONG, SHORT = 64, 16


class BenchmarkConfig(Record):
    """Batch 1 at two real input lengths; p95 needs samples * processes >= 200. Older than `max_age_hours` it is
    measured again. `torch` is the teacher in PyTorch too, what ONNX is worth without a student."""

    target: OrtCpu = OrtCpu()
    torch: bool = True
    samples: int = Field(default=100, ge=10)
    processes: int = Field(default=3, ge=1)
    max_age_hours: float = Field(default=24.0, gt=0)


def run(config: BenchmarkConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Measure the teacher (torch, ONNX) and the student (ONNX fp32, int8) in one session on the test split."""
    from benchmarks import report
    from benchmarks.receipt import Load
    from pipeline import judging
    from pipeline.artifact import EVIDENCE, write_json

    task = inputs.sources["task"].task
    data = inputs.sources["task"].load(tools.cache, tools.progress)
    load = Load(lengths=(SHORT, LONG), n=config.samples, processes=config.processes)
    variants = _variants(config, inputs, task)
    receipt = _session(load, variants, task, data, out, tools)
    answered = {v.name: judging.answered(v, out, task, data) for v in variants}
    metric = task.metrics[0]
    also = {name: judging.scores(each) for name, each in answered.items()}
    behind = judging.behind(answered, task, data.label_names)
    others = {
        name: {**also[name], **judging.gate_scores(each, task, n=also[name][metric].n)} for name, each in behind.items()
    }
    scores = {name: found.pop(metric) for name, found in also.items()}
    figures = report.figures(receipt, scores, metric=metric, others=others)
    write_json(out / "figures.json", figures)
    write_json(out / EVIDENCE / "diagnostics.json", behind)
    return {
        "rows": msgspec.to_builtins(report.build_rows(receipt, scores)),
        "figures": figures,
        "metric": metric,
        "also": msgspec.to_builtins(also),
        **judging.facts_of(behind),
        "lengths": list(load.lengths),
        "samples": load.n * load.processes,
        "threads": receipt.how.threads,
        "test_texts": len(data.test.items),
        "test_texts_also_in_train": data.overlap,
        "steady": all(warm.steady for v in receipt.variants for runs in v.warm_ups.values() for warm in runs),
        "disturbance": msgspec.to_builtins(receipt.disturbance),
    }


def _variants(config: BenchmarkConfig, inputs: "Inputs", task: "AnyTask") -> "list[Variant]":
    from benchmarks.session import Variant
    from benchmarks.targets import Torch
    from serving.bundle import read_bundle

    max_length = read_bundle(inputs.artifacts["teacher-onnx-fp32"].path / "bundle").spec.max_length
    torch = Torch(task=task.kind, max_length=max_length, threads=config.target.threads)
    return [
        Variant(name, torch, artifact.path)
        if name.endswith("-torch-fp32")
        else Variant(name, config.target, artifact.path / "bundle")
        for name, artifact in inputs.artifacts.items()
    ]


def _session(
    load: "Load", variants: "Sequence[Variant]", task: "AnyTask", data: "TaskData", out: Path, tools: "Tools"
) -> "Receipt":
    from benchmarks.session import run_session

    total = load.requests(variants=len(variants), items=len(data.reported))
    with tools.reporter.bar("benchmark", total=total, unit="requests") as bar:
        return run_session(
            variants,
            items=data.reported,
            task=task.kind,
            out=out,
            load=load,
            progress=lambda done, what: bar.advance(done, note=what),
        )
