"""Plan, skip, execute, seal: the same key is never run twice, and what was sealed is never lost."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from pipeline.artifact import EVIDENCE, Artifact, Manifest, sealed_files, tree_digest, write_json
from pipeline.build import git_state
from pipeline.config import RunConfig
from pipeline.errors import BadArtifact, BadRequest
from pipeline.graph import STAGES, Inputs, Source, Step, Tools, canonical, code_identity, expand, step_key, versions
from pipeline.progress import Console, Reporter
from pipeline.store import Store, as_transient, key_lock, open_store

State = Literal["done", "run", "waits", "stale"]


@dataclass(frozen=True)
class Workspace:
    """Where a run's world is kept: artifacts, checkpoints, locks, caches and run folders."""

    root: Path
    store: Store

    @classmethod
    def open(cls, root: Path, *, store_url: str | None = None) -> "Workspace":
        """The workspace at `root`; artifacts also go to `store_url` when it is given (any fsspec URL)."""
        root = root.resolve()
        return cls(root=root, store=open_store(store_url, root))

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def run_folder(self, name: str) -> Path:
        """Where a run says what it did."""
        return self.root / "runs" / name


@dataclass(frozen=True)
class Planned:
    """What would happen to one step."""

    step: Step
    state: State
    key: str | None
    waits_for: tuple[str, ...] = ()


def plan(config: RunConfig, workspace: Workspace) -> tuple[Planned, ...]:
    """What `run` would do, step by step, without doing it."""
    _check(config, workspace)
    identities: dict[int, str] = {}
    done: dict[str, Artifact] = {}
    planned = []
    for step in expand(config):
        missing = tuple(label for label in dict.fromkeys(step.inputs.values()) if label not in done)
        if missing:
            planned.append(Planned(step, "waits", None, missing))
            continue
        key = step_key(step, _digests(step, done, identities, workspace))
        artifact = workspace.store.get(key)
        if artifact is not None and _fresh(step, artifact):
            done[step.label] = artifact
            planned.append(Planned(step, "done", key))
        else:
            planned.append(Planned(step, "stale" if artifact else "run", key))
    return tuple(planned)


def finished(config: RunConfig, workspace: Workspace) -> dict[str, Artifact]:
    """What is already there of a run, by label, whatever its age; BadArtifact when nothing is."""
    record = workspace.run_folder(config.name) / "run.json"
    if not record.is_file():
        raise BadArtifact(f"nothing of the run {config.name!r} is in {workspace.root}; `retort run` makes it")
    steps = msgspec.json.decode(record.read_bytes())["steps"]
    found = {label: workspace.store.get(step["key"]) for label, step in steps.items()}
    return {label: artifact for label, artifact in found.items() if artifact is not None}


def run(
    config: RunConfig,
    workspace: Workspace,
    *,
    until: str | None = None,
    only: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Artifact]:
    """Run what is not finished, in order, and return every step's artifact by label.

    `until` ends after the last step of that stage or label; `only` runs one stage's steps and takes all others as finished
    (BadArtifact where they are not): what a container does.
    """
    _known(config, until or only)
    reporter = reporter or Console(workspace.run_folder(config.name) / "events.jsonl")
    _check(config, workspace)
    identities: dict[int, str] = {}
    done: dict[str, Artifact] = {}
    report: dict[str, Any] = {}
    for step in _wanted(config, until or only):
        digests = _digests(step, done, identities, workspace)
        key = step_key(step, digests)
        may_run = only is None or only in (step.stage, step.label)
        started = time.monotonic()
        artifact, executed = _obtain(step, key, digests, done, workspace, reporter, may_run=may_run)
        done[step.label] = artifact
        report[step.label] = {"key": key, "digest": artifact.digest, "executed": executed}
        reporter.event("step", label=step.label, key=key, executed=executed, seconds=time.monotonic() - started)
        _record(config, workspace, report)
    return done


