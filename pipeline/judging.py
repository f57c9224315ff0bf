"""Each variant's outputs as answers, and what is found of them: the task's figures, and beside a variant's own fp32 and
the teacher's what lies behind them (diagnostics.py). What makes no sense for a task is not there.

Shapes: N items, C labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from benchmarks.report import BASELINE
from benchmarks.targets import Torch
from pipeline import diagnostics, quality
from pipeline.diagnostics import McNemar, Part
from pipeline.errors import BadArtifact, BadRequest
from pipeline.quality import Difference, Score
from pipeline.tasking.fitted import Fitted, fitted_of, read_fitted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from benchmarks.session import Variant
    from pipeline.tasking.base import Judged, TaskData
    from pipeline.tasks import AnyTask

FP32: Final = "-onnx-fp32"


@dataclass(frozen=True)
class Answered:
    """One variant: every figure of the task, the first of which variants are compared by; how many tokens each of its
    items has; and, where answers are more or less sure, their probabilities (N, C)."""

    figures: "Mapping[str, Judged]"
    lengths: Sequence[int]
    chances: "npt.NDArray[np.floating] | None" = None

    @property
    def first(self) -> "Judged":
        return next(iter(self.figures.values()))


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One variant less another on the same items: of the task's metric and of the calibration error; whether the one
    has by chance other items right than the other (one label of several), and how many it answers otherwise."""

    against: str
    difference: Difference
    mcnemar: McNemar | None = None
    flips: Score | None = None
    ece_difference: Difference | None = None


