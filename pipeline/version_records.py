"""What is known of a version: the records that its card and its bill of materials are written from."""

import msgspec

from pipeline.gates import Verdict
from pipeline.licences import Licence
from pipeline.origins import Origin
from serving.bundle import ServingSpec


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value with the ends of its 95 % interval, where it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One series of a variant: end to end, batch 1, milliseconds; percentiles that n is too small for are not there."""

    what: str
    n: int
    processes: int
    percentiles: dict[str, Figure]


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measuring session of the variant: where, when, and what came out. `noise` says why its times settle nothing,
    `figures` are all those of the variant and `teacher` those of the baseline."""

    target: str
    started: str
    cpu_model: str
    cores: int
    quota_cores: float | None
    memory_mb: int
    threads: int
    providers: tuple[str, ...]
    libraries: dict[str, str]
    python: str
    noise: str
    receipt: str
    times: tuple[Times, ...]
    figures: dict[str, Figure]
    teacher: dict[str, Figure]


class StepFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one artifact on the way was earned."""

    label: str
    stage: str
    key: str
    digest: str
    commit: str
    dirty: bool
    finished_at: str
    seconds: float
    versions: dict[str, str]


class Parity(msgspec.Struct, frozen=True):
    """How far the fp32 graph was from PyTorch (exporting.py)."""

    texts: int
    max_abs_difference: float
    labels_differ: int


class VersionFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version. `alias` names the version of its model that is in service, `origins` are of what it was made from, by
    role; `sizes` texts by split, `also_in_train` those of the reported split, `cut` the share of a split's texts that
    were longer than the model reads; `sessions` begins with the one that the gate's rules speak of, and `metrics` names
    the task's figures in them, the first one first."""

    name: str
    alias: str
    variant: str
    digest: str
    spec: ServingSpec
    size_bytes: int
    model_sha256: str
    verdict: Verdict
    licence: Licence
    code: Licence
    origins: tuple[Origin, ...]
    teacher_parameters: int
    distilled_tokens: int
    sizes: dict[str, int]
    also_in_train: int | None
    cut: dict[str, float]
    metrics: tuple[str, ...]
    parity: Parity
    sessions: tuple[Session, ...]
    steps: tuple[StepFacts, ...]

    @property
    def first(self) -> Session:
        """The session that the verdict rests on."""
        return self.sessions[0]

    @property
    def dirty(self) -> bool:
        """Whether any step was made from a checkout that differed from its commit."""
        return any(step.dirty for step in self.steps)

    @property
    def commits(self) -> tuple[str, ...]:
        """Of the checkouts that the steps were made from."""
        return tuple(dict.fromkeys(step.commit for step in self.steps))

    @property
    def made_at(self) -> str:
        """When the last step was finished."""
        return max(step.finished_at for step in self.steps)
