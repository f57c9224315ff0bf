"""Fine-tune an encoder for a task: early stopping on the dev split, the best state kept. The test split is not in
reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints import Checkpoints
from pipeline.data.batches import Tokens, length_batches, tokenize
from pipeline.encoders.families import reads_token_types
from pipeline.errors import BadArtifact
from pipeline.losses import Terms
from pipeline.optimization import Optimization
from pipeline.precision import autocast
from pipeline.progress import Reporter
from pipeline.quiet import quiet_transformers
from pipeline.tasks import Split, Task, TaskData
from pipeline.training import Part, Step, Work, fit

if TYPE_CHECKING:
    import torch

EVALUATION_TOKENS = 8192


@dataclass(frozen=True)
class Schedule:
    """How long: at most `epochs`, each of batches of `batch_tokens` (padding counted); ends after `patience` worse
    evaluations."""

    epochs: int
    batch_tokens: int
    max_length: int
    patience: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """The loss curve, the dev metric after each epoch, and the best of them (whose weights the model now has)."""

    history: list[dict[str, float]]
    dev_scores: list[float]
    best_epoch: int


def load_for_task(folder: Path, task: Task, label_names: Sequence[str], *, seed: int) -> Any:
    """The encoder in `folder` with a fresh head for the task, in fp32; the head is drawn from `seed` alone.

    A head that the folder brings from another task is not used, whatever its size.
    """
    import torch
    from optimum.exporters.tasks import TasksManager
    from transformers import AutoConfig

    head = task.head(label_names)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config.problem_type = head.problem_type
    config.id2label = dict(enumerate(label_names)) or {0: "score"}
    config.label2id = {name: index for index, name in config.id2label.items()}
    quiet_transformers()
    torch.manual_seed(seed)
    model_class = TasksManager.get_model_class_for_task(head.optimum_task, model_type=config.model_type)
    model = model_class.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,
    )
    _draw_head(model, seed=seed)
    return model


def _draw_head(model: Any, *, seed: int) -> None:
    """Everything beside the base encoder, as transformers would draw it."""
    import torch

    torch.manual_seed(seed)
    parts = [part for name, part in model.named_children() if name != model.base_model_prefix]
    for layer in (layer for part in parts for layer in part.modules() if isinstance(layer, torch.nn.Linear)):
        torch.nn.init.normal_(layer.weight, std=model.config.initializer_range)
        torch.nn.init.zeros_(layer.bias)


def finetune(
    model: Any,
    tokenizer: Any,
    task: Task,
    data: TaskData,
    schedule: Schedule,
    optimization: Optimization,
    *,
    checkpoints: Checkpoints,
    reporter: Reporter,
    title: str,
) -> Outcome:
    """Train `model` in place; on return it holds the weights of the best epoch by the dev metric."""
    import torch

    train, dev = (
        tokenize(split.items, tokenizer=tokenizer, max_length=schedule.max_length) for split in (data.train, data.dev)
    )
    pad_id = tokenizer.pad_token_id
    lengths = train.lengths.tolist()
    epochs = [
        length_batches(lengths, token_budget=schedule.batch_tokens, seed=schedule.seed, epoch=epoch)
        for epoch in range(schedule.epochs)
    ]
    plan = [rows for batches in epochs for rows in batches]
    ends = [sum(map(len, epochs[: epoch + 1])) for epoch in range(schedule.epochs)]
    state: dict[str, Any] = {"scores": [], "best": {}}
    torch.manual_seed(schedule.seed)
    model.train()

    def step_at(step: int) -> Step:
        rows = plan[step]
        positions = len(rows) * max(lengths[row] for row in rows)
        return Step([rows], tokens=sum(lengths[row] for row in rows), positions=positions)

    def loss(rows: Sequence[int], _parts: Sequence[str], _watch: bool) -> dict[str, Terms]:
        with autocast("cpu"):
            logits = _forward(model, train, rows, pad_id)
        labels = torch.tensor([data.train.labels[row] for row in rows])
        return {"model": Terms({"task": task.loss(logits, labels)})}

    def after_step(done: int) -> bool:
        if done not in ends:
            return False
        score = evaluate(model, dev, data.dev, task, pad_id=pad_id)
        _keep_best(model, score, state)
        scores = state["scores"]
        reporter.line(f"  {title}: epoch {len(scores)} of {schedule.epochs}, dev {task.metric_name} {score:.4f}")
        return len(scores) - 1 - _best(scores) >= schedule.patience

    parts = {"model": Part(model, optimization, budget=len(plan))}
    work = Work(title, parts, "steps", step_at, loss, after_step=after_step, state=state)
    history = fit(work, checkpoints=checkpoints, reporter=reporter)["model"]
    model.load_state_dict(state["best"])
    model.eval()
    return Outcome(history=history, dev_scores=state["scores"], best_epoch=_best(state["scores"]) + 1)


def _keep_best(model: Any, score: float, state: dict[str, Any]) -> None:
    """Note an epoch's dev score, and the weights where it is the best so far."""
    if not state["scores"] or score > max(state["scores"]):
        state["best"] = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state["scores"].append(score)


def evaluate(model: Any, tokens: Tokens, split: Split, task: Task, *, pad_id: int) -> float:
    """The task's metric of `model` on a tokenized split, in fp32."""
    import numpy as np
    import torch

    training = model.training
    model.eval()
    rows_in_order: list[int] = []
    outputs = []
    budget = max(EVALUATION_TOKENS, int(tokens.lengths.max()))
    with torch.inference_mode():
        for rows in length_batches(tokens.lengths, token_budget=budget, seed=0, epoch=0):
            outputs.append(_forward(model, tokens, rows, pad_id).float().numpy())
            rows_in_order += rows
    model.train(training)
    logits_NC = np.concatenate(outputs)[np.argsort(rows_in_order)]
    if not np.isfinite(logits_NC).all():
        raise BadArtifact(
            "fine-tuning gave answers that are not finite; try a lower finetune.optimization.learning_rate"
        )
    return task.score(logits_NC, split.labels)


def _forward(model: Any, tokens: Tokens, rows: Sequence[int], pad_id: int) -> "torch.Tensor":
    import torch

    batch = tokens.batch(rows, pad_id=pad_id)
    fed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if reads_token_types(model.config):
        fed["token_type_ids"] = batch.token_type_ids
    logits: torch.Tensor = model(**{name: torch.from_numpy(value) for name, value in fed.items()}).logits
    return logits


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)
