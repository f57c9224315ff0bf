"""Plan, skip, execute, seal: the same key is never run twice, and what was sealed is never lost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from pipeline.artifact import EVIDENCE, Artifact, Manifest, sealed_files, tree_digest, verify
from pipeline.build import git_state
from pipeline.checks import check
from pipeline.config import RunConfig
from pipeline.errors import BadArtifact, BadRequest
from pipeline.graph import STAGES, Inputs, Source, Step, Tools, canonical, code_identity, expand, step_key, versions
from pipeline.progress import Console, Reporter, Silent, track_items
from pipeline.store import key_lock, trouble_is_transient
from pipeline.tasks import TUNING
from pipeline.workspace import Workspace

_WAITING = "another process is at it; waiting"
State = Literal["done", "run", "waits", "stale"]


@dataclass(frozen=True)
class Planned:
    """What would happen to one step."""

    step: Step
    state: State
    key: str | None
    waits_for: tuple[str, ...] = ()


def plan(config: RunConfig, workspace: Workspace) -> tuple[Planned, ...]:
    """What `run` would do, step by step, without doing it."""
    steps = expand(config)
    check(config, cache=workspace.cache)
    session = _Session(workspace, Silent())
    planned = []
    with trouble_is_transient(workspace.root):
        for step in steps:
            missing = tuple(label for label in dict.fromkeys(step.inputs.values()) if label not in session.done)
            if missing:
                planned.append(Planned(step, "waits", None, missing))
                continue
            key = session.key(step)
            artifact = workspace.store.get(key)
            if artifact is not None and _fresh(step, artifact):
                session.done[step.label] = artifact
                planned.append(Planned(step, "done", key))
            else:
                planned.append(Planned(step, "stale" if artifact else "run", key))
    return tuple(planned)


def run(
    config: RunConfig,
    workspace: Workspace,
    *,
    until: str | None = None,
    only: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Artifact]:
    """Run what is not finished, in order, and return every step's artifact by label.

    `until` ends after the last step of that stage or label; `only` runs one stage's steps and takes what they read as
    finished (BadArtifact where it is not): what a container does.
    """
    _known(config, until or only)
    steps = _wanted(config, until=until, only=only)
    check(config, cache=workspace.cache)
    reporter = reporter or Console(workspace.run_folder(config.name) / "events.jsonl")
    session = _Session(workspace, reporter, before_work=_before_work(config, steps, workspace, reporter))
    report: dict[str, Any] = {}
    with trouble_is_transient(workspace.root):
        for step in steps:
            started = time.monotonic()
            executed = session.obtain(step, may_run=only is None or only in (step.stage, step.label))
            artifact = session.done[step.label]
            key = artifact.manifest.key
            report[step.label] = {"key": key, "digest": artifact.digest, "executed": executed}
            reporter.event("step", label=step.label, key=key, executed=executed, seconds=time.monotonic() - started)
            workspace.record(config.name, config=canonical(config), steps=report)
    return session.done


@dataclass
class _Session:
    """One walk along the steps: what is done so far, and the sources' identities, each worked out once."""

    workspace: Workspace
    reporter: Reporter
    before_work: Callable[[], None] = lambda: None
    done: dict[str, Artifact] = field(default_factory=dict)
    identities: dict[int, str] = field(default_factory=dict)

    def key(self, step: Step) -> str:
        """The step's key; what it reads must be done."""
        return step_key(step, self._digests(step))

    def obtain(self, step: Step, *, may_run: bool) -> bool:
        """Put the step's artifact into `done`: the finished one, or made now while holding the key's lock.

        Returns whether it was made now.
        """
        key = self.key(step)
        if self._take(step, key):
            return False
        if not may_run:
            raise BadArtifact(
                f"{step.label} is not finished, and this stage reads it; run `retort stage {step.label}` first"
            )
        self.before_work()
        with key_lock(self.workspace.root, key, waiting=lambda: self.reporter.line(f"{step.label}: {_WAITING}")):
            if self._take(step, key):
                return False
            self.done[step.label] = self._execute(step, key)
        return True

    def _take(self, step: Step, key: str) -> bool:
        artifact = self.workspace.store.get(key)
        if artifact is None or not _fresh(step, artifact):
            return False
        self.done[step.label] = artifact
        return True

    def _execute(self, step: Step, key: str) -> Artifact:
        self.reporter.line(f"{step.label} ...")
        self.reporter.event("started", label=step.label, key=key)
        started = time.monotonic()
        for label in dict.fromkeys(step.inputs.values()):
            verify(self.done[label])
        store = self.workspace.store
        out = store.partial(key)
        (out / EVIDENCE).mkdir()
        inputs = Inputs({role: self.done[label] for role, label in step.inputs.items()}, step.sources)
        tools = Tools(
            key=key,
            workspace=self.workspace.root,
            cache=self.workspace.cache,
            checkpoints=store.checkpoints(key),
            reporter=self.reporter,
        )
        facts = STAGES[step.stage].run(step.config, inputs, out, tools)
        seconds = round(time.monotonic() - started, 3)
        artifact = store.publish(key, self._manifest(step, key, out, facts=facts, seconds=seconds))
        self.reporter.line(f"{step.label}: done in {seconds:.1f} s  {artifact.path}")
        return artifact

    def _manifest(self, step: Step, key: str, out: Path, *, facts: dict[str, Any], seconds: float) -> Manifest:
        from benchmarks.machine import read

        files = sealed_files(out)
        return Manifest(
            stage=step.stage,
            label=step.label,
            key=key,
            digest=tree_digest(files),
            inputs=self._digests(step),
            config=canonical(step.config),
            code=code_identity(step.modules),
            versions=versions(),
            git=git_state(),
            machine=msgspec.to_builtins(read()),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=seconds,
            facts=facts,
            files=files,
        )

    def _digests(self, step: Step) -> dict[str, str]:
        """(role, digest) of everything a step reads."""
        return {
            **{role: self.done[label].digest for role, label in step.inputs.items()},
            **{role: self._identity(source) for role, source in step.sources.items()},
        }

    def _identity(self, source: Source) -> str:
        if id(source) not in self.identities:
            self.identities[id(source)] = source.identity(self.workspace.cache)
        return self.identities[id(source)]


