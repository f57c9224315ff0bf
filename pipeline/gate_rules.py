"""The gate's language: what a rule may say, which figures there are, and how many samples a figure takes. Pure.

    metric op bound [* baseline] [at target] [with confidence]

docs/gates.md explains every metric to people; a test holds the two together.
"""

import math
import re
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from pipeline.errors import BadRequest
from pipeline.naming import CHAMPION

TEACHER: Final = "teacher-onnx-fp32"
ALIASES: Final = {"teacher": TEACHER}

# Beside its own fp32: how much of the metric a variant lost, and the share of items it answers otherwise; how far its
# probabilities are from how often it is right (expected calibration error); and the share of items that it answers as
# the teacher does. judging.py says which a task has.
COMPARED: Final = ("drop", "flips", "ece", "agreement")
_AGAINST_OWN: Final = ("drop", "flips")  # which the champion's session measured, and not this one
# An interval of these is one over processes and cannot leave the range that they show, which holds the median with a
# chance of 1 - 2^(1 - n): 50 % for two processes, 94 % for five.
PROCESSES: Final = 5
LATENCY: Final = (
    *("p50_ms", "p95_ms", "p99_ms", "p50_ms_short", "p95_ms_short", "p99_ms_short"),
    *("p50_ms_real", "p95_ms_real", "p99_ms_real", "speedup_p50", "cold_start_ms"),
)
REPEATED: Final = (*LATENCY, "rss_mb")
# What a busy neighbour spoils: a disturbed session gives no verdict on these.
TIMED: Final = (*LATENCY, "server_rps")
# Known to the last byte: they have no interval because nothing about them is uncertain.
EXACT: Final = ("size_mb", "params")
# One figure of a session: nothing says how far another one would be from it.
WITHOUT_INTERVAL: Final = ("peak_mb", "batch_difference", "batch_flips")
# What a search came to: the low end was kept, and the high one, where it got so far, was too much.
SEARCHED: Final = ("server_rps",)
MEASURED: Final = (*TIMED, "peak_mb", "rss_mb", *EXACT, "batch_difference", "batch_flips", *COMPARED)
# Of a classifier that may refuse: how well its highest probability tells items of its classes from those out of scope
# (oos), and which share of either it refuses.
REFUSAL_METRICS: Final = ("oos_auroc", "oos_refused", "in_scope_refused")
# weighted_metrics.METRICS by name, and figures made with them. That file imports numpy, which `retort plan` must not; a
# test holds the two together.
TASK_METRICS: Final = (
    *("accuracy", "macro_f1", "micro_f1", "entity_f1", "matthews", "pearson", "spearman", "mse"),
    *REFUSAL_METRICS,
)
KNOWN: Final = (*TASK_METRICS, *MEASURED)
LOW, HIGH = ENDS = ("_low", "_high")
# The samples that must lie beyond a percentile: benchmarks.measure.BEYOND, which cannot be imported without numpy.
BEYOND: Final = 10

NAME: Final = r"[A-Za-z][\w.-]*"  # of a baseline or a target
_RULE = re.compile(
    r"\s*(?P<metric>[a-z][\w.]*)\s*(?P<op>>=|<=|>|<)\s*(?P<bound>-?\d+(?:\.\d*)?(?:[eE]-?\d+)?)"
    rf"\s*(?:\*\s*(?P<baseline>{NAME}))?(?:\s+at\s+(?P<target>{NAME}))?(?:\s+with\s+(?P<confidence>confidence))?\s*"
)
_PERCENTILE = re.compile(r"p(?P<percent>\d+(?:\.\d+)?)_ms(?P<series>_\w+)?")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parsed line. The bound is `factor`, times the baseline's figure where there is a baseline; `target` None is
    the session that comes first; a `confident` rule asks the whole 95 % interval."""

    metric: str
    op: str
    factor: float
    baseline: str | None
    text: str
    target: str | None = None
    confident: bool = False

    @property
    def figure(self) -> str:
        """The metric without the end of its interval that the rule may name."""
        return without_end(self.metric)


def parse_rule(text: str) -> Rule:
    """Read one rule.

    Raises:
        BadRequest: it is not of the grammar, names a metric nobody measures, asks for confidence in an end, or for an
            interval where there never is one.
    """
    match = _RULE.fullmatch(text)
    if not match:
        raise BadRequest(f"rule '{text}' cannot be read.\n{_help()}")
    metric, baseline, confident = match["metric"], match["baseline"], match["confidence"] is not None
    if (figure := without_end(metric)) not in KNOWN:
        raise BadRequest(f"rule '{text}': nobody measures '{metric}'{_percentile_hint(figure)}.\n{_help()}")
    if confident and figure != metric:
        raise BadRequest(
            f"rule '{text}': '{metric}' is an end of the interval already; write '{figure} ... with confidence', or "
            "leave 'with confidence' out"
        )
    if (figure in WITHOUT_INTERVAL and confident) or (figure in (*WITHOUT_INTERVAL, *EXACT) and figure != metric):
        raise BadRequest(
            f"rule '{text}': '{figure}' never has an interval; ask for '{figure}' itself, without "
            f"{'with confidence' if confident else metric.removeprefix(figure)!r}"
        )
    if baseline == CHAMPION and figure in _AGAINST_OWN:
        raise BadRequest(
            f"rule '{text}': nobody measures '{figure}' of the champion, whose own fp32 is not measured beside it; "
            "compare the metric itself with the champion's, as in 'accuracy >= 0.99 * champion'"
        )
    return Rule(
        metric=metric,
        op=match["op"],
        factor=float(match["bound"]),
        baseline=ALIASES.get(baseline, baseline) if baseline else None,
        text=" ".join(text.split()),
        target=match["target"],
        confident=confident,
    )


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Read all rules of a gate; a gate without rules would pass everything and is refused."""
    if not texts:
        raise BadRequest(f"the gate has no rules and would pass anything: give at least one.\n{_help()}")
    return tuple(parse_rule(text) for text in texts)