def _obtain(
    step: Step,
    key: str,
    digests: Mapping[str, str],
    done: Mapping[str, Artifact],
    workspace: Workspace,
    reporter: Reporter,
    *,
    may_run: bool,
) -> tuple[Artifact, bool]:
    """The step's artifact: the finished one, or made now while holding the key's lock."""
    artifact = workspace.store.get(key)
    if artifact is not None and _fresh(step, artifact):
        return artifact, False
    if not may_run:
        raise BadArtifact(f"{step.label} is not finished, and this stage reads it; run `retort stage {step.label}` first")
    try:
        with key_lock(workspace.root, key, waiting=lambda: reporter.line(f"{step.label}: another process is at it; waiting")):
            artifact = workspace.store.get(key)
            if artifact is not None and _fresh(step, artifact):
                return artifact, False
            return _execute(step, key, digests, done, workspace, reporter), True
    except OSError as error:
        raise as_transient(error, where=workspace.root) from error


def _execute(
    step: Step,
    key: str,
    digests: Mapping[str, str],
    done: Mapping[str, Artifact],
    workspace: Workspace,
    reporter: Reporter,
) -> Artifact:
    from benchmarks.machine import read

    reporter.line(f"{step.label} ...")
    reporter.event("started", label=step.label, key=key)
    started = time.monotonic()
    out = workspace.store.partial(key)
    inputs = Inputs({role: done[label] for role, label in step.inputs.items()}, step.sources)
    tools = Tools(
        key=key,
        workspace=workspace.root,
        cache=workspace.cache,
        checkpoints=workspace.store.checkpoints(key),
        reporter=reporter,
    )
    (out / EVIDENCE).mkdir()
    facts = STAGES[step.stage].run(step.config, inputs, out, tools)
    files = sealed_files(out)
    seconds = time.monotonic() - started
    manifest = Manifest(
        stage=step.stage,
        label=step.label,
        key=key,
        digest=tree_digest(files),
        inputs=dict(digests),
        config=canonical(step.config),
        code=code_identity(step.stage),
        versions=versions(),
        git=git_state(),
        machine=msgspec.to_builtins(read()),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        facts=facts,
        files=files,
    )
    artifact = workspace.store.publish(key, manifest)
    reporter.line(f"{step.label}: done in {seconds:.1f} s  {artifact.path}")
    return artifact


def _digests(
    step: Step, done: Mapping[str, Artifact], identities: dict[int, str], workspace: Workspace
) -> dict[str, str]:
    """(role, digest) of everything a step reads; a source's identity is worked out once a run."""
    return {
        **{role: done[label].digest for role, label in step.inputs.items()},
        **{role: _identity(source, identities, workspace) for role, source in step.sources.items()},
    }


def _identity(source: Source, identities: dict[int, str], workspace: Workspace) -> str:
    if id(source) not in identities:
        identities[id(source)] = source.identity(workspace.cache)
    return identities[id(source)]


def _fresh(step: Step, artifact: Artifact) -> bool:
    fresh_for = STAGES[step.stage].fresh_for
    if fresh_for is None:
        return True
    age = datetime.now(UTC) - datetime.fromisoformat(artifact.manifest.finished_at)
    return age.total_seconds() < fresh_for(step.config)


def _check(config: RunConfig, workspace: Workspace) -> None:
    """Refuse what cannot work before anything runs."""
    from pipeline.stages import distill, register

    distill.check(config.distill, config.teacher, cache=workspace.cache)
    register.check(config.register)


def _wanted(config: RunConfig, last: str | None) -> tuple[Step, ...]:
    steps = expand(config)
    if last is None:
        return steps
    return steps[: max(i for i, step in enumerate(steps) if last in (step.stage, step.label)) + 1]


def _known(config: RunConfig, name: str | None) -> None:
    names = dict.fromkeys(name for step in expand(config) for name in (step.stage, step.label))
    if name is not None and name not in names:
        raise BadRequest(f"there is no stage or step {name!r}; there are: {', '.join(names)}")


def _record(config: RunConfig, workspace: Workspace, report: Mapping[str, Any]) -> None:
    folder = workspace.run_folder(config.name)
    write_json(folder / "run.json", {"name": config.name, "config": canonical(config), "steps": report})


