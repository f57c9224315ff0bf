"""A search at work: every recipe makes a candidate in a process of its own (where none keeps the quality, fallbacks
too), those that nothing speaks for are dropped after a short timing, the rest are timed properly, and the fastest
within the budget is the bundle. A candidate that cannot be made leaves one message; the rest go on.
"""

import itertools
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pipeline.artifact import EVIDENCE, write_json
from pipeline.errors import BadArtifact, Failure, GateFailed, Transient
from pipeline.quantizing.candidate import Job, Receipt, trial
from pipeline.quantizing.given import Given
from pipeline.quantizing.pareto import Choice, Figures, beaten, choose, lacks_quality, misses
from pipeline.quantizing.search import SearchBase, file_name, shapes_within
from pipeline.quantizing.search_report import Row, facts_of, row_of, table_text, write_report
from pipeline.quantizing.timing import Timing, look, time_properly

BASELINE: Final = "exported"  # the fp32 bundle: no candidate, but what all are compared with
TEXTS: Final = 512  # of dev, from which inputs of a length are cut


@dataclass
class Search:
    """`cache` is where the task's data is kept, `out` the artifact's folder. A test passes in what starts processes."""

    config: SearchBase
    given: Given
    cache: Path
    out: Path
    threads: int
    trial: Callable[..., Receipt] = trial
    look: Callable[..., Timing] = look
    race: Callable[..., Timing] = time_properly
    clock: Callable[[], float] = time.monotonic
    receipts: dict[str, Receipt] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    losers: dict[str, str] = field(default_factory=dict)
    timings: dict[str, Timing] = field(default_factory=dict)
    ends: float = field(default=float("inf"), init=False)

    def run(self) -> dict[str, Any]:
        """Leave `bundle/` and the evidence in `out`; return the facts.

        Raises:
            GateFailed: nobody meets the budget; the message has the nearest.
            BadArtifact: fp32 itself cannot be computed, or no recipe made anything (Transient where each may yet).
        """
        assert self.shapes, "the budget's shapes are checked before anything is built"
        self._try_all()
        figures = self._race()
        self._require_some()
        left = [each for name, each in figures.items() if name not in {BASELINE, *self.losers}]
        if not left:
            raise BadArtifact(f"nobody is left to choose from: {'; '.join(map(str, self.failures.values()))}")
        choice = choose(left, self.config.budget)
        rows, baseline = self._rows(figures, choice), self.receipts[BASELINE]
        facts = facts_of(self.config, choice, rows, baseline, shapes=self.shapes, threads=self.threads)
        self._keep(choice, facts)
        if choice.winner is None:
            told = f"the nearest: {choice.reason}; allow more or try other recipes (all receipts: {self._evidence})"
            raise GateFailed(f"no candidate meets the budget; {told}")
        shutil.copytree(self.bundle(choice.winner), self.out / "bundle")
        return {**self.receipts[choice.winner].facts, "search": facts}

    # -- candidates ----------------------------------------------------------------------------------------------------

    @cached_property
    def recipes(self) -> dict[str, dict[str, Any]]:
        """The candidates by name, in the order they were written."""
        return self.config.named(self.config.recipes)

    @cached_property
    def fallbacks(self) -> dict[str, dict[str, Any]]:
        """Those that are tried where no other keeps the quality."""
        return self.config.named(tuple(each for each in self.config.fallbacks if each not in self.config.recipes))

    def _try_all(self) -> None:
        self.bundle("").mkdir()
        self.ends = self.clock() + (self.config.seconds or float("inf"))
        with self.given.reporter.bar("search", total=1 + len(self.recipes), unit="candidates") as bar:
            bar.advance(0, note=BASELINE)
            self.receipts[BASELINE] = self._try(BASELINE, None)
            bar.advance()
            for name, recipe in self.recipes.items():
                bar.advance(0, note=name)
                self._try_one(name, recipe)
                bar.advance()
        self._keep_receipts()
        self._require_some()

    def _require_some(self) -> None:
        if self.receipts.keys() - {BASELINE, *self.failures}:
            return
        told = "\n  ".join(f"{name}: {failure}" for name, failure in self.failures.items())
        kinds = {type(failure) for failure in self.failures.values()}
        kind = kinds.pop() if kinds in ({Transient}, {GateFailed}) else BadArtifact
        raise kind(f"no recipe made a candidate:\n  {told}")

    def _try_one(self, name: str, recipe: dict[str, Any]) -> None:
        """A candidate more, or a failure more."""
        seconds = self.ends - self.clock()
        if seconds <= 0:
            self._fails(name, Failure(f"not tried: the search's {self.config.seconds:g} s were over; give it more"))
            return
        try:
            self.receipts[name] = self._try(name, recipe, seconds=None if seconds == float("inf") else seconds)
        except Failure as failure:
            self._fails(name, failure)

    def _try(self, name: str, recipe: dict[str, Any] | None, *, seconds: float | None = None) -> Receipt:
        given, files = self.given, self.given.scratch
        assert given.task is not None
        most = min(self.config.dev_items, given.task.max_dev or self.config.dev_items)
        job = Job(
            name=name,
            called=given.spec.name.removesuffix("onnx-fp32") + self.config.variant,
            recipe=recipe,
            bundle=str(given.bundle.path.resolve()),
            target=str(self.bundle(name)),
            task=given.task.model_copy(update={"max_dev": most}).model_dump(mode="json"),
            folder=str(Path.cwd()),
            cache=str(self.cache.resolve()),
            scratch=str(files.resolve()),
            checkpoints=str((given.checkpoints or files / "checkpoints").resolve() / file_name(name)),
            outputs=str(files.resolve() / f"{file_name(name)}.npy"),
            reference=str(files.resolve() / f"{BASELINE}.npy") if recipe else None,
            model=str(given.model.resolve()) if given.model else None,
            threads=self.threads,
        )
        return self.trial(job, seconds=seconds)

    def bundle(self, name: str) -> Path:
        """Where a candidate's bundle lies."""
        if name == BASELINE:
            return self.given.bundle.path.resolve()
        return self.given.scratch.resolve() / "candidates" / file_name(name)

    # -- timing --------------------------------------------------------------------------------------------------------

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        return shapes_within(self.config, max_length=self.given.spec.max_length)

    def _race(self) -> dict[str, Figures]:
        """Everybody's figures: of those beaten at the first look the ones found there."""
        early = self._figures("look", self.look, tuple(self.receipts))
        for race in itertools.count(1):
            early |= self._fall_back(early)
            left, failed = {name: early[name] for name in early if name not in self.failures}, len(self.failures)
            self.losers = beaten([each for name, each in left.items() if name != BASELINE], self.config.budget)
            late = self._figures(f"race {race}", self.race, tuple(name for name in left if name not in self.losers))
            if len(self.failures) == failed:  # or whom the dead had beaten, or a fallback, may be the best there is
                break
        return {name: early[name] for name in self.losers} | late

    def _fall_back(self, early: Mapping[str, Figures]) -> dict[str, Figures]:
        """The figures of those that were tried as nobody else keeps the quality, until one does."""
        found: dict[str, Figures] = {}
        for name in [each for each in self.fallbacks if each not in {**self.receipts, **self.failures}]:
            quantized = self.config.quantizing - self.failures.keys()
            rivals = [each for other, each in {**early, **found}.items() if other in quantized]
            if not lacks_quality(rivals, self.config.budget):
                break
            with self.given.reporter.bar(f"nobody keeps the quality: {name}", total=None, unit="candidate"):
                self._try_one(name, self.fallbacks[name])
            if name in self.receipts:
                found |= self._figures(f"look at {name}", self.look, (BASELINE, name))
        self._keep_receipts()
        return {name: each for name, each in found.items() if name != BASELINE}

    def _figures(self, called: str, timed: Callable[..., Timing], names: tuple[str, ...]) -> dict[str, Figures]:
        """Of those among `names` that could be timed; the others are failures."""
        timing = timed(
            {name: self.bundle(name) for name in names},
            shapes=self.shapes,
            items=self.given.data.dev.items[:TEXTS],
            threads=self.threads,
            reporter=self.given.reporter,
        )
        self.timings[called] = timing
        if BASELINE in timing.failed:
            raise BadArtifact(f"the exported bundle cannot be timed: {timing.failed[BASELINE]}")
        for name, message in timing.failed.items():
            self._fails(name, Failure(message))
        ms = timing.ms()
        return {name: self.receipts[name].figures(ms[name], ms[BASELINE]) for name in ms}

    def _fails(self, name: str, failure: Failure) -> None:
        """One message; what there is of its bundle is of no use, and may fill the disk."""
        self.failures[name] = failure
        shutil.rmtree(self.bundle(name), ignore_errors=True)
        self.given.reporter.line(f"  {name}: {failure}")

    # -- what is kept --------------------------------------------------------------------------------------------------

    @property
    def _evidence(self) -> Path:
        return self.out / EVIDENCE / "search"

    def _rows(self, figures: Mapping[str, Figures], choice: Choice) -> list[Row]:
        """What was exported first, then who was raced, the fastest first, then the others, and who failed."""
        order = sorted(figures, key=lambda name: (name != BASELINE, name in self.losers, figures[name].relative_ms))
        made = [self._row(figures[name], choice) for name in order]
        return [*made, *(Row(name, remark=str(failure)) for name, failure in self.failures.items())]

    def _row(self, figures: Figures, choice: Choice) -> Row:
        name = figures.name
        missed = ", ".join(miss.told for miss in misses(figures, self.config.budget))
        remark = "fp32" if name == BASELINE else f"misses {missed}" if missed else ""
        if name in self.losers:
            remark = f"at a first look beaten at every shape by {self.losers[name]}"
        return row_of(self.receipts[name], figures, choice, raced=name not in self.losers, remark=remark)

    def _keep_receipts(self) -> None:
        """Every candidate's receipt, and why a candidate failed: what failed later has both."""
        self._evidence.mkdir(parents=True, exist_ok=True)
        for name, receipt in self.receipts.items():
            write_json(self._evidence / f"{file_name(name)}.json", receipt)
        recipes = {**self.recipes, **self.fallbacks}
        for name, failure in self.failures.items():
            told = {"name": name, "recipe": recipes[name], "failed": str(failure), "code": failure.exit_code}
            write_json(self._evidence / f"{file_name(name)}.failed.json", told)

    def _keep(self, choice: Choice, facts: dict[str, Any]) -> None:
        """Receipts and failures, the timings with all samples, the table for people, and the page."""
        self._keep_receipts()
        for called, timing in self.timings.items():
            write_json(self._evidence / f"{file_name(called)}.json", timing)
        self.given.reporter.line(f"{table_text(facts)}\n{choice.reason}")
        write_report(facts, self.out, title=f"Search for {self.given.spec.name.removesuffix('-onnx-fp32')}")
