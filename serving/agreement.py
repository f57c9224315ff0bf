"""How far two models agree on the same requests: pure comparisons of two answers, and their sums.

classification, multi-label   same label(s); the KL divergence of the second model's probabilities from the first's, in
                              nats (of several labels the sum over them, each yes or no)
token-classification          same entities, label and place
regression                    the absolute difference
embedding                     the cosine
"""

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from serving.answers import Floats
from serving.bundle import ServingSpec, TaskKind

Measure = Literal["kl", "cosine", "difference"]
MEASURES: Final[dict[TaskKind, Measure]] = {
    "classification": "kl",
    "multi-label": "kl",
    "regression": "difference",
    "embedding": "cosine",
}
_LEAST: Final = 1e-9  # a probability of 0 would make the divergence infinite
_LIMITS: Final = ("max_items", "max_characters", "max_length", "long_texts")
_SPOT: Final = ("label", "start", "end")


class Compared(NamedTuple):
    """One item's two results; None where the task has no such thing."""

    agrees: bool | None
    value: float | None


class Sums(NamedTuple):
    """Items compared; those judged alike, of those where that is asked; the measure's mean and worst."""

    compared: int
    asked: int
    agreed: int
    mean: float | None
    worst: float | None


def unlike_answers(first: ServingSpec, second: ServingSpec) -> str:
    """Why the answers of two models cannot be compared; "" where they can: the same task, the same labels."""
    if first.task != second.task:
        return f"it does {second.task}, not {first.task}"
    if first.texts_per_item != second.texts_per_item:
        return f"it reads {second.texts_per_item} text(s) per item, not {first.texts_per_item}"
    if set(first.labels) != set(second.labels):
        return "its labels are others"
    if first.dimensions != second.dimensions:
        return f"its vectors have {second.dimensions} dimensions, not {first.dimensions}"
    return ""


def unlike_limits(first: ServingSpec, second: ServingSpec) -> str:
    """Why the second model might refuse, or cut, what the first would answer; "" where it does as the first."""
    differ = [name for name in _LIMITS if getattr(first, name) != getattr(second, name)]
    return f"its {', '.join(differ)} in serving.yaml {'is' if len(differ) == 1 else 'are'} other" if differ else ""


def compared(first: Mapping[str, Any], second: Mapping[str, Any], *, task: TaskKind) -> Compared:
    """One item's results (serving.answers) by the model in service and by another one; vectors: `cosines`."""
    if task == "classification":
        kl = sum(_kl(p, second["scores"][label]) for label, p in first["scores"].items())
        return Compared(first["label"] == second["label"], max(0.0, kl))
    if task == "multi-label":
        pairs = [(p, second["scores"][label]) for label, p in first["scores"].items()]
        kl = sum(_kl(p, q) + _kl(1 - p, 1 - q) for p, q in pairs)
        return Compared(set(first["labels"]) == set(second["labels"]), max(0.0, kl))
    if task == "regression":
        return Compared(None, abs(first["score"] - second["score"]))
    return Compared(_spots(first) == _spots(second), None)


def cosines(first: Sequence[Floats], second: Sequence[Floats]) -> list[Compared]:
    """As `compared`, of the vectors of all items in one go: of many in pure Python other threads would wait for it."""
    if not first:
        return []
    one_ND, other_ND = np.stack(first).astype(np.float64), np.stack(second).astype(np.float64)
    norms_N = np.sqrt((one_ND**2).sum(axis=1) * (other_ND**2).sum(axis=1))
    dots_N = (one_ND * other_ND).sum(axis=1)
    found_N = np.divide(dots_N, norms_N, out=np.zeros_like(norms_N), where=norms_N > 0)
    return [Compared(None, cosine) for cosine in found_N.tolist()]


class Agreement:
    """Sums over what was compared; safe from several threads."""

    def __init__(self, task: TaskKind) -> None:
        self.task = task
        self.measure = MEASURES.get(task)
        self._lock = threading.Lock()
        self._count = self._asked = self._agreed = 0
        self._sum, self._measured, self._worst = 0.0, 0, -math.inf

    def add(self, found: Sequence[Compared]) -> None:
        with self._lock:
            for one in found:
                self._count += 1
                self._asked += one.agrees is not None
                self._agreed += bool(one.agrees)
                if one.value is not None:
                    self._measured += 1
                    self._sum += one.value
                    self._worst = max(self._worst, -one.value if self.measure == "cosine" else one.value)

    def sums(self) -> Sums:
        """All so far."""
        with self._lock:
            mean = self._sum / self._measured if self._measured else None
            worst = None if mean is None else -self._worst if self.measure == "cosine" else self._worst
            return Sums(self._count, self._asked, self._agreed, mean, worst)


def _kl(p: float, q: float) -> float:
    return p * math.log(max(p, _LEAST) / max(q, _LEAST)) if p > 0 else 0.0


def _spots(result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    found = result["entities"] if "entities" in result else result["tokens"]
    return [tuple(one.get(key) for key in _SPOT) for one in found]