def _fresh(step: Step, artifact: Artifact) -> bool:
    fresh_for = STAGES[step.stage].fresh_for
    if fresh_for is None:
        return True
    age = datetime.now(UTC) - datetime.fromisoformat(artifact.manifest.finished_at)
    return age.total_seconds() < fresh_for(step.config)


def _before_work(
    config: RunConfig, steps: Sequence[Step], workspace: Workspace, reporter: Reporter
) -> Callable[[], None]:
    """What must hold before the first step is executed; a finished run is shown from any checkout.

    A whole run also reads the task's tuning splits once, which the cache keeps: a missing column shows before an hour
    of distillation and not after it.
    """
    from pipeline.stages import export, register

    whole = any(step.stage == "register" for step in steps)

    @cache
    def before() -> None:
        if whole:
            register.check(config.register)
        if whole and len(steps) == len(expand(config)):
            progress = partial(track_items, reporter)
            export.check(config.export, config.task.load(workspace.cache, progress, TUNING))

    return before


def _wanted(config: RunConfig, *, until: str | None, only: str | None) -> tuple[Step, ...]:
    """All steps; those up to the last of `until`; or those of `only` and what they read, directly or not."""
    steps = expand(config)
    if only is not None:
        needed: set[str] = set()
        for step in reversed(steps):
            if only in (step.stage, step.label) or step.label in needed:
                needed |= {step.label, *step.inputs.values()}
        return tuple(step for step in steps if step.label in needed)
    if until is None:
        return steps
    return steps[: max(i for i, step in enumerate(steps) if until in (step.stage, step.label)) + 1]


def _known(config: RunConfig, name: str | None) -> None:
    names = dict.fromkeys(name for step in expand(config) for name in (step.stage, step.label))
    if name is not None and name not in names:
        raise BadRequest(f"there is no stage or step {name!r}; there are: {', '.join(names)}")
