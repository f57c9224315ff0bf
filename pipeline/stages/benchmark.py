"""benchmark: quality and latency of every variant, from the files that ship; leaves the receipt, raw samples and
logits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import Field

from benchmarks.targets import OrtCpu
from pipeline.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.receipt import Receipt
    from benchmarks.session import Variant
    from pipeline.graph import Inputs, Tools
    from pipeline.quality import Score

LONG, SHORT = 64, 16


class BenchmarkConfig(Record):
    """Batch 1 at two real input lengths; p95 needs samples * processes >= 200. Older than `max_age_hours` it is
    measured again."""

    target: OrtCpu = OrtCpu()
    samples: int = Field(default=100, ge=10)
    processes: int = Field(default=3, ge=1)
    max_age_hours: float = Field(default=24.0, gt=0)


def run(config: BenchmarkConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Measure the teacher (torch, ONNX) and the student (ONNX fp32, int8) in one session on the test split."""
    from benchmarks import report
    from benchmarks.receipt import Load
    from benchmarks.session import Variant, run_session
    from benchmarks.targets import Torch
    from pipeline.artifact import write_json
    from serving.bundle import read_bundle

    view = inputs.sources["task"]
    data = view.load(tools.cache, tools.progress)
    max_length = read_bundle(inputs.artifacts["teacher-onnx-fp32"].path / "bundle").spec.max_length
    variants = [
        Variant(name, Torch(max_length=max_length, threads=config.target.threads), artifact.path)
        if name.endswith("-torch-fp32")
        else Variant(name, config.target, artifact.path / "bundle")
        for name, artifact in inputs.artifacts.items()
    ]
    load = Load(lengths=(SHORT, LONG), n=config.samples, processes=config.processes)
    total = load.requests(variants=len(variants), items=len(data.test.items))
    with tools.reporter.bar("benchmark", total=total, unit="requests") as bar:
        receipt = run_session(
            variants,
            items=data.test.items,
            out=out,
            load=load,
            progress=lambda done, what: bar.advance(done, note=what),
        )
    metric = view.task.metric_name
    scores = {v.name: _score(v.name, out, metric, data.test.labels) for v in variants}
    figures = report.figures(receipt, scores, metric=metric)
    write_json(out / "figures.json", figures)
    return {
        "rows": msgspec.to_builtins(report.build_rows(receipt, scores)),
        "figures": figures,
        "metric": metric,
        "against_teacher": _against_teacher(variants, out, metric, data.test.labels),
        "lengths": list(load.lengths),
        "samples": load.n * load.processes,
        "threads": receipt.how.threads,
        "test_texts": len(data.test.items),
        "test_texts_also_in_train": data.overlap,
        "steady": _steady(receipt),
        "disturbance": msgspec.to_builtins(receipt.disturbance),
    }


def _score(variant: str, out: Path, metric: str, labels: Any) -> "Score":
    from benchmarks.receipt import read_logits
    from pipeline import quality

    return quality.score(metric, quality.predictions(read_logits(out, variant)), labels)


def _against_teacher(variants: "Sequence[Variant]", out: Path, metric: str, labels: Any) -> dict[str, Any]:
    """Each variant's metric less that of the teacher's ONNX fp32, paired; for classes also how often the two agree."""
    from benchmarks.receipt import read_logits
    from benchmarks.report import BASELINE
    from pipeline import quality

    found = {v.name: quality.predictions(read_logits(out, v.name)) for v in variants}
    compared: dict[str, Any] = {}
    for name in found.keys() - {BASELINE}:
        difference = quality.paired_difference(metric, found[name], found[BASELINE], labels)
        compared[name] = {"difference": msgspec.to_builtins(difference)}
        if metric == "accuracy":
            compared[name]["agreement"] = msgspec.to_builtins(quality.agreement(found[name], found[BASELINE]))
    return compared


def _steady(receipt: "Receipt") -> bool:
    return all(warm.steady for v in receipt.variants for runs in v.warm_ups.values() for warm in runs)
