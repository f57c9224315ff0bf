"""Distil students: the teacher frozen and in eval mode, every model cut to what the objectives read, one pass of the
teacher for all its students, on unlabelled text.

Shapes: R rows, C columns, N flat positions, M masked positions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.checkpoints import Checkpoints
from pipeline.data.feed import Feed
from pipeline.data.layout import TextBatch
from pipeline.distillation.objectives import Training
from pipeline.distillation.transfer import MaskedPositions, Pair, Seen
from pipeline.encoders.attention import moved
from pipeline.encoders.families import Tap, shape_of
from pipeline.encoders.masked_lm import masked_lm_of, mlm_head_of
from pipeline.encoders.reading import reading
from pipeline.losses import Terms
from pipeline.optimization import Optimization
from pipeline.precision import Precision, autocast
from pipeline.progress import Reporter
from pipeline.team import Team
from pipeline.training import Part, Row, Work, fit


@dataclass(frozen=True)
class Teacher:
    """A base encoder; its masked language model where an objective reads the output distribution."""

    encoder: Any
    masked_lm: Any = None


@dataclass(frozen=True)
class Pupil:
    """One student of a pass: what it learns, how, for how many real tokens; `seed` draws its projections and head."""

    encoder: Any
    objective: Training
    optimization: Optimization
    tokens: int
    seed: int = 0


@dataclass(frozen=True)
class How:
    """What decides speed and not the outcome (but for rounding)."""

    precision: Precision = "auto"
    compiled: bool = False


def distill(
    teacher: Teacher,
    pupils: Mapping[str, Pupil],
    feed: Feed,
    *,
    how: How,
    checkpoints: Checkpoints,
    reporter: Reporter,
    team: Team | None = None,
    after_step: Callable[[int], bool] = lambda _step: False,
) -> dict[str, list[Row]]:
    """Train the pupils' encoders in place and return the logged rows of each one's loss curve; `after_step` may end it.

    Dropout is off: relations are compared, not noise. Raises BadRequest at a loss that is not finite.
    """
    team = team or Team()
    with ExitStack() as stack:
        lesson = Lesson(teacher, pupils, how=how, device=team.device, stack=stack)
        parts = {name: Part(lesson.part(name), pupil.optimization, pupil.tokens) for name, pupil in pupils.items()}
        work = Work(
            title="distill",
            parts=parts,
            unit="tokens",
            step_at=feed.step_at,
            loss=lesson,
            after_step=after_step,
            position=feed.position,
            seek=feed.seek,
        )
        return fit(work, checkpoints=checkpoints, reporter=reporter, team=team)


class Lesson(nn.Module):
    """The loss of every pupil on a batch. Its parameters are the pupils' (cut to what is read) and their projections;
    the teacher is no part of it, so no checkpoint, optimizer or exchange of gradients ever sees it."""

    def __init__(
        self, teacher: Teacher, pupils: Mapping[str, Pupil], *, how: How, device: torch.device, stack: ExitStack
    ) -> None:
        super().__init__()
        self._pupils, self._how, self._device = pupils, how, device
        shape = shape_of(teacher.encoder.config)
        self._pairs = {name: Pair(shape_of(pupil.encoder.config), shape) for name, pupil in pupils.items()}
        taps = {name: pupil.objective.taps(self._pairs[name]) for name, pupil in pupils.items()}
        whole = teacher.masked_lm or teacher.encoder
        whole.requires_grad_(requires_grad=False).eval().to(device)
        # In closures, not in attributes: what nn.Module finds in its attributes it takes for its own.
        self._teach = stack.enter_context(
            reading(teacher.encoder, _union(of for _, of in taps.values()), compiled=how.compiled)
        )
        self._teacher_head = mlm_head_of(teacher.masked_lm) if teacher.masked_lm is not None else None
        self.parts = nn.ModuleDict()
        self._learn, self._heads = {}, {}
        for name, pupil in pupils.items():
            part, self._heads[name] = _trained(pupil, self._pairs[name], teacher, device)
            self.parts[f"of {name}"] = part  # a bare name may be one that torch's modules have for themselves
            self._learn[name] = stack.enter_context(reading(pupil.encoder, taps[name][0], compiled=how.compiled))

    def part(self, name: str) -> nn.Module:
        """What is trained of a pupil."""
        return self.parts[f"of {name}"]

    def forward(self, batch: TextBatch, names: Sequence[str], watch: bool) -> dict[str, Terms]:
        """Each named pupil's loss terms, and its agreement with the teacher where `watch` asks for it."""
        with autocast(self._device.type, self._how.precision):
            with torch.no_grad():
                taught = self._teach(batch)
            masked = _masked(batch, self._device)
            return {name: self._terms(name, batch, taught, masked, watch=watch) for name in names}

    def _terms(
        self, name: str, batch: TextBatch, taught: Mapping[Tap, Any], masked: MaskedPositions | None, *, watch: bool
    ) -> Terms:
        objective = self._pupils[name].objective
        part: Any = self.part(name)
        head = self._heads[name]
        seen = Seen(
            student=self._learn[name](batch),
            teacher=taught,
            layout=batch.layout,
            masked=masked,
            student_head=mlm_head_of(head) if head is not None else None,
            teacher_head=self._teacher_head,
        )
        asked = {"pair": self._pairs[name], "projections": part["projections"]}
        losses = objective.loss(seen, **asked)
        if not watch:
            return Terms(losses)
        with torch.no_grad():
            return Terms(losses, objective.agreement(seen, **asked))


def _trained(pupil: Pupil, pair: Pair, teacher: Teacher, device: torch.device) -> tuple[nn.ModuleDict, Any]:
    """What is trained for a pupil, and its masked language model where the objective needs one (its head begins as the
    teacher's, and is dropped with the projections)."""
    torch.manual_seed(pupil.seed)
    projections = pupil.objective.projections(pair)
    head = None
    if pupil.objective.masking is not None:
        head = masked_lm_of(pupil.encoder, seed=pupil.seed, source=teacher.masked_lm)
    pupil.encoder.eval()
    return nn.ModuleDict({"student": head or pupil.encoder, "projections": projections}).to(device), head


def _union(taps: Iterable[Iterable[Tap]]) -> tuple[Tap, ...]:
    return tuple(dict.fromkeys(tap for each in taps for tap in each))


def _masked(batch: TextBatch, device: torch.device) -> MaskedPositions | None:
    if batch.masked is None:
        return None
    found = batch.masked
    count_B = np.bincount(found.documents_M, minlength=len(batch.layout))
    weights_M = (1.0 / count_B[found.documents_M]).astype(np.float32)
    return MaskedPositions(*(moved(x, device) for x in (found.positions_M, found.labels_M, weights_M)))
