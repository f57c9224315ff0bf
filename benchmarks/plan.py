"""What stays the same through a measuring session: variants, inputs, cores, threads, and the jobs that follow from
them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.lengths import exact_length_items, read_tokenizer, real_items
from benchmarks.machine import affinity
from benchmarks.pinning import pin
from benchmarks.receipt import How, Load
from benchmarks.targets import Target
from benchmarks.turns import parts, rounds
from benchmarks.worker import LatencyJob, QualityJob
from serving.bundle import Item, TaskKind
from serving.errors import BadRequest

Progress = Callable[[int, str], None]  # requests answered since the last call, and what is being measured


@dataclass(frozen=True)
class Variant:
    """One thing to compare: `path` is a bundle folder for `ort-cpu`, a model folder for `torch`."""

    name: str
    target: Target
    path: Path


@dataclass(frozen=True)
class SessionPlan:
    """Inputs are cut once, and given to every variant of a repeat alike."""

    variants: tuple[Variant, ...]
    items: tuple[Item, ...]
    buckets: Mapping[int, Sequence[Item]]
    real: tuple[Item, ...]
    out: Path
    load: Load
    task: TaskKind
    threads: int
    cores: tuple[int, ...]
    progress: Progress

    def quality_job(self, variant: Variant) -> QualityJob:
        return QualityJob(
            variant=variant.name,
            target=self._target(variant),
            path=str(variant.path.resolve()),
            task=self.task,
            cores=self.cores,
            items=self.items,
            logits_file=str(self.out / logits_file(variant)),
        )

    def latency_job(self, variant: Variant, *, repeat: int) -> LatencyJob:
        n = self.load.n
        return LatencyJob(
            variant=variant.name,
            target=self._target(variant),
            path=str(variant.path.resolve()),
            task=self.task,
            cores=self.cores,
            buckets={k: _part(items, repeat, n=min(n, len(items)), of=n) for k, items in self.buckets.items()},
            probes=self.items[: self.load.probes],
            n=n,
            real=_part(self.real, repeat, n=self.load.real, of=self.load.real),
        )

    @property
    def rounds(self) -> tuple[int, ...]:
        """Those of the turns in which a process times its requests."""
        return rounds(parts(self.load.n, self.load.lengths, real=len(self.real) and self.load.real))

    def tell(self, what: str) -> Callable[[int], None]:
        """Turn a child's "so many done in all" into steps."""
        done = 0

        def advance(now: int) -> None:
            nonlocal done
            self.progress(now - done, what)
            done = now

        return advance

    def note(self, what: str) -> Callable[[int], None]:
        """Say that work goes on which is no part of the total."""
        return lambda _done: self.progress(0, what)

    def how(self, order: Sequence[str]) -> How:
        return How(
            load=self.load,
            threads=self.threads,
            cores=self.cores,
            order=tuple(order),
            items=len(self.items),
            distinct={length: len(items) for length, items in self.buckets.items()},
            distinct_real=len(self.real),
        )

    def _target(self, variant: Variant) -> dict[str, object]:
        return {**variant.target.model_dump(), "threads": self.threads}


def plan_session(
    variants: Sequence[Variant],
    *,
    items: Sequence[Item],
    out: Path,
    load: Load,
    task: TaskKind,
    progress: Progress,
) -> SessionPlan:
    """Check what is asked for, cut the inputs, make the folders.

    Raises:
        BadRequest: nothing to measure, unequal threads or more than cores, a length no text reaches, processes that
            may not be pinned, or a folder that cannot be written.
    """
    names = [variant.name for variant in variants]
    if not names or len(set(names)) < len(names) or not items:
        raise BadRequest(f"a session needs items and differently named variants: got {len(items)} items, {names}")
    cores, threads = affinity(), _same_threads(variants)
    if threads > len(cores):
        raise BadRequest(f"{threads} threads on {len(cores)} cores would time each other: choose at most {len(cores)}")
    pin(cores)  # where this process already is: it asks whether its children may be pinned
    tokenizer = read_tokenizer(variants[0].path)
    most = load.n * load.processes
    return SessionPlan(
        variants=tuple(variants),
        items=tuple(items),
        buckets={n: exact_length_items(items, tokenizer, length=n, most=most) for n in load.lengths},
        real=real_items(items, most=load.real * load.processes),
        out=_made(out.resolve()),
        load=load,
        task=task,
        threads=threads,
        cores=cores[:threads],
        progress=progress,
    )


def logits_file(variant: Variant) -> str:
    """Where its raw outputs lie in the session's folder."""
    return f"logits/{variant.name}.npy"


def _made(out: Path) -> Path:
    try:
        (out / "logits").mkdir(parents=True, exist_ok=True)
        for folder in (out, out / "logits"):  # asked by writing, since who may do everything is told so by os.access
            TemporaryFile(dir=folder).close()
    except OSError as error:
        raise BadRequest(
            f"the session's folder {out} cannot be made or written into ({error.strerror}); name another one"
        ) from error
    return out


def _same_threads(variants: Sequence[Variant]) -> int:
    asked = {variant.name: variant.target.resolved_threads() for variant in variants}
    if len(set(asked.values())) > 1:
        raise BadRequest(
            f"variants are compared with the same number of threads, got {asked}: give all targets the same"
        )
    return next(iter(asked.values()))


def _part(items: Sequence[Item], repeat: int, *, n: int, of: int) -> tuple[Item, ...]:
    """`n` items for one repeat, others in the next one as far as there are any; a repeat times `of` of them."""
    return tuple(items[(repeat * of + i) % len(items)] for i in range(n))
