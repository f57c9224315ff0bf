"""benchmark: quality and latency of every variant at one target, from the files that ship; leaves the receipt, raw
samples and logits, the gate's figures, and as evidence what lies behind them (`diagnostics.json`)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from benchmarks.targets import SERVED, BundleTarget, OrtCpu
from pipeline.measuring import Noise, ServerConfig
from pipeline.naming import CHAMPION, HERE
from pipeline.records import Record
from pipeline.tuning import TuneConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.receipt import Load, Receipt
    from benchmarks.session import Variant
    from pipeline.graph import Inputs, Tools
    from pipeline.tasking.base import TaskData
    from pipeline.tasks import AnyTask

LONG, SHORT = 64, 16
TargetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$", max_length=30)]


class BenchmarkConfig(Record):
    """At each target a session: batch 1 at two input lengths and on texts as they come; pX needs samples * processes *
    (1 - X) >= 10. `first` is the target that rules without `at` speak of: the first one given, unless set. Where noise
    is found it is measured again for `again_s` seconds at most; what is left of it then leaves rules on times open, and
    the next run measures anew, unless `noise` says that it be recorded only. Older than `max_age_hours` it is measured
    anew too. `torch` is the teacher in PyTorch, what ONNX is worth without a student, measured in the first session
    alone. `server` is not asked unless set, nor is `tune`, which is for targets of kind ort-cpu."""

    targets: dict[TargetName, BundleTarget] = Field(default={HERE: OrtCpu()}, min_length=1)
    first: str = ""  # never empty once read: a mapping's order does not survive in keys
    torch: bool = True
    samples: int = Field(default=125, ge=10)
    real: int = Field(default=125, ge=0)
    processes: int = Field(default=8, ge=1)
    again_s: float = Field(default=45.0, ge=0)
    noise: Noise = "refuse"
    server: ServerConfig | None = None
    tune: TuneConfig | None = None
    max_age_hours: float = Field(default=24.0, gt=0)

    @field_validator("first")
    @classmethod
    def _is_a_target(cls, first: str, info: ValidationInfo) -> str:
        targets = info.data.get("targets")
        if targets is None:  # they are told to be wrong themselves
            return first
        if first and first not in targets:
            raise ValueError(f"there is no such target; targets are: {', '.join(targets)}")
        return first or next(iter(targets))

    @property
    def load(self) -> "Load":
        """What it asks a session for."""
        from benchmarks.receipt import Load

        return Load((SHORT, LONG), n=self.samples, processes=self.processes, real=self.real, again_s=self.again_s)

    @property
    def target(self) -> BundleTarget:
        """The first one, which is the only one of a step."""
        return self.targets[self.first]

    def each(self) -> "dict[str, BenchmarkConfig]":
        """Every target by name, the first one first, with the settings that its session has alone: what its key, and
        so its artifact, depends on."""
        names = (self.first, *(name for name in self.targets if name != self.first))
        return {name: self.model_copy(update=self._alone(name)) for name in names}

    def _alone(self, name: str) -> dict[str, Any]:
        target = self.targets[name]
        alone: dict[str, Any] = {"targets": {name: target}, "first": name, "torch": self.torch and name == self.first}
        return alone | ({} if target.kind == SERVED else {"tune": None})


def run(config: BenchmarkConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Measure the teacher (torch, ONNX), the students (ONNX fp32, int8) and the champion, where one is asked for and
    there is one, in one session on the test split; or say why this machine is not the target."""
    from pipeline import measuring, tuning
    from pipeline.progress import measured

    if why := config.target.missing():
        return measuring.skip(config.first, why, out, tools.reporter)
    task = inputs.sources["task"].task
    data = inputs.sources["task"].load(tools.cache, tools.progress)
    source = inputs.sources.get(CHAMPION)
    variants = measuring.variants(inputs.artifacts, config.target, task=task)
    champion = measuring.champion_variant(
        source, config.target, task=task, labels=data.label_names, length=LONG, cache=tools.cache
    )
    with measured(tools.reporter, label=tools.label, key=tools.key):
        receipt = _session(config, [*variants, *champion], task, data, out, tools)
        tuned = tuning.tune_candidates(
            config.tune,
            inputs.artifacts,
            config.target,
            config.first,
            texts=data.reported,
            out=out,
            reporter=tools.reporter,
        )
    return {
        **measuring.leave_figures(receipt, variants, champion, task=task, data=data, out=out),
        **measuring.circumstances(receipt, noise=config.noise),
        "champion": None if source is None else source.identity(tools.cache),
        "test_texts": len(data.test.items),
        "test_texts_also_in_train": data.overlap,
        **tuned,
    }


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
    with tools.reporter.bar(tools.label or "benchmark", total=total, unit="requests") as bar:
        return run_session(
            variants,
            items=data.reported,
            task=task.kind,
            out=out,
            load=load,
            target=config.first,
            serve=config.server.serve() if config.server else None,
            progress=lambda done, what: bar.advance(done, note=what),
        )
