"""What a config asks for that can only fail, refused before anything runs: an hour of training is a bad way to learn
it."""

from pathlib import Path

from pipeline.config import RunConfig
from pipeline.encoders.teachers import positions_in
from pipeline.errors import BadRequest
from pipeline.gates import MEASURED, TASK_METRICS, parse_rules
from pipeline.graph import VARIANTS
from pipeline.stages import distill
from pipeline.stages.benchmark import LONG
from serving.cpu import affinity_cores

P95_NEEDS = 200  # ten samples beyond the 95th percentile


def check(config: RunConfig, *, cache: Path) -> None:
    """Raise BadRequest for the first thing in `config` that cannot work; reads config.json of a local teacher only."""
    distill.check(config.distill, config.teacher, cache=cache)
    _check_lengths(config, cache=cache)
    _check_benchmark(config)
    _check_gate(config)


def _check_lengths(config: RunConfig, *, cache: Path) -> None:
    asked = {"distill.max_length": config.distill.max_length, "finetune.max_length": config.finetune.max_length}
    if config.finetune.max_length < LONG:
        raise BadRequest(
            f"finetune.max_length: {config.finetune.max_length}, but latency is measured at {LONG} tokens; "
            f"set {LONG} or more"
        )
    if config.teacher.is_local():
        most = positions_in(config.teacher.folder(cache))
        for name, length in asked.items():
            if length > most:
                raise BadRequest(
                    f"{name}: {length}, but the teacher has positions for {most} tokens; set {most} or less"
                )


def _check_benchmark(config: RunConfig) -> None:
    if not config.task.data.has("test"):
        raise BadRequest("the task's data names no test split, and the benchmark reports on it: add one")
    samples = config.benchmark.samples * config.benchmark.processes
    if samples < P95_NEEDS:
        raise BadRequest(
            f"benchmark: {config.benchmark.samples} samples in {config.benchmark.processes} processes make {samples}; "
            f"a p95 needs {P95_NEEDS}, and the gate chooses by it: raise benchmark.samples"
        )
    threads = config.benchmark.target.threads
    if threads is not None and threads > affinity_cores():
        raise BadRequest(
            f"benchmark.target.threads: {threads}, but this process may run on {affinity_cores()} cores; set fewer"
        )


def _check_gate(config: RunConfig) -> None:
    known = {config.task.metric_name, *MEASURED}
    for rule in parse_rules(config.register.gate):
        metric = rule.metric.removesuffix("_low").removesuffix("_high")
        if metric not in known:
            kind = "is no metric of this task" if metric in TASK_METRICS else "is not measured"
            raise BadRequest(f"register.gate: {rule.text!r}: {metric} {kind}; known here: {', '.join(sorted(known))}")
        if rule.baseline is not None and rule.baseline not in VARIANTS:
            raise BadRequest(
                f"register.gate: {rule.text!r}: there is no variant {rule.baseline!r}; a baseline is 'teacher' or "
                f"one of {', '.join(VARIANTS)}"
            )
