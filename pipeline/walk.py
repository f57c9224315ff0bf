"""One walk along the steps of a run: what is finished is taken, what is not is made under its key's lock and sealed."""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from pipeline.artifact import EVIDENCE, Artifact, Manifest, sealed_files, tree_digest, verify
from pipeline.build import git_state
from pipeline.data.digests import json_digest
from pipeline.errors import BadArtifact
from pipeline.graph import STAGES, Inputs, Source, Step, Tools
from pipeline.keys import canonical, code_identity, step_key, versions
from pipeline.progress import Reporter
from pipeline.record import Record, Unrecorded
from pipeline.store import key_lock
from pipeline.team import Team
from pipeline.workspace import Workspace

_WAITING = "another process is at it; waiting"


@dataclass
class Walk:
    """What is done so far, and the sources' identities, each worked out once."""

    workspace: Workspace
    reporter: Reporter
    before_work: Callable[[], None] = lambda: None
    team: Team = field(default_factory=Team)
    done: dict[str, Artifact] = field(default_factory=dict)
    identities: dict[int, str] = field(default_factory=dict)
    record: Record = field(default_factory=Unrecorded)
    who: str = ""  # runs it

    def key(self, step: Step) -> str:
        """The step's key; what it reads must be done."""
        return step_key(step, self.digests(step))

    def obtain(self, steps: Sequence[Step], *, may_run: bool) -> dict[str, bool]:
        """Put the artifacts of a step, or of a group's steps, into `done`: the finished ones, or made now while holding
        the keys' locks. Of a team, all come here with the steps that a team makes, and rank 0 alone with the others.

        Returns by label whether it was made now.
        """
        missing = self._missing(steps, may_run=may_run)
        if missing and not may_run:
            raise BadArtifact(
                f"{missing[0].label} is not finished, and this stage reads it; run `retort stage {missing[0].label}` "
                "first"
            )
        made = self._make(missing, of=steps) if missing else []
        for step in steps:
            if step.label not in self.done and not self._take(step, may_run=False):
                raise BadArtifact(
                    f"{step.label}: rank 0 has it and process {self.team.rank} does not see it; give them one workspace"
                )
        return {step.label: step in made for step in steps}

    def _team_of(self, step: Step) -> Team:
        return self.team if STAGES[step.stage].teamed else Team()

    def _missing(self, steps: Sequence[Step], *, may_run: bool) -> list[Step]:
        """Those that rank 0 does not find finished. It looks first: what must be fetched to know a key, it fetches."""
        keys = self._team_of(steps[0]).leaders(lambda: {each.label: self.key(each) for each in steps})
        for step in steps:
            if self.key(step) != keys[step.label]:
                raise BadArtifact(
                    f"{step.label}: process {self.team.rank} finds other code or inputs than rank 0; give them the same"
                )
        found = self._team_of(steps[0]).leaders(
            lambda: [each.label for each in steps if self._take(each, may_run=may_run)]
        )
        return [step for step in steps if step.label not in found]

    def _make(self, missing: Sequence[Step], *, of: Sequence[Step]) -> list[Step]:
        """Make what nobody else has made meanwhile."""
        self.before_work()
        with ExitStack() as locks:
            for key, label in sorted((self.key(step), step.label) for step in missing) if self.team.leads else ():
                says = partial(self.reporter.line, f"{label}: {_WAITING}")
                locks.enter_context(key_lock(self.workspace.root, key, waiting=says))
            still = self._missing(missing, may_run=True)
            if still and self.team.leads:
                self._execute(still, of=of)
            elif still:
                self._help(still, of=of)
            self._team_of(missing[0]).leaders(lambda: None)  # sealed by now
        return still

    def _take(self, step: Step, *, may_run: bool) -> bool:
        """What settles nothing is taken where it may not be made again."""
        artifact = self.workspace.store.get(self.key(step))
        if artifact is None or not fresh(step, artifact) or (may_run and is_open(step, artifact)):
            return False
        self.done[step.label] = artifact
        return True

    def _execute(self, steps: Sequence[Step], *, of: Sequence[Step]) -> None:
        """Run the steps, which read the same, and seal each."""
        labels = ", ".join(step.label for step in steps)
        self.reporter.line(f"{labels} ...")
        for step in steps:
            self.reporter.event("started", label=step.label, key=self.key(step))
            self.record.started(step, self.key(step), self.digests(step))
        started = time.monotonic()
        for label in dict.fromkeys(steps[0].inputs.values()):
            verify(self.done[label])
        store, keys = self.workspace.store, [self.key(step) for step in steps]
        outs = [store.partial(key) for key in keys]
        for out in outs:
            (out / EVIDENCE).mkdir()
        facts = self._run(steps, outs, of=of)
        seconds = round(time.monotonic() - started, 3)
        for step, key, out, found in zip(steps, keys, outs, facts, strict=True):
            artifact = store.publish(key, self._manifest(step, key, out, facts=found, seconds=seconds))
            self.done[step.label] = artifact
            self.record.sealed(step, artifact, self.digests(step))
            self.reporter.line(f"{step.label}: done in {seconds:.1f} s  {artifact.path}")

    def _help(self, steps: Sequence[Step], *, of: Sequence[Step]) -> None:
        """Train along with rank 0; what a stage leaves here is thrown away."""
        with TemporaryDirectory() as scratch:
            outs = [Path(scratch) / step.label for step in steps]
            for out in outs:
                (out / EVIDENCE).mkdir(parents=True)
            self._run(steps, outs, of=of)

    def _run(self, steps: Sequence[Step], outs: Sequence[Path], *, of: Sequence[Step]) -> list[dict[str, Any]]:
        first = steps[0]
        inputs = Inputs({role: self.done[label] for role, label in first.inputs.items()}, first.sources)
        checkpoints = self._checkpoints(steps, of=of)
        jobs = [(step.config, out, self._tools(step, checkpoints)) for step, out in zip(steps, outs, strict=True)]
        return STAGES[first.stage].run_jobs(jobs, inputs)

    def _checkpoints(self, steps: Sequence[Step], *, of: Sequence[Step]) -> Path:
        """The last step's, since they go when that is sealed; of a group, in a folder for this very group, from which
        what was not sealed of it goes on and no other group does."""
        folder = self.workspace.store.checkpoints(self.key(steps[-1]))
        if len(of) == 1:
            return folder
        return folder / hashlib.sha256("\n".join(self.key(step) for step in of).encode()).hexdigest()[:16]

    def _tools(self, step: Step, checkpoints: Path) -> Tools:
        return Tools(
            key=self.key(step),
            workspace=self.workspace.root,
            cache=self.workspace.cache,
            checkpoints=checkpoints,
            reporter=self.reporter,
            label=step.label,
            code=json_digest([code_identity(step.modules), versions(step.stage)]),
            team=self._team_of(step),
            outbox=self.record.outbox,
            who=self.who,
        )

    def _manifest(self, step: Step, key: str, out: Path, *, facts: dict[str, Any], seconds: float) -> Manifest:
        from benchmarks.machine import read

        files = sealed_files(out)
        return Manifest(
            stage=step.stage,
            label=step.label,
            key=key,
            digest=tree_digest(files),
            inputs=self.digests(step),
            config=canonical(step.config),
            code=code_identity(step.modules),
            versions=versions(step.stage),
            git=git_state(),
            machine=msgspec.to_builtins(read()),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=seconds,
            facts=facts,
            files=files,
        )

    def digests(self, step: Step) -> dict[str, str]:
        """(role, digest) of everything a step reads."""
        return {
            **{role: self.done[label].digest for role, label in step.inputs.items()},
            **{role: self._identity(source) for role, source in step.sources.items()},
        }

    def _identity(self, source: Source) -> str:
        if id(source) not in self.identities:
            self.identities[id(source)] = source.identity(self.workspace.cache)
        return self.identities[id(source)]


def fresh(step: Step, artifact: Artifact) -> bool:
    """Whether the artifact is young enough for its stage."""
    fresh_for = STAGES[step.stage].fresh_for
    if fresh_for is None:
        return True
    age = datetime.now(UTC) - datetime.fromisoformat(artifact.manifest.finished_at)
    return age.total_seconds() < fresh_for(step.config)


def is_open(step: Step, artifact: Artifact) -> bool:
    """Whether the artifact settles nothing, so that its stage is worth running again."""
    return STAGES[step.stage].open(artifact.manifest.facts)
