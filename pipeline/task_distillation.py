"""A student of a task learns beside its labels what its fine-tuned teacher answers (1503.02531), and optionally its
hidden states.

What the teacher answers on train is computed once and kept by digest; students, seeds and repeated runs share it.
Shapes: B batch, L tokens, W words, C outputs, D and E student and teacher width.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.errors import BadRequest
from pipeline.records import Record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from pipeline.data.batches import Tokens
    from pipeline.predicting import Seen
    from pipeline.tasking.base import Places, TaskData
    from pipeline.tasking.fitted import Fitted
    from pipeline.tasks import AnyTask

    Floats = npt.NDArray[np.float32]


class TaskDistillation(Record):
    """`weight` is the share of the teacher's term, the labels have the rest; `hidden` weighs the mean squared error of
    hidden states (layers mapped uniformly, projected where widths differ), for which the teacher runs along."""

    temperature: float = Field(default=2.0, gt=0)
    weight: float = Field(default=0.5, gt=0, le=1)
    hidden: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class Lessons:
    """What the teacher answers on train, one array an item: (C,), or (W, C) word by word, NaN where it has none; the
    teacher itself where its hidden states are learned too."""

    settings: TaskDistillation
    outputs: "Sequence[Floats]"
    teacher: Any = None

    def batch(self, rows: Sequence[int], places: "Places | None", length: int) -> "torch.Tensor":
        """(B, C); or (B, L, C), each word's answer at the student's first sub-token of it, NaN elsewhere."""
        import numpy as np
        import torch

        if places is None:
            return torch.from_numpy(np.stack([self.outputs[row] for row in rows]))
        batch_BLC = np.full((len(rows), length, self.outputs[0].shape[-1]), np.nan, np.float32)
        for at, row in enumerate(rows):
            firsts = places[row][:, 0]
            found = firsts >= 0
            batch_BLC[at, firsts[found]] = self.outputs[row][found]
        return torch.from_numpy(batch_BLC)


def by_word(outputs: "Sequence[Floats]", places: "Places | None") -> "list[Floats]":
    """The teacher's answers at the words' first sub-tokens, which do not depend on how it cuts words up."""
    import numpy as np

    if places is None:
        return list(outputs)
    rows = []
    for output, words in zip(outputs, places, strict=True):
        firsts = words[:, 0]
        taken = output[np.maximum(firsts, 0)]
        taken[firsts < 0] = np.nan
        rows.append(taken)
    return rows


def lessons_from(
    folder: Path,
    task: "AnyTask",
    data: "TaskData",
    student: "Seen",
    *,
    settings: TaskDistillation,
    max_length: int,
    kept_at: Path,
) -> Lessons:
    """Ask the fine-tuned teacher in `folder` about train, or read what it said before.

    Raises:
        BadArtifact: the folder does not say what it was fine-tuned for.
        BadRequest: it was for another task or other labels, or hidden states are asked for and it reads other tokens.
    """
    from pipeline.tasking.fitted import read_fitted

    check_teacher(read_fitted(folder), data.label_names, kind=task.kind)
    teacher = _Teacher(folder, task, data, max_length)
    if settings.hidden and not same_tokens(student.tokens, teacher.train.tokens):
        raise BadRequest(
            "finetune.distillation.hidden: the student reads other tokens than its teacher (its vocabulary was pruned, "
            "or the teacher is of another kind), so their states do not stand side by side; set it to 0"
        )
    return Lessons(settings, kept(kept_at, teacher.answers), teacher.model if settings.hidden else None)


@dataclass(frozen=True)
class _Teacher:
    """A fine-tuned teacher; what is slow to load is loaded when it is first asked for, and perhaps never."""

    folder: Path
    task: "AnyTask"
    data: "TaskData"
    max_length: int

    @cached_property
    def model(self) -> Any:
        from pipeline.encoders.heads import load_tuned

        return load_tuned(self.folder, self.task, self.data.label_names, attention="sdpa")

    @cached_property
    def tokenizer(self) -> Any:
        from pipeline.encoders.teachers import load_tokenizer

        return load_tokenizer(self.folder)

    @cached_property
    def train(self) -> "Seen":
        """Train, as this teacher reads it."""
        from pipeline.predicting import seen_by

        return seen_by(self.task, self.data.train, self.tokenizer, max_length=self.max_length)

    def answers(self) -> "list[Floats]":
        from pipeline.predicting import predict

        return by_word(predict(self.model, self.train.tokens, pad_id=self.tokenizer.pad_token_id), self.train.places)


def check_teacher(theirs: "Fitted", ours: Sequence[str], *, kind: str) -> None:
    """BadRequest where the teacher was fine-tuned for another task, or answers in other labels or another order."""
    check_kind(theirs, kind)
    if tuple(theirs.labels) != tuple(ours):
        first = next((i for i, pair in enumerate(zip(theirs.labels, ours, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(theirs.labels), len(ours)) if first is None else first
        raise BadRequest(
            f"finetune.distill_from: the teacher's labels are not the task's: number {at} is "
            f"{_name(theirs.labels, at)} there and {_name(ours, at)} here ({len(theirs.labels)} and {len(ours)} "
            "labels); give task.labels in the teacher's order, or fine-tune a teacher on this data"
        )


def check_kind(theirs: "Fitted", kind: str) -> None:
    """BadRequest where the teacher was fine-tuned for another task."""
    if theirs.kind != kind:
        raise BadRequest(
            f"finetune.distill_from: the teacher was fine-tuned for {theirs.kind}, and the task is {kind}; name a "
            "teacher of this task"
        )


def _name(names: Sequence[str], at: int) -> str:
    return repr(names[at]) if at < len(names) else "none"


def kept(path: Path, compute: "Callable[[], Sequence[Floats]]") -> "list[Floats]":
    """What `compute` gives, read from `path` where an earlier run left it; written whole or not at all."""
    import numpy as np

    if path.is_file():
        with np.load(path) as stored:
            return np.split(stored["rows"], np.cumsum(stored["counts"])[:-1]) if stored["ragged"] else [*stored["rows"]]
    outputs = list(compute())
    ragged = outputs[0].ndim == 2
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.npz")  # another run may ask the same
    rows = np.concatenate(outputs) if ragged else np.stack(outputs)
    try:
        np.savez(partial, rows=rows, counts=[len(output) for output in outputs], ragged=ragged)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return outputs


def same_tokens(mine: "Tokens", theirs: "Tokens") -> bool:
    """Whether two models read the same tokens, so that their hidden states stand side by side."""
    return len(mine.flat_ids) == len(theirs.flat_ids) and bool((mine.flat_ids == theirs.flat_ids).all())


def hidden_error(
    of: "Sequence[torch.Tensor]", to: "Sequence[torch.Tensor]", mask_BL: "torch.Tensor", projections: Any
) -> "torch.Tensor":
    """Sum over the batch of the mean over a text's real tokens, channels and mapped layers of (h W - h')^2.

    `of` and `to` are every state of student and teacher, embeddings first: (B, L, D) and (B, L, E).
    """
    from pipeline.distillation.layer_maps import pairs_of

    pairs = pairs_of("uniform", student_layers=len(of) - 1, teacher_layers=len(to) - 1)
    share_BL = mask_BL / mask_BL.sum(dim=1, keepdim=True)
    errors = [
        ((projection(of[i].float()) - to[j].float()).square().mean(dim=-1) * share_BL).sum()
        for (i, j), projection in zip(pairs, projections, strict=True)
    ]
    total: torch.Tensor = sum(errors[1:], start=errors[0]) / len(errors)
    return total


def projections_for(student: Any, task: "AnyTask", lessons: Lessons) -> dict[str, Any]:
    """What is trained beside the student and dropped at the end: learned maps where widths differ, `output` of an
    embedding's vectors (D, E), and `hidden` of each mapped layer's states."""
    from torch import nn

    from pipeline.distillation.layer_maps import pairs_of
    from pipeline.encoders.families import shape_of

    mine, found = shape_of(student.config), {}
    if not task.learns_labels and mine.width != lessons.outputs[0].shape[-1]:
        found["output"] = nn.Linear(mine.width, lessons.outputs[0].shape[-1], bias=False)
    if lessons.teacher is None:
        return found
    theirs = shape_of(lessons.teacher.config)
    pairs = pairs_of("uniform", student_layers=mine.layers, teacher_layers=theirs.layers)
    same = mine.width == theirs.width
    maps = (nn.Identity() if same else nn.Linear(mine.width, theirs.width, bias=False) for _ in pairs)
    return {**found, "hidden": nn.ModuleList(maps)}
