"""benchmark: quality and latency of every variant, from the files that ship; leaves receipt, samples and logits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import Field

from benchmarks.targets import OrtCpu
from pipeline.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.receipt import Load, Receipt
    from benchmarks.session import Variant
    from pipeline.graph import Inputs, Tools
    from pipeline.quality import Score
    from pipeline.tasking.base import Judged, TaskData
    from pipeline.tasking.fitted import Fitted
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
    from pipeline.artifact import write_json

    task = inputs.sources["task"].task
    data = inputs.sources["task"].load(tools.cache, tools.progress)
    load = Load(lengths=(SHORT, LONG), n=config.samples, processes=config.processes)
    variants = _variants(config, inputs, task)
    receipt = _session(load, variants, task, data, out, tools)
    judged = {v.name: _judged(v, out, task, data) for v in variants}
    metric = task.metrics[0]
    also = {name: {figure: _score(one) for figure, one in found.items()} for name, found in judged.items()}
    scores = {name: found.pop(metric) for name, found in also.items()}
    figures = report.figures(receipt, scores, metric=metric, others=also)
    write_json(out / "figures.json", figures)
    return {
        "rows": msgspec.to_builtins(report.build_rows(receipt, scores)),
        "figures": figures,
        "metric": metric,
        "also": msgspec.to_builtins(also),
        "against_teacher": _against_teacher(
            {name: each[metric] for name, each in judged.items()}, numeric=task.numeric
        ),
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


def _said_of(variant: "Variant") -> "tuple[Fitted, int]":
    """What a variant answers in, and where it cuts texts: of a bundle what it says itself."""
    from benchmarks.targets import Torch
    from pipeline.tasking.fitted import fitted_of, read_fitted
    from serving.bundle import read_bundle

    if isinstance(variant.target, Torch):
        return read_fitted(variant.path), variant.target.max_length
    spec = read_bundle(variant.path).spec
    return fitted_of(spec), spec.max_length


def _judged(variant: "Variant", out: Path, task: "AnyTask", data: "TaskData") -> "dict[str, Judged]":
    """A variant's answers by what its own folder says of labels and thresholds, and by its own tokenizer."""
    from tokenizers import Tokenizer

    from benchmarks.receipt import read_logits
    from pipeline.quality import require_finite

    outputs = read_logits(out, variant.name)
    require_finite(outputs)
    fitted, max_length = _said_of(variant)
    places = task.places(data.test, Tokenizer.from_file(str(variant.path / "tokenizer.json")), max_length=max_length)
    return task.judged(outputs, data, fitted, places)


def _score(judged: "Judged") -> "Score":
    from pipeline import quality

    return quality.score(judged.metric, judged.answers, judged.labels)


def _against_teacher(judged: "Mapping[str, Judged]", *, numeric: bool) -> dict[str, Any]:
    """Each variant's metric less that of the teacher's ONNX fp32, paired; where answers are no numbers, also how often
    they are the same."""
    from benchmarks.report import BASELINE
    from pipeline import quality

    theirs = judged[BASELINE]
    compared: dict[str, Any] = {}
    for name in judged.keys() - {BASELINE}:
        mine = judged[name]
        difference = quality.paired_difference(mine.metric, mine.answers, theirs.answers, mine.labels)
        compared[name] = {"difference": msgspec.to_builtins(difference)}
        if not numeric:
            compared[name]["agreement"] = msgspec.to_builtins(quality.agreement(mine.answers, theirs.answers))
    return compared
