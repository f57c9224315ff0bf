"""Which teacher layers each student layer learns from. Layers are 1-based; a new mapping is one pure function and one
row."""

from collections.abc import Callable

from pipeline.errors import BadRequest


def uniform(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """Student layer i learns from teacher layer round(i * L_T / L_S), halves up: evenly spread, ending at the last."""
    return tuple(
        (2 * i * teacher_layers + student_layers) // (2 * student_layers) for i in range(1, student_layers + 1)
    )


def last(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """The last L_S teacher layers, in order."""
    return tuple(range(teacher_layers - student_layers + 1, teacher_layers + 1))


LAYER_MAPS: dict[str, Callable[[int, int], tuple[int, ...]]] = {"uniform": uniform, "last": last}


def teacher_layers_of(mapping: str, *, student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """The teacher layer of each student layer; BadRequest where the student is the deeper one."""
    if student_layers > teacher_layers:
        raise BadRequest(
            f"layer mapping {mapping!r}: the student has {student_layers} layers and the teacher only "
            f"{teacher_layers}; set distill.student.layers to {teacher_layers} or fewer"
        )
    return LAYER_MAPS[mapping](student_layers, teacher_layers)
