"""Students: a config of the teacher's family with another depth, width, heads and feed-forward, and where its weights
start."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.distillation.layer_maps import teacher_layers_of
from pipeline.encoders.families import Shape, family_of, shape_of
from pipeline.errors import BadRequest
from pipeline.quiet import quiet_transformers
from pipeline.records import Record


class StudentConfig(Record):
    """Shape and start of a student; what is not given is the teacher's (feed_forward: four times the width)."""

    layers: int = Field(default=3, ge=1)
    width: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    feed_forward: int | None = Field(default=None, ge=1)
    init: Literal["random", "teacher-layers"] = "teacher-layers"

    def shape(self, teacher: Shape) -> Shape:
        """The student's full shape beside this teacher; BadRequest where the width does not divide into its heads, or
        where it is to start with more layers than the teacher has."""
        width = self.width or teacher.width
        heads = self.heads or teacher.heads
        if width % heads:
            fitting = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
            raise BadRequest(
                f"distill.student: width {width} does not divide into {heads} heads; heads may be {fitting}"
            )
        if self.init == "teacher-layers":
            teacher_layers_of("uniform", student_layers=self.layers, teacher_layers=teacher.layers)
        return Shape(layers=self.layers, width=width, heads=heads, feed_forward=self.feed_forward or 4 * width)


def build_student(teacher: Any, config: StudentConfig, *, seed: int) -> Any:
    """A student of the teacher's family in fp32, initialised from `seed` alone, or with the teacher's layers
    (uniformly spread).

    A narrower student takes the leading channels of each of the teacher's matrices; a matrix larger than the
    teacher's stays random.
    """
    import torch
    from transformers import AutoModel

    torch.manual_seed(seed)
    student = AutoModel.from_config(_student_config(teacher.config, config.shape(shape_of(teacher.config))))
    if config.init == "teacher-layers":
        _copy_layers(teacher, student)
    return student


def save_encoder(model: Any, tokenizer: Any, folder: Path) -> None:
    """Config, safetensors weights and tokenizer, in the hub's format."""
    quiet_transformers()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def parameters_of(model: Any) -> int:
    """Trained numbers in the model."""
    return sum(parameter.numel() for parameter in model.parameters())


def _student_config(teacher_config: Any, shape: Shape) -> Any:
    family = family_of(teacher_config.model_type)
    fields = teacher_config.to_dict()
    for name in ("architectures", "_name_or_path", "transformers_version", "layer_types"):
        fields.pop(name, None)
    config = type(teacher_config).from_dict(fields)
    config.num_hidden_layers, config.hidden_size, config.num_attention_heads = shape.layers, shape.width, shape.heads
    setattr(config, family.feed_forward, shape.feed_forward)
    return config


def _copy_layers(teacher: Any, student: Any) -> None:
    """Copy embeddings, pooler and every mapped layer, as far as the shapes go."""
    import torch

    family = family_of(teacher.config.model_type)
    depth, teacher_depth = shape_of(student.config).layers, shape_of(teacher.config).layers
    sources = teacher_layers_of("uniform", student_layers=depth, teacher_layers=teacher_depth)
    weights = teacher.state_dict()
    with torch.no_grad():
        for name, target in student.state_dict().items():
            source = weights.get(_teacher_name(name, family.layers, sources))
            if source is None or any(have < want for have, want in zip(source.shape, target.shape, strict=True)):
                continue
            target.copy_(source[tuple(slice(size) for size in target.shape)])


def _teacher_name(name: str, layers: str, sources: tuple[int, ...]) -> str:
    """`encoder.layer.0.x` of the student -> `encoder.layer.1.x` of the teacher when its first layer maps to layer 2."""
    if not name.startswith(f"{layers}."):
        return name
    index, _, rest = name.removeprefix(f"{layers}.").partition(".")
    return f"{layers}.{sources[int(index)] - 1}.{rest}"
