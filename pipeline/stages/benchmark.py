"""benchmark: quality and latency of every variant, from the files that ship; leaves the receipt, raw samples and
logits, the gate's figures, and as evidence what lies behind them (`diagnostics.json`)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import Field

from benchmarks.targets import OrtCpu
from pipeline.gate_rules import CHAMPION
from pipeline.measuring import Noise, ServerConfig
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
    """Batch 1 at two input lengths and on texts as they come; pX needs samples * processes * (1 - X) >= 10. Where noise
    is found it is measured again for `again_s` seconds at most; what is left of it then leaves rules on times open, and
    the next run measures anew, unless `noise` says that it be recorded only. Older than `max_age_hours` it is measured
    anew too. `torch` is the teacher in PyTorch, what ONNX is worth without a student. `server` is not asked unless set.
    """

    target: OrtCpu = OrtCpu()
    torch: bool = True
    samples: int = Field(default=100, ge=10)
    real: int = Field(default=200, ge=0)
    processes: int = Field(default=5, ge=1)
    again_s: float = Field(default=60.0, ge=0)
    noise: Noise = "refuse"
    server: ServerConfig | None = None
    max_age_hours: float = Field(default=24.0, gt=0)

    @property
    def load(self) -> "Load":
        """What it asks a session for."""
        from benchmarks.receipt import Load

        return Load((SHORT, LONG), n=self.samples, processes=self.processes, real=self.real, again_s=self.again_s)


def run(config: BenchmarkConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Measure the teacher (torch, ONNX), the students (ONNX fp32, int8) and the champion, where one is asked for and
    there is one, in one session on the test split."""
    from benchmarks import report
    from benchmarks.figures import merged, timed_figures
    from pipeline import judging, measuring
    from pipeline.artifact import EVIDENCE, write_json

    task = inputs.sources["task"].task
    data = inputs.sources["task"].load(tools.cache, tools.progress)
    variants, source = _variants(config, inputs, task), inputs.sources.get(CHAMPION)
    champion = measuring.champion_variant(source, config.target, task=task, length=LONG, cache=tools.cache)
    measured = [*variants, *champion]
    receipt = _session(config, measured, task, data, out, tools)
    answered = {v.name: judging.answered(v, out, task, data) for v in measured}
    metric = task.metrics[0]
    also = {name: judging.scores(each) for name, each in answered.items()}
    behind = judging.behind({v.name: answered[v.name] for v in variants}, task, data.label_names)
    others = {name: dict(found) for name, found in also.items()}
    for name, each in behind.items():
        n = also[name][metric].n
        others[name] |= judging.gate_scores(each, task, n=n) | measuring.agreement(each, task, n=n)
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
        **measuring.circumstances(receipt, noise=config.noise),
        "champion": None if source is None else source.identity(tools.cache),
        "test_texts": len(data.test.items),
        "test_texts_also_in_train": data.overlap,
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
    config: BenchmarkConfig,
    variants: "Sequence[Variant]",
    task: "AnyTask",
    data: "TaskData",
    out: Path,
    tools: "Tools",
) -> "Receipt":
    from benchmarks.session import run_session

    load = config.load
    total = load.requests(variants=len(variants), items=len(data.reported))
    with tools.reporter.bar("benchmark", total=total, unit="requests") as bar:
        return run_session(
            variants,
            items=data.reported,
            task=task.kind,
            out=out,
            load=load,
            serve=config.server.serve() if config.server else None,
            progress=lambda done, what: bar.advance(done, note=what),
        )
