"""Fine-tune an encoder for a task, with its labels, its teacher's answers, or both: early stopping on the dev split,
the best state kept. The test split is not in reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.checkpoints import Checkpoints
from pipeline.data.batches import length_batches
from pipeline.encoders.attention import isolating
from pipeline.errors import BadArtifact
from pipeline.losses import Terms
from pipeline.optimization import Optimization
from pipeline.precision import Precision, autocast
from pipeline.predicting import Seen, inputs_for, predict, unreadable
from pipeline.progress import Reporter
from pipeline.schedule import Schedule
from pipeline.task_distillation import Lessons, hidden_error, projections_for
from pipeline.tasking.base import Places, TaskData
from pipeline.tasking.fitted import Fitted
from pipeline.tasks import AnyTask
from pipeline.training import Part, Step, Work, fit

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Outcome:
    """The loss curve, the dev metric after each epoch, the best of them (whose weights the model now has), and what
    was chosen on dev with these weights."""

    history: list[dict[str, float]]
    dev_scores: list[float]
    best_epoch: int
    fitted: Fitted


class _Piece(NamedTuple):
    """The rows of a part of a step, and those of the whole step."""

    rows: Sequence[int]
    step: Sequence[int]


def finetune(
    model: Any,
    data: TaskData,
    *,
    train: Seen,
    dev: Seen,
    pad_id: int,
    schedule: Schedule,
    optimization: Optimization,
    checkpoints: Checkpoints,
    reporter: Reporter,
    title: str,
    lessons: Lessons | None = None,
) -> Outcome:
    """Train `model` in place; on return it holds the weights of the best epoch by the dev metric."""
    import torch

    task, plan = train.task, _Plan(train.tokens.lengths.tolist(), schedule)
    state: dict[str, Any] = {"scores": [], "best": {}}
    torch.manual_seed(schedule.seed)
    model.train()
    loss = _Loss(model, data, train, pad_id=pad_id, precision=schedule.precision, lessons=lessons)

    def after_step(done: int) -> bool:
        if done not in plan.ends:
            return False
        outputs = finite(predict(model, dev.tokens, pad_id=pad_id))
        scores = _keep_best(model, score_on_dev(task, data, outputs, dev.places), state)
        reporter.metrics("model", step=done, values={f"dev_{task.metrics[0]}": scores[-1]})
        reporter.line(f"  {title}: epoch {len(scores)} of {schedule.epochs}, dev {task.metrics[0]} {scores[-1]:.4f}")
        return len(scores) - 1 - _best(scores) >= schedule.patience

    parts = {"model": Part(loss.trained, optimization, budget=len(plan.batches))}
    work = Work(title, parts, "steps", plan.step_at, loss, after_step=after_step, state=state)
    with isolating(model.config):
        history = fit(work, checkpoints=checkpoints, reporter=reporter)["model"]
    model.load_state_dict(state["best"])
    model.eval()
    fitted = task.fit(predict(model, dev.tokens, pad_id=pad_id), data, dev.places)
    return Outcome(history, dev_scores=state["scores"], best_epoch=_best(state["scores"]) + 1, fitted=fitted)


def as_it_is(model: Any, data: TaskData, dev: Seen, *, pad_id: int) -> Outcome:
    """The outcome of no training: the model measured on dev."""
    outputs = finite(predict(model, dev.tokens, pad_id=pad_id))
    score = score_on_dev(dev.task, data, outputs, dev.places)
    fitted = dev.task.fit(outputs, data, dev.places)
    return Outcome([], dev_scores=[score], best_epoch=0, fitted=fitted)


def checked_survey(task: AnyTask, data: TaskData, train: Seen, dev: Seen, tokenizer: Any) -> dict[str, Any]:
    """The survey of train and dev; BadArtifact where the tokenizer knows nothing of most texts."""
    import numpy as np

    from pipeline.data.survey import survey

    seen = {"train": train, "dev": dev}
    empty = {name: unreadable(each.tokens, tokenizer) for name, each in seen.items()}
    for name, each in seen.items():
        if len(empty[name]) * 2 > len(each.tokens):
            raise BadArtifact(
                f"{len(empty[name])} of the {len(each.tokens)} {name} texts are unknown tokens only, the first "
                f"{each.split.items[empty[name][0]][0][:60]!r}: this teacher's tokenizer does not know their language; "
                "choose a teacher that does"
            )
    return survey(
        {name: each.split.items for name, each in seen.items()},
        lengths={name: np.asarray(each.tokens.lengths) for name, each in seen.items()},
        counts={name: task.label_counts(each.split, data.label_names) for name, each in seen.items()},
        unknown=empty,
        cut={name: each.cut(tokenizer) for name, each in seen.items()},
    )


class _Plan:
    """Which rows each step reads: every epoch shuffled anew, in batches of like lengths."""

    def __init__(self, lengths: Sequence[int], schedule: Schedule) -> None:
        self._lengths, self._parts = lengths, schedule.micro_batches
        epochs = [
            length_batches(lengths, token_budget=schedule.batch_tokens, seed=schedule.seed, epoch=epoch)
            for epoch in range(schedule.epochs)
        ]
        self.batches = [rows for batches in epochs for rows in batches]
        self.ends = {sum(map(len, epochs[: epoch + 1])) for epoch in range(schedule.epochs)}

    def step_at(self, step: int) -> Step:
        rows = self.batches[step]
        pieces = [_Piece(part, rows) for n in range(self._parts) if (part := rows[n :: self._parts])]
        positions = sum(len(piece.rows) * max(self._lengths[row] for row in piece.rows) for piece in pieces)
        return Step(pieces, tokens=sum(self._lengths[row] for row in rows), positions=positions)


class _Loss:
    """The terms of a piece: sums, each divided by what the whole step has of it."""

    def __init__(
        self,
        model: Any,
        data: TaskData,
        train: Seen,
        *,
        pad_id: int,
        precision: Precision,
        lessons: Lessons | None,
    ) -> None:
        from torch import nn

        self.model, self.task, self.train, self.lessons = model, train.task, train, lessons
        self.pad_id, self.precision = pad_id, precision
        self.criterion = self.task.criterion(data) if self.task.learns_labels else None
        self.projections = nn.ModuleDict({} if lessons is None else projections_for(model, self.task, lessons))

    @property
    def trained(self) -> Any:
        """The model, with the projections that are dropped at the end."""
        from torch import nn

        both = {"model": self.model, "projections": self.projections}
        return nn.ModuleDict(both) if self.projections else self.model

    def __call__(self, piece: _Piece, _parts: Sequence[str], _watch: bool) -> dict[str, Terms]:
        import torch

        inputs = inputs_for(self.model, self.train.tokens, piece.rows, pad_id=self.pad_id)
        learns_hidden = self.lessons is not None and self.lessons.teacher is not None
        with autocast("cpu", self.precision):
            output = self.model(**inputs, **({"output_hidden_states": True} if learns_hidden else {}))
        mine = self._targets(piece.rows)
        whole = mine if len(piece.rows) == len(piece.step) else self._targets(piece.step)
        targets = torch.from_numpy(mine)
        terms = {}
        share = 0.0 if self.lessons is None else self.lessons.settings.weight
        if self.criterion is not None and share < 1:
            terms["task"] = self.criterion.total(output.logits, targets) * ((1 - share) / self.criterion.mass(whole))
        if self.lessons is not None:
            share = share if self.task.learns_labels else 1.0
            terms["teacher"] = self._distilled(output, targets, piece) * (share / self.task.units(whole))
        if learns_hidden:
            terms["hidden"] = self._hidden(output, piece) / len(piece.step)
        return {"model": Terms(terms)}

    def _targets(self, rows: Sequence[int]) -> Any:
        length = int(self.train.tokens.lengths[list(rows)].max())
        return self.task.targets(self.train.split, rows, self.train.places, length)

    def _distilled(self, output: Any, targets: "torch.Tensor", piece: _Piece) -> "torch.Tensor":
        assert self.lessons is not None
        of = output.logits
        if "output" in self.projections:
            of = self.projections["output"](of.float())
        length = targets.shape[1] if self.train.places is not None else 0
        to = self.lessons.batch(piece.rows, self.train.places, length)
        return self.task.distilled(of, to, targets, t=self.lessons.settings.temperature)

    def _hidden(self, output: Any, piece: _Piece) -> "torch.Tensor":
        import torch

        assert self.lessons is not None
        teacher, projections = self.lessons.teacher, self.projections["hidden"]
        inputs = inputs_for(teacher, self.train.tokens, piece.rows, pad_id=self.pad_id)
        with torch.no_grad(), autocast("cpu", self.precision):
            theirs = teacher(**inputs, output_hidden_states=True).hidden_states
        error = hidden_error(output.hidden_states, theirs, inputs["attention_mask"], projections=projections)
        return error * self.lessons.settings.hidden


def score_on_dev(task: AnyTask, data: TaskData, outputs: "Sequence[Any]", places: Places | None) -> float:
    """The task's first metric, with what is chosen on dev chosen anew."""
    fitted = task.fit(outputs, data, places)
    return task.score(task.metrics[0], task.answers(outputs, fitted, places), task.truths(data.dev, fitted))


def finite(outputs: "Sequence[Any]") -> "Sequence[Any]":
    """The outputs; BadArtifact where one is not finite."""
    import numpy as np

    if not all(np.isfinite(output).all() for output in outputs):
        raise BadArtifact(
            "fine-tuning gave answers that are not finite; try a lower finetune.optimization.learning_rate"
        )
    return outputs


def _keep_best(model: Any, score: float, state: dict[str, Any]) -> list[float]:
    """Note an epoch's dev score, and the weights where it is the best so far; returns all scores."""
    if not state["scores"] or score > max(state["scores"]):
        state["best"] = {name: value.detach().clone() for name, value in model.state_dict().items()}
    scores: list[float] = state["scores"]
    scores.append(score)
    return scores


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)
