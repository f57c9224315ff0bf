"""Students: a config of the teacher's family with another depth, width, heads and feed-forward, and where its weights
start."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.distillation.layer_maps import teacher_layers_of
from pipeline.encoders.families import FULL, Family, Shape, attention_kinds, family_of, shape_of
from pipeline.errors import BadRequest
from pipeline.quiet import quiet_transformers
from pipeline.records import Record


class StudentConfig(Record):
    """Shape and start of a student; what is not given is the teacher's (feed_forward: four times another width).

    `init_mapping` says which teacher layers it starts with: by name, or one for each of its layers.
    """

    layers: int = Field(default=3, ge=1)
    width: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    feed_forward: int | None = Field(default=None, ge=1)
    init: Literal["random", "teacher-layers"] = "teacher-layers"
    init_mapping: Literal["uniform", "last"] | tuple[Annotated[int, Field(ge=1)], ...] = "uniform"

    def shape(self, teacher: Shape) -> Shape:
        """The student's full shape beside this teacher; BadRequest where the width does not divide into its heads, or
        where it is to start with layers that the teacher does not have."""
        width = self.width or teacher.width
        heads = self.heads or teacher.heads
        if width % heads:
            fitting = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
            raise BadRequest(
                f"distill.student: width {width} does not divide into {heads} heads; heads may be {fitting}"
            )
        if self.init == "teacher-layers":
            self.sources(teacher.layers)
        usual = teacher.feed_forward if width == teacher.width else 4 * width
        return Shape(layers=self.layers, width=width, heads=heads, feed_forward=self.feed_forward or usual)

    def sources(self, teacher_layers: int) -> tuple[int, ...]:
        """The teacher layer (1-based) that each student layer starts as."""
        given = self.init_mapping
        if isinstance(given, str):
            return teacher_layers_of(given, student_layers=self.layers, teacher_layers=teacher_layers)
        if len(given) != self.layers:
            raise BadRequest(
                f"distill.student.init_mapping: {list(given)} names {len(given)} teacher layers, and the student has "
                f"{self.layers}; name one for each"
            )
        if max(given) > teacher_layers:
            raise BadRequest(
                f"distill.student.init_mapping: there is no teacher layer {max(given)}, the teacher has "
                f"{teacher_layers}; choose from 1 to {teacher_layers}"
            )
        return given


def build_student(teacher: Any, config: StudentConfig, *, seed: int) -> Any:
    """A student of the teacher's family in fp32, initialised from `seed` alone, or with the teacher's layers.

    A narrower student takes the leading channels of each of the teacher's matrices, also of those that are stored as
    one (ModernBERT's Q, K and V, its input and gate); a matrix larger than the teacher's stays random. BadRequest where
    the family cannot have this shape.
    """
    import torch
    from transformers import AutoModel

    shape, theirs = config.shape(shape_of(teacher.config)), shape_of(teacher.config)
    copied = config.sources(theirs.layers) if config.init == "teacher-layers" else None
    torch.manual_seed(seed)
    student = AutoModel.from_config(_student_config(teacher.config, shape, copied))
    if copied is not None:
        _copy_layers(teacher, student, copied)
    return student


def save_encoder(model: Any, tokenizer: Any, folder: Path, *, like: Path | None = None) -> None:
    """Config, safetensors weights and tokenizer, in the hub's format; pooled as the folder `like`, if that says how."""
    from pipeline.encoders.sentences import carry_pooling

    quiet_transformers()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if like is not None:
        carry_pooling(like, folder, width=model.config.hidden_size)


def parameters_of(model: Any) -> int:
    """Trained numbers in the model."""
    return sum(parameter.numel() for parameter in model.parameters())


def copy_leading(source: Any, target: Any, *, parts: int = 1) -> None:
    """Fill the tensor `target` with the leading channels of `source` along every axis, if it has them all; where both
    are `parts` matrices, row under row, those of each part."""
    import torch

    pairs = list(zip(source.chunk(parts), target.chunk(parts), strict=True))
    if any(have < want for whole, part in pairs for have, want in zip(whole.shape, part.shape, strict=True)):
        return
    with torch.no_grad():
        for whole, part in pairs:
            part.copy_(whole[tuple(slice(size) for size in part.shape)])


def _student_config(teacher_config: Any, shape: Shape, copied: tuple[int, ...] | None) -> Any:
    family = family_of(teacher_config.model_type)
    _check_heads(teacher_config.model_type, family, shape)
    fields = teacher_config.to_dict()
    for name in ("architectures", "_name_or_path", "transformers_version", "layer_types", "attention_head_size"):
        fields.pop(name, None)
    if fields.get("embedding_size") == teacher_config.hidden_size:  # a size of its own (ELECTRA's) is kept
        fields["embedding_size"] = shape.width
    if "pooler_hidden_size" in fields:
        fields["pooler_hidden_size"] = shape.width
    config = type(teacher_config).from_dict(fields)
    config.num_hidden_layers, config.hidden_size, config.num_attention_heads = shape.layers, shape.width, shape.heads
    setattr(config, family.feed_forward, shape.feed_forward)
    if family.windows:
        config.layer_types = _layer_types(attention_kinds(teacher_config), shape.layers, copied)
    return config


def _check_heads(model_type: str, family: Family, shape: Shape) -> None:
    if (shape.width // shape.heads) % family.head_multiple:
        fitting = [n for n in range(1, shape.width + 1) if shape.width % (n * family.head_multiple) == 0]
        raise BadRequest(
            f"distill.student: width {shape.width} in {shape.heads} heads makes {shape.width // shape.heads} channels "
            f"a head, and a {model_type} turns them in groups of {family.head_multiple}; heads may be "
            f"{', '.join(map(str, fitting)) or 'none: choose another width'}"
        )


def _layer_types(theirs: tuple[str, ...], layers: int, copied: tuple[int, ...] | None) -> list[str]:
    """Full or sliding attention for each of a student's layers.

    A copied layer keeps the attention that its weights learned. Random layers take turns as the teacher's last do, but
    the last attends to all in any case, so that its relations can be taught.
    """
    if copied is not None:
        return [theirs[number - 1] for number in copied]
    repeated = theirs * (layers // len(theirs) + 1)
    return [*repeated[len(repeated) - layers : -1], FULL]


def _copy_layers(teacher: Any, student: Any, sources: tuple[int, ...]) -> None:
    """Copy embeddings, pooler and every mapped layer, as far as the shapes go."""
    family = family_of(teacher.config.model_type)
    weights = teacher.state_dict()
    for name, target in student.state_dict().items():
        theirs, inside = _teacher_name(name, family.layers, sources)
        if theirs in weights:
            copy_leading(weights[theirs], target, parts=family.stacked.get(inside.rpartition(".")[0], 1))


def _teacher_name(name: str, layers: str, sources: tuple[int, ...]) -> tuple[str, str]:
    """`encoder.layer.0.x` of the student -> `encoder.layer.1.x` of the teacher when its first layer maps to layer 2,
    and what it is called inside a layer: `x`."""
    if not name.startswith(f"{layers}."):
        return name, ""
    index, _, inside = name.removeprefix(f"{layers}.").partition(".")
    return f"{layers}.{sources[int(index)] - 1}.{inside}", inside