class Behind(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What lies behind one variant's metric."""

    by_length: dict[str, Score]
    ece: Score | None = None
    against_fp32: Comparison | None = None
    against_teacher: Comparison | None = None
    by_class: dict[str, Part] = {}


# -- answers -----------------------------------------------------------------------------------------------------------


def said_of(variant: "Variant") -> tuple[Fitted, int]:
    """What a variant answers in, and how many tokens of a text it reads: of a bundle what it says itself."""
    from serving.bundle import read_bundle

    if isinstance(variant.target, Torch):
        return read_fitted(variant.path), variant.target.max_length
    spec = read_bundle(variant.path).spec
    return fitted_of(spec), spec.reach


def answered(variant: "Variant", out: Path, task: "AnyTask", data: "TaskData") -> Answered:
    """A variant's answers by what its own folder says of labels and thresholds, and by its own tokenizer.

    Raises:
        BadArtifact: it answers in other labels than the data's, or its outputs are not finite.
    """
    from tokenizers import Tokenizer

    from benchmarks.receipt import read_logits

    outputs = read_logits(out, variant.name)
    quality.require_finite(outputs)
    fitted, reach = said_of(variant)
    _require_labels(variant.name, fitted, data.label_names)
    tokenizer = Tokenizer.from_file(str(variant.path / "tokenizer.json"))
    places = task.places(data.test, tokenizer, max_length=reach)
    figures = task.judged(outputs, data, fitted, places)
    answers = len(next(iter(figures.values())).answers)
    lengths = _lengths(data, tokenizer, reach=reach, answers=answers)
    return Answered(figures, lengths, _chances(outputs[: len(data.test.items)], task))


def _require_labels(name: str, fitted: Fitted, labels: tuple[str, ...]) -> None:
    if fitted.labels != labels:
        raise BadArtifact(
            f"{name} answers in the labels {_shown(fitted.labels)}, the data has {_shown(labels)}: judge it on the "
            "data it was fine-tuned for, or fine-tune it on this"
        )


def _shown(labels: tuple[str, ...], *, most: int = 10) -> str:
    more = f", ... ({len(labels)})" if len(labels) > most else ""
    return (", ".join(labels[:most]) or "none") + more


def _lengths(data: "TaskData", tokenizer: Any, *, reach: int, answers: int) -> list[int]:
    """Tokens that the variant reads of each answered item; of a pair of vectors those of the longer text."""
    from pipeline.data.batches import tokenize

    lengths = tokenize(data.test.items, tokenizer=tokenizer, max_length=reach).lengths
    found: list[int] = lengths.reshape(answers, -1).max(axis=1).tolist()
    return found


def _chances(outputs: "Sequence[npt.NDArray[np.float32]]", task: "AnyTask") -> "npt.NDArray[np.floating] | None":
    import numpy as np

    from serving.answers import probabilities

    return probabilities(np.stack(outputs), task=task.kind) if "ece" in task.compared else None


# -- what is found of them ---------------------------------------------------------------------------------------------


def scores(found: Answered) -> dict[str, Score]:
    """Every figure of the task with its interval, the first one first."""
    return {name: quality.score(one.metric, one.answers, one.labels) for name, one in found.figures.items()}


def own_fp32(name: str, names: Iterable[str]) -> str:
    """The ONNX fp32 that a variant was made from, or is: that of the same student, or the teacher's.

    Raises:
        BadRequest: it is not among `names`.
    """
    owners = [each.removesuffix(FP32) for each in names if each.endswith(FP32)]
    mine = [owner for owner in owners if name.startswith(f"{owner}-")]
    if not mine:
        known = ", ".join(owner + FP32 for owner in owners) or "none"
        raise BadRequest(
            f"variant {name} has no fp32 of its own to be compared with: measured in fp32 are {known}; measure it "
            f"beside NAME{FP32}, NAME being what its own name begins with"
        )
    return max(mine, key=len) + FP32


def behind(found: Mapping[str, Answered], task: "AnyTask", label_names: Sequence[str]) -> dict[str, Behind]:
    """By variant; a variant has no comparison with itself."""
    own = {name: own_fp32(name, found) for name in found}
    pairs = {(name, other) for name in found for other in (own[name], BASELINE) if other != name}
    compared = {(a, b): compare(found[a], found[b], against=b, task=task) for a, b in pairs}
    return {
        name: Behind(
            by_length=diagnostics.by_length(one.first.metric, one.first.answers, one.first.labels, one.lengths),
            ece=_ece(one),
            against_fp32=compared.get((name, own[name])),
            against_teacher=compared.get((name, BASELINE)),
            by_class={} if task.numeric else diagnostics.by_class(one.first.answers, one.first.labels, label_names),
        )
        for name, one in found.items()
    }


def rival(one: Answered, teacher: Answered, task: "AnyTask") -> Behind:
    """What can be known of a variant that this run did not make, whose own fp32 is not here."""
    return Behind({}, ece=_ece(one), against_teacher=compare(one, teacher, against=BASELINE, task=task))


def _ece(one: Answered) -> Score | None:
    return None if one.chances is None else diagnostics.calibration(one.chances, one.first.labels)


def compare(mine: Answered, theirs: Answered, *, against: str, task: "AnyTask") -> Comparison:
    """Two variants' answers to the same items, paired."""
    a, b, labels = mine.first.answers, theirs.first.answers, mine.first.labels
    ece = None
    if mine.chances is not None and theirs.chances is not None:
        ece = diagnostics.calibration_difference(mine.chances, theirs.chances, labels)
    return Comparison(
        against,
        difference=quality.paired_difference(mine.first.metric, a, b, labels),
        mcnemar=diagnostics.mcnemar(a, b, labels) if task.kind == "classification" else None,
        flips=None if task.numeric else diagnostics.flips(a, b),
        ece_difference=ece,
    )


def gate_scores(each: Behind, task: "AnyTask", *, n: int) -> dict[str, Score]:
    """What a gate may ask of a variant beside its own fp32, on n items; an fp32 has lost nothing to itself."""
    compared = each.against_fp32
    if compared is None:
        found = {name: Score(name, 0.0, 0.0, 0.0, n) for name in ("drop", "flips")}
    else:
        lost = compared.difference
        found = {"drop": Score("drop", -lost.estimate, -lost.high, -lost.low, lost.n)}
        found |= {"flips": compared.flips} if compared.flips is not None else {}
    found |= {"ece": each.ece} if each.ece is not None else {}
    return {name: found[name] for name in task.compared}


def facts_of(behind_each: Mapping[str, Behind]) -> dict[str, dict[str, Any]]:
    """For the manifest, by part and variant; the classes, of which there may be many, are in the file alone."""
    told = {name: msgspec.to_builtins(each) for name, each in behind_each.items()}
    parts = ("against_fp32", "against_teacher", "by_length", "ece")
    return {part: {name: each[part] for name, each in told.items() if part in each} for part in parts}