def names_champion(rules: Sequence[Rule]) -> bool:
    """Whether a rule compares with the champion, so that it has to be measured too."""
    return any(rule.baseline == CHAMPION for rule in rules)


def require_targets(rules: Sequence[Rule], targets: Collection[str]) -> None:
    """Raise BadRequest where a rule asks for a target on which nothing is measured."""
    for rule in rules:
        if rule.target is not None and rule.target not in targets:
            raise BadRequest(
                f"rule '{rule.text}': nothing is measured at '{rule.target}'; targets are: {', '.join(targets)}"
            )


def require_measurable(
    rules: Sequence[Rule],
    *,
    n: int,
    real: int | None = None,
    processes: int | None = None,
    setting: str = "benchmark.",
) -> None:
    """Raise BadRequest where a rule asks for a percentile, or for an interval, that this much measuring cannot give.

    `n` are the samples of one length and `real` those of texts as they come (None: `n` too), over all processes of a
    variant; a 95 % interval takes PROCESSES `processes` (None: not looked at). `setting` is what the names of settings
    begin with where they are set.
    """
    for rule in rules:
        if match := _PERCENTILE.fullmatch(rule.figure):
            of_real = match["series"] == "_real"
            taken = real if of_real and real is not None else n
            settings = f"{setting}{'real' if of_real else 'samples'} or {setting}processes"
            _require_samples(rule, match["percent"], taken=taken, settings=settings)
        asks_interval = rule.confident or rule.figure != rule.metric
        if processes is not None and processes < PROCESSES and asks_interval and rule.figure in REPEATED:
            raise BadRequest(
                f"rule '{rule.text}': a 95 % interval takes {PROCESSES} processes or more, and {processes} "
                f"{'is' if processes == 1 else 'are'} asked for: raise {setting}processes, or ask for the figure "
                "without its interval"
            )


def _require_samples(rule: Rule, percent: str, *, taken: int, settings: str) -> None:
    needed = samples_needed(percent)
    if taken < needed:
        raise BadRequest(
            f"rule '{rule.text}': a p{percent} takes {needed:,} samples, {BEYOND} of them beyond it, and {taken:,} are "
            f"taken: raise {settings} until their product is {needed:,}, or ask for a lower percentile"
        )


def samples_needed(percent: str) -> int:
    """How many samples leave ten beyond a percentile below 100, written as in a metric's name ("99.9")."""
    return math.ceil(100 * BEYOND / (100 - Decimal(percent)))  # of floats, 100 - 99.9 is not quite 0.1


def without_end(metric: str) -> str:
    """The figure that a metric of a rule is, or whose end it is."""
    return next((metric.removesuffix(end) for end in ENDS if metric.endswith(end)), metric)


def _percentile_hint(figure: str) -> str:
    """Of a percentile beyond those that are measured: how much it would take."""
    match = _PERCENTILE.fullmatch(figure)
    if match is None or not 99 < float(match["percent"]) < 100:
        return ""
    return f", which would take {samples_needed(match['percent']):,} samples"


def _help() -> str:
    return (
        "  grammar:  metric op bound [* baseline] [at target] [with confidence], op one of >= <= > <,\n"
        "            baseline 'teacher', 'champion' or a variant's name\n"
        f"  metrics:  {', '.join(KNOWN)};\n"
        "            with _low or _high for an end of the 95 % interval where there is one\n"
        "  example:  accuracy >= 0.95 * teacher with confidence"
    )
