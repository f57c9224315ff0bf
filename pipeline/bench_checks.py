"""What rules of `retort bench` ask for that its sessions would not measure, refused before the first one. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from benchmarks.targets import SERVED
from pipeline.errors import BadRequest
from pipeline.gates import COMPARED, MEASURED, SEARCHED, TASK_METRICS, TEACHER, Rule

if TYPE_CHECKING:
    from benchmarks.targets import Target

AGREEMENT: Final = "agreement"
_TEACHER: Final = "teacher"  # as people write TEACHER


def with_own_teacher(rules: Sequence[Rule], bundles: Collection[str]) -> tuple[Rule, ...]:
    """A bundle that is called teacher is the one that rules mean by it."""
    if _TEACHER not in bundles or TEACHER in bundles:
        return tuple(rules)
    return tuple(replace(rule, baseline=_TEACHER) if rule.baseline == TEACHER else rule for rule in rules)


def require_judged(
    rules: Sequence[Rule],
    *,
    bundles: Collection[str],
    targets: "Mapping[str, Target]",
    metrics: Collection[str] | None,
    labels: bool,
    bounded: bool,
) -> None:
    """Raise BadRequest where a rule's baseline is none of the `bundles`, or its figure is not measured.

    `targets` are those of the sessions, the one that rules without `at` speak of first; `metrics` the task's, None
    where nothing says what is right; `labels` whether answers are labels, `bounded` whether a rate is searched for.
    """
    known = {*(metrics or ()), *MEASURED} - {*COMPARED} | ({AGREEMENT} if labels else set())
    known -= set() if bounded else {*SEARCHED}
    for rule in rules:
        if rule.figure not in known:
            why = _why_unknown(rule.figure, labelled=metrics is not None)
            raise BadRequest(f"rule '{rule.text}': {rule.figure} {why}; known here: {', '.join(sorted(known))}")
        _require_served(rule, targets)
        _require_bundle(rule, bundles)


def _why_unknown(figure: str, *, labelled: bool) -> str:
    if figure in SEARCHED:
        return "is measured under a bound on latency: add --bound-ms"
    if figure in TASK_METRICS:
        return "is no metric of this task" if labelled else "is judged on labelled examples: add --data"
    if figure == AGREEMENT:
        return "takes answers that are labels, and these are numbers, which are never quite the same"
    return "is measured in a run alone (`retort run`)"


def _require_served(rule: Rule, targets: "Mapping[str, Target]") -> None:
    kind = targets[rule.target or next(iter(targets))].kind
    if rule.figure in SEARCHED and kind != SERVED:
        raise BadRequest(
            f"rule '{rule.text}': {rule.figure} is measured at {SERVED} alone, which the server runs, and this asks at "
            f"{kind}: add 'at {SERVED}' and --target {SERVED}"
        )


def _require_bundle(rule: Rule, bundles: Collection[str]) -> None:
    if rule.baseline is None or rule.baseline in bundles:
        return
    said = _TEACHER if rule.baseline == TEACHER else rule.baseline
    raise BadRequest(
        f"rule '{rule.text}': no bundle is called '{said}'; there are {', '.join(bundles)}: name one of these, or call "
        f"one so by {said}=FOLDER"
    )
