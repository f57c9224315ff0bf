"""Distil a student: the teacher frozen and in eval mode, both cut to what the objective reads, on unlabelled text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.data.batches import Tokens, length_batches, padding_share
from pipeline.distillation.objectives import HiddenObjective, Pair, RelationObjective
from pipeline.encoders.families import reading, shape_of
from pipeline.errors import BadArtifact
from pipeline.progress import Reporter
from pipeline.training import Checkpoints, Optimization, Work, autocast, fit

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recipe:
    """How long and in what portions: `tokens` real tokens in all, at most `batch_tokens` (padding counted) at a
    time."""

    objective: RelationObjective | HiddenObjective
    tokens: int
    batch_tokens: int
    seed: int
    optimization: Optimization


def batch_plan(lengths: Sequence[int], *, tokens: int, batch_tokens: int, seed: int) -> list[list[int]]:
    """The rows of every step until `tokens` real tokens are used up, epoch after epoch, fixed by `seed`."""
    if not lengths:
        raise BadArtifact("the distillation text is empty after tokenization; check the `text` source")
    plan: list[list[int]] = []
    used, epoch = 0, 0
    while used < tokens:
        for rows in length_batches(lengths, token_budget=batch_tokens, seed=seed, epoch=epoch):
            plan.append(rows)
            used += sum(lengths[row] for row in rows)
            if used >= tokens:
                break
        epoch += 1
    return plan


def distill(
    teacher: Any,
    student: Any,
    tokens: Tokens,
    recipe: Recipe,
    *,
    pad_id: int,
    checkpoints: Checkpoints,
    reporter: Reporter,
) -> list[dict[str, float]]:
    """Train `student` in place and return the logged rows of the loss curve. Dropout is off: relations are compared,
    not noise."""
    import torch
    from torch import nn

    pair = Pair(student=shape_of(student.config), teacher=shape_of(teacher.config))
    plan = batch_plan(tokens.lengths.tolist(), tokens=recipe.tokens, batch_tokens=recipe.batch_tokens, seed=recipe.seed)
    reporter.line(f"  {len(plan)} steps, {padding_share(tokens.lengths, plan):.1%} of their tokens are padding")
    torch.manual_seed(recipe.seed)
    projections = recipe.objective.projections(pair)
    student_taps, teacher_taps = recipe.objective.taps(pair)
    teacher.requires_grad_(requires_grad=False).eval()
    student.eval()
    with reading(teacher, teacher_taps) as of_teacher, reading(student, student_taps) as of_student:

        def loss_at(step: int) -> "tuple[dict[str, torch.Tensor], int]":
            batch = tokens.batch(plan[step], pad_id=pad_id)
            input_ids_BL, mask_BL = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
            with autocast(input_ids_BL.device.type):
                with torch.no_grad():
                    teacher(input_ids=input_ids_BL, attention_mask=mask_BL)
                student(input_ids=input_ids_BL, attention_mask=mask_BL)
                lengths = batch.attention_mask.sum(axis=1).tolist()
                terms = recipe.objective.loss(
                    of_student(), of_teacher(), pair=pair, lengths=lengths, projections=projections
                )
            return terms, sum(lengths)

        work = Work(title="distill", module=nn.ModuleList([student, projections]), steps=len(plan), loss_at=loss_at)
        return fit(work, recipe.optimization, checkpoints=checkpoints, reporter=reporter)
