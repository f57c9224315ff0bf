"""`retort bench`: bundles beside each other on one or several targets, a session each, and a gate over all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline import quality
from pipeline.bench_checks import AGREEMENT, require_judged, with_own_teacher
from pipeline.bench_inputs import Given
from pipeline.errors import BadRequest
from pipeline.gates import Rule, Verdict, judge, require_measurable, require_targets
from pipeline.telling import PAGE

if TYPE_CHECKING:
    from benchmarks.receipt import Load, Receipt
    from benchmarks.session import Serve, Variant
    from benchmarks.shown import Outcomes
    from benchmarks.targets import Target
    from pipeline.progress import Reporter
    from pipeline.quality import Score
    from serving.bundle import Bundle

_UNKNOWN: Final = quality.Score(AGREEMENT, nan, nan, nan, 0)  # numbers are never quite the same


@dataclass(frozen=True)
class Asked:
    """What is to be measured, and judged: ratios, speed-up and agreement are with the bundle called `baseline`."""

    bundles: "Mapping[str, Bundle]"
    targets: "Mapping[str, Target]"
    given: Given
    load: "Load"
    baseline: str
    out: Path
    rules: tuple[Rule, ...] = ()
    serve: "Serve | None" = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """What the gate judges: all but the baseline, or the one there is."""
        return tuple(name for name in self.bundles if name != self.baseline) or (self.baseline,)

    @property
    def answers_in_labels(self) -> bool:
        """Numbers are never quite the same, so that nobody agrees."""
        return bool(next(iter(self.bundles.values())).spec.labels)


@dataclass(frozen=True)
class Benched:
    """Receipts and figures by target, why a target was skipped, and the verdict where a gate was asked."""

    receipts: "Mapping[str, Receipt]"
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]
    metric: str
    skipped: Mapping[str, str]
    verdict: Verdict | None

    def told(self, asked: Asked) -> dict[str, Any]:
        """For machines."""
        targets = {
            target: {
                "receipt": str(folder_of(asked, target) / "receipt.json"),
                "attempts": receipt.attempts,
                "disturbed": receipt.disturbed,
                "figures": self.figures[target],
            }
            for target, receipt in self.receipts.items()
        }
        verdict = None if self.verdict is None else self.verdict.verdict
        return {"targets": targets, "skipped": self.skipped, "metric": self.metric, "verdict": verdict}


def bench(asked: Asked, reporter: "Reporter") -> Benched:
    """A session for each target that this machine is; the receipts, figures, Markdown, JUnit XML and pages are left in
    `out`.

    Raises:
        BadRequest: a rule asks for what will not be measured, or no target can run here.
    """
    skipped = {kind: why for kind, target in asked.targets.items() if (why := target.missing())}
    here = {kind: target for kind, target in asked.targets.items() if kind not in skipped}
    if not here:
        raise BadRequest("no target can run here: " + "; ".join(f"{kind} needs {why}" for kind, why in skipped.items()))
    asked = replace(asked, rules=with_own_teacher(asked.rules, asked.bundles))
    _require_measured(asked, here)
    for kind, why in skipped.items():
        reporter.line(f"{kind} is skipped: it needs {why}")
    receipts = {kind: _session(asked, kind, target, reporter) for kind, target in here.items()}
    found = {kind: _figures(asked, receipts[kind], target) for kind, target in here.items()}
    figures, metric = {kind: each[0] for kind, each in found.items()}, next(iter(found.values()))[1]
    benched = Benched(receipts, figures, metric, skipped, _verdict(asked, receipts, figures))
    for kind in receipts:
        _write(asked, benched, kind)
    return benched


def _require_measured(asked: Asked, targets: "Mapping[str, Target]") -> None:
    """Every rule can be judged by what the sessions at these targets measure."""
    load, labelled = asked.load, asked.given.labelled
    require_targets(asked.rules, targets)
    require_judged(
        asked.rules,
        bundles=asked.bundles,
        targets=targets,
        metrics=None if labelled is None else labelled[0].figures,
        labels=asked.answers_in_labels,
        bounded=asked.serve is not None,
    )
    n, real = load.n * load.processes, load.real * load.processes
    require_measurable(asked.rules, n=n, real=real, processes=load.processes, setting="--")


def outcomes(asked: Asked, benched: Benched, kind: str) -> "Outcomes":
    """One target's session, as the outputs for people take it."""
    from benchmarks.shown import Outcomes

    return Outcomes(
        title=f"{', '.join(asked.bundles)} on {kind}",
        receipt=benched.receipts[kind],
        figures=benched.figures[kind],
        metric=benched.metric,
        verdict=benched.verdict,
        baseline=asked.baseline,
    )


