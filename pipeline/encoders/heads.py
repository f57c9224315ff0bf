"""An encoder with what a task needs behind it: made fresh for fine-tuning, or read back as fine-tuning left it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.encoders.sentences import Pooled, SentenceEncoder, read_pooling
from pipeline.encoders.teachers import load_encoder, load_weights, read_config
from pipeline.quiet import quiet_transformers
from pipeline.tasking.base import OptimumTask
from pipeline.tasking.embedding import Embedding
from pipeline.tasks import AnyTask


def load_for_task(
    folder: Path, task: AnyTask, label_names: Sequence[str], *, seed: int, teacher: Path | None = None
) -> Any:
    """The encoder in `folder` with a fresh head for the task, in fp32; the head is drawn from `seed` alone.

    A head that the folder brings from another task is not used, whatever its size. An embedding has none: its encoder
    gets a pooling, which may be that of the folder `teacher`.
    """
    import torch
    from transformers import AutoConfig

    if isinstance(task, Embedding):
        return SentenceEncoder(load_encoder(folder), pooled_as(task, teacher or folder))
    head = task.head(label_names)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config.problem_type = head.problem_type
    config.num_labels = head.num_outputs
    config.id2label = dict(enumerate(label_names)) or {0: "score"}
    config.label2id = {name: index for index, name in config.id2label.items()}
    quiet_transformers()
    torch.manual_seed(seed)
    model = _class_for(head.optimum_task, config.model_type).from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,
    )
    _draw_head(model, seed=seed)
    return model


def load_tuned(folder: Path, task: AnyTask, label_names: Sequence[str] = (), *, attention: str = "eager") -> Any:
    """What fine-tuning left in `folder`, in fp32 and eval mode; BadArtifact where its weights are not whole.

    `attention` is transformers' name of one, which a family that has its own alone does without.
    """
    if isinstance(task, Embedding):
        encoder = load_encoder(folder)
        encoder.set_attn_implementation(attention)
        return SentenceEncoder(encoder, pooled_as(task, folder)).eval()
    model_type = str(read_config(folder).get("model_type"))
    model = load_weights(folder, _class_for(task.head(label_names).optimum_task, model_type))
    model.set_attn_implementation(attention)
    return model


def pooled_as(task: Embedding, folder: Path) -> Pooled:
    """How the task pools the encoder in a folder."""
    pooling = task.pooling if task.pooling != "as-teacher" else read_pooling(folder) or "mean"
    return Pooled(pooling, task.normalize)


def _class_for(optimum_task: OptimumTask, model_type: str) -> Any:
    from optimum.exporters.tasks import TasksManager

    return TasksManager.get_model_class_for_task(optimum_task, model_type=model_type)


def _draw_head(model: Any, *, seed: int) -> None:
    """Everything beside the base encoder, as transformers would draw it."""
    import torch

    torch.manual_seed(seed)
    parts = [part for name, part in model.named_children() if name != model.base_model_prefix]
    for layer in (layer for part in parts for layer in part.modules() if isinstance(layer, torch.nn.Linear)):
        torch.nn.init.normal_(layer.weight, std=model.config.initializer_range)
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)
