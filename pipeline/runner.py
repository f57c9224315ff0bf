"""Plan, skip, execute, seal: the same key is never run twice, and what was sealed is never lost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

from pipeline.artifact import Artifact
from pipeline.benchmark_checks import check_measured
from pipeline.checks import check, check_team
from pipeline.config import RunConfig
from pipeline.errors import BadRequest
from pipeline.graph import STAGES, Step, expand
from pipeline.keys import canonical
from pipeline.progress import Console, Reporter, Silent, track_items
from pipeline.record import Record, Unrecorded
from pipeline.recording import Asked, Recorder
from pipeline.store import trouble_is_transient
from pipeline.tasking.base import TUNING
from pipeline.team import Team
from pipeline.walk import Walk, fresh, is_open
from pipeline.workspace import Workspace

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
    check_measured(config, steps)
    walk = Walk(workspace, Silent())
    planned = []
    with trouble_is_transient(workspace.root):
        for step in steps:
            missing = tuple(label for label in dict.fromkeys(step.inputs.values()) if label not in walk.done)
            if missing:
                planned.append(Planned(step, "waits", None, missing))
                continue
            key = walk.key(step)
            artifact = workspace.store.get(key)
            if artifact is not None and fresh(step, artifact) and not is_open(step, artifact):
                walk.done[step.label] = artifact
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
    team: Team | None = None,
    tracked: bool = True,
    who: str = "",
) -> dict[str, Artifact]:
    """Run what is not finished, in order, and return every step's artifact by label.

    `until` ends after the last step of that stage or label; `only` runs one stage's steps and takes what they read as
    finished (BadArtifact where it is not): what a container does. Of a team, rank 0 does all of it; the others help
    with the stages that a team trains together, and return what they helped with. What is executed is told to the
    config's tracking server, unless not `tracked`. `who` is named in the ledger where the run moves an alias.
    """
    _known(config, until or only)
    steps, team = _wanted(config, until=until, only=only), team or Team()
    check(config, cache=workspace.cache)
    check_measured(config, [step for step in steps if _may_run(step, only)])
    check_team(steps, size=team.size)
    if not team.leads:
        walk = Walk(workspace, Silent(), before_work=_nothing, team=team)
        with trouble_is_transient(workspace.root):
            return _help(walk, steps, only=only)
    reporter = reporter or Console(workspace.run_folder(config.name) / "events.jsonl")
    record: Record = Unrecorded()
    if tracked:
        record = reporter = Recorder(reporter, _asked(config, workspace))
    before_work = _before_work(config, steps, workspace, reporter)
    walk = Walk(workspace, reporter, before_work=before_work, team=team, record=record, who=who)
    with trouble_is_transient(workspace.root), record:
        return _lead(walk, steps, config, only=only)


def _help(walk: Walk, steps: Sequence[Step], *, only: str | None) -> dict[str, Artifact]:
    """Work along with rank 0 at the stages that a team trains together."""
    for group in _groups(steps):
        if STAGES[group[0].stage].teamed:
            walk.obtain(group, may_run=any(_may_run(step, only) for step in group))
    return walk.done


def _lead(walk: Walk, steps: Sequence[Step], config: RunConfig, *, only: str | None) -> dict[str, Artifact]:
    """Obtain every step in order, and say so of each: to who records, to machines, in the run's own record."""
    report: dict[str, Any] = {}
    for group in _groups(steps):
        started = time.monotonic()
        executed = walk.obtain(group, may_run=any(_may_run(step, only) for step in group))
        for step in group:
            artifact = walk.done[step.label]
            told = {"key": artifact.manifest.key, "executed": executed[step.label]}
            report[step.label] = told | {"digest": artifact.digest}
            walk.record.done(step, artifact, walk.digests(step))
            walk.reporter.event("step", label=step.label, **told, seconds=time.monotonic() - started)
            walk.workspace.record(config.name, config=canonical(config), steps=report)
    return walk.done


def _may_run(step: Step, only: str | None) -> bool:
    """Whether a step is one of those that were asked for, and not only read."""
    return only is None or only in (step.stage, step.label)


def pretrain(config: RunConfig, workspace: Workspace, *, team: Team | None = None) -> Artifact:
    """The pretrained teacher that a config asks for; BadRequest where it asks for none."""
    if config.pretrain is None:
        raise BadRequest(
            f"the config of {config.name} has no `pretrain` section, which says how long and from where; add one, or "
            "--set 'pretrain={tokens: 2_000_000}'"
        )
    return run(config, workspace, until="pretrain", team=team)["pretrain"]


def _groups(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Steps of one group together, where the first of them stands; every other step alone."""
    groups: dict[str, tuple[Step, ...]] = {}
    for step in steps:
        name = step.group or step.label
        groups[name] = (*groups.get(name, ()), step)
    return list(groups.values())


def _asked(config: RunConfig, workspace: Workspace) -> Asked:
    """What is recorded of a run, and where."""
    return Asked(
        root=workspace.root,
        name=config.name,
        config=canonical(config),
        experiment=config.register.name,
        uri=config.register.tracking_uri,
        first=config.benchmark.first,
        labels=tuple(step.label for step in expand(config)),
    )


def _nothing() -> None:
    pass


def _before_work(
    config: RunConfig, steps: Sequence[Step], workspace: Workspace, reporter: Reporter
) -> Callable[[], None]:
    """What must hold before the first step is executed; a finished run is shown from any checkout.

    A whole run also reads the task's tuning splits once, which the cache keeps: a missing column shows before an hour
    of distillation and not after it.
    """
    from pipeline.stages import export, finetune, register

    whole = any(step.stage == "register" for step in steps)

    @cache
    def before() -> None:
        if whole:
            register.check(config.register)
        if whole and len(steps) == len(expand(config)):
            config.task.identity(workspace.cache)  # what is to be reported on is there
            data = config.task.load(workspace.cache, partial(track_items, reporter), TUNING)
            finetune.check(config.finetune, data, kind=config.task.kind)
            export.check(config.export, data)

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