def folder_of(asked: Asked, kind: str) -> Path:
    """Where a target's session leaves what it found: of several, each in its own folder."""
    return asked.out / kind if len(asked.targets) > 1 else asked.out


def _variants(asked: Asked, target: "Target") -> "list[Variant]":
    from benchmarks.session import Variant

    return [Variant(name, target, bundle.path) for name, bundle in asked.bundles.items()]


def _session(asked: Asked, kind: str, target: "Target", reporter: "Reporter") -> "Receipt":
    from benchmarks.session import run_session

    total = asked.load.requests(variants=len(asked.bundles), items=len(asked.given.items))
    with reporter.bar(f"bench {kind}", total=total, unit="requests") as bar:
        return run_session(
            _variants(asked, target),
            items=asked.given.items,
            out=folder_of(asked, kind),
            load=asked.load,
            task=next(iter(asked.bundles.values())).spec.task,
            target=kind,
            serve=asked.serve,
            progress=lambda done, what: bar.advance(done, note=what),
        )


def _figures(asked: Asked, receipt: "Receipt", target: "Target") -> tuple[dict[str, dict[str, float]], str]:
    """What the gate may ask of each bundle, and the metric they are compared by."""
    from benchmarks import report
    from benchmarks.figures import merged, timed_figures
    from pipeline import judging

    folder = folder_of(asked, receipt.target)
    others: dict[str, dict[str, Score]] = {name: {AGREEMENT: each} for name, each in _agreement(asked, folder).items()}
    metric = AGREEMENT
    if asked.given.labelled is not None:
        task, data = asked.given.labelled
        metric = task.metrics[0]
        for variant in _variants(asked, target):
            others[variant.name] |= judging.scores(judging.answered(variant, folder, task, data))
    scores = {name: found[metric] for name, found in others.items()}
    judged = report.figures(receipt, scores, metric=metric, others=others, baseline=asked.baseline)
    return merged(judged, timed_figures(receipt, baseline=asked.baseline)), metric


def _agreement(asked: Asked, folder: Path) -> "dict[str, Score]":
    """The share of items that each bundle answers as the baseline does; unknown where answers are numbers."""
    import numpy as np

    from benchmarks.invariance import labels_of
    from benchmarks.receipt import read_logits

    if not asked.answers_in_labels:
        return dict.fromkeys(asked.bundles, _UNKNOWN)
    answers = {
        name: [labels_of(output, spec=bundle.spec) for output in read_logits(folder, name)]
        for name, bundle in asked.bundles.items()
    }
    found = {}
    for name, mine in answers.items():
        same = [int(np.array_equal(a, b)) for a, b in zip(mine, answers[asked.baseline], strict=True)]
        found[name] = quality.agreement(same, [1] * len(same))
    return found


def _verdict(
    asked: Asked, receipts: "Mapping[str, Receipt]", figures: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Verdict | None:
    if not asked.rules:
        return None
    disturbed = {kind: receipt.disturbed for kind, receipt in receipts.items() if receipt.disturbed}
    first = next(iter(figures.values()))
    return judge(asked.rules, first, asked.candidates, figures_by_target=figures, disturbed=disturbed)


def _write(asked: Asked, benched: Benched, kind: str) -> None:
    from benchmarks.outcomes import write_outcomes
    from benchmarks.page import write_page
    from pipeline.artifact import write_json

    folder, told = folder_of(asked, kind), outcomes(asked, benched, kind)
    write_json(folder / "figures.json", benched.figures[kind])
    write_outcomes(told, folder)
    write_page(told, folder / PAGE)
