"""What a config asks of its benchmark and of its gate that can only fail; `check_measured` also knows this machine."""

from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

from benchmarks.targets import SERVED
from pipeline.config import RunConfig
from pipeline.errors import BadRequest
from pipeline.gates import (
    COMPARED,
    MEASURED,
    SEARCHED,
    TASK_METRICS,
    Rule,
    parse_rules,
    require_measurable,
    require_targets,
)
from pipeline.graph import Step, variants_of
from pipeline.naming import CHAMPION
from pipeline.stages.benchmark import BenchmarkConfig
from serving.cpu import affinity_cores

P95_NEEDS = 200  # ten samples beyond the 95th percentile


def check_benchmark(config: RunConfig) -> None:
    """Raise BadRequest where there is nothing to report on, too little to choose by, or a target that cannot be used
    as it is asked for."""
    if not config.task.data.has("test"):
        raise BadRequest("the task's data names no test split, and the benchmark reports on it: add one")
    outside = config.task.refusal.data if config.task.kind == "classification" and config.task.refusal else None
    if outside is not None and not outside.has("test"):
        raise BadRequest("task.refusal.data names no test split, and only that is read of it: add one")
    samples = config.benchmark.samples * config.benchmark.processes
    if samples < P95_NEEDS:
        raise BadRequest(
            f"benchmark: {config.benchmark.samples} samples in {config.benchmark.processes} processes make {samples}; "
            f"a p95 needs {P95_NEEDS}, and the gate chooses by it: raise benchmark.samples"
        )
    _check_targets(config)


def _check_targets(config: RunConfig) -> None:
    for name, target in config.benchmark.targets.items():
        if target.threads is not None and target.threads > affinity_cores():
            raise BadRequest(
                f"benchmark.targets.{name}.threads: {target.threads}, but this process may run on {affinity_cores()} "
                "cores; set fewer"
            )
        if target.kind == "ort-cuda" and config.quantize.variant.endswith("-int8"):
            raise BadRequest(
                f"benchmark.targets.{name}: ort-cuda computes nothing in int8, and quantize.kind "
                f"{config.quantize.kind!r} makes a variant of it; quantize by fp16 or fp32, or take the target out"
            )

    if config.benchmark.tune is not None and all(each.tune is None for each in config.benchmark.each().values()):
        raise BadRequest(
            "benchmark.tune: the server runs bundles as at a target of kind ort-cpu, and benchmark.targets has none: "
            "add one, or leave tune out"
        )


def check_gate(config: RunConfig) -> None:
    """Raise BadRequest for a rule that names what nobody measures."""
    answered = () if config.task.numeric else ("agreement",)  # numbers are never quite the same
    known = {*config.task.figures, *MEASURED} - {*COMPARED} | {*config.task.compared, *answered}
    rules = parse_rules(config.register.gate)
    _check_measurable(config, rules)
    for rule in rules:
        if rule.figure not in known:
            kind = "is no metric of this task" if rule.figure in (*TASK_METRICS, *COMPARED) else "is not measured"
            raise BadRequest(
                f"register.gate: {rule.text!r}: {rule.figure} {kind}; known here: {', '.join(sorted(known))}"
            )
        _check_served(config, rule)
        variants = variants_of(config, rule.target)
        if rule.baseline not in (None, CHAMPION, *variants):
            where = f" at {rule.target}" if rule.target else ""
            raise BadRequest(
                f"register.gate: {rule.text!r}: there is no variant {rule.baseline!r}{where}; a baseline is 'teacher' "
                f"or one of {', '.join(variants)}"
            )


def _check_served(config: RunConfig, rule: Rule) -> None:
    """A rate under load is measured where a bound is set, of what the server runs."""
    if rule.figure not in SEARCHED:
        return
    asked, target = config.benchmark, rule.target or config.benchmark.first
    if asked.server is None:
        raise BadRequest(
            f"register.gate: {rule.text!r}: {rule.figure} is measured under a bound on latency, and none is set: set "
            "benchmark.server.bound_ms, or take the rule out"
        )
    if asked.targets[target].kind != SERVED:
        served = [name for name, each in asked.targets.items() if each.kind == SERVED]
        way_out = f"ask at {' or '.join(served)}" if served else "add one to benchmark.targets, or take the rule out"
        raise BadRequest(
            f"register.gate: {rule.text!r}: the server runs bundles as at a target of kind {SERVED}, and {target!r} is "
            f"of kind {asked.targets[target].kind}: {way_out}"
        )


def _check_measurable(config: RunConfig, rules: Sequence[Rule]) -> None:
    asked = config.benchmark
    try:
        require_targets(rules, asked.each())
        n, real = asked.samples * asked.processes, asked.real * asked.processes
        require_measurable(rules, n=n, real=real, processes=asked.processes)
    except BadRequest as error:
        raise BadRequest(f"register.gate: {error}") from error


def check_measured(config: RunConfig, steps: Iterable[Step]) -> None:
    """Raise BadRequest where the benchmark's `steps` would be run here and could not be, or would be skipped while the
    gate asks for their figures. A machine that only runs other stages need not be a target."""
    sessions = [step.config for step in steps if isinstance(step.config, BenchmarkConfig)]
    for session in sessions:
        if why := session.target.missing():
            _require_unasked(config, session.first, f"which is {session.target.kind} and needs {why}")
    if sessions and config.quantize.kind == "fp16" and not _is_installed("onnxruntime-gpu"):
        raise BadRequest(
            "quantize.kind: fp16 is for CUDA, and the benchmark would measure it here, without onnxruntime-gpu; make "
            "the bundle alone with `retort stage quantize`, or choose another recipe"
        )


def _require_unasked(config: RunConfig, target: str, needs: str) -> None:
    """Nobody reads the figures of a target that is to be skipped."""
    first = config.benchmark.first
    asking = [repr(rule.text) for rule in parse_rules(config.register.gate) if (rule.target or first) == target]
    if target == first:
        way_out = "make another target the first one (benchmark.first)"
        asking.append("the choice of the fastest variant")
    else:
        way_out = "take the rule out"
    if asking:
        raise BadRequest(
            f"register.gate: {asking[0]} asks for figures at {target!r}, {needs}; run it on such a machine, or "
            f"{way_out}"
        )


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
