"""Which teacher layers each student layer learns from. Layers are 1-based; a new mapping is one pure function and one
row.

A mapping gives the (student layer, teacher layer) pairs of a depth L_S beside a depth L_T. Families and names are those
of Udagawa et al. (2310.08797).
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from pipeline.errors import BadRequest

Pairs = tuple[tuple[int, int], ...]
MapName = Literal["single", "uniform", "last", "uniform-consecutive", "uniform+last"]
Pair = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
LayerMap = MapName | Annotated[tuple[Pair, ...], Field(min_length=1)]


def uniform(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """1-to-1: student layer i learns from round(i * L_T / L_S), halves up: evenly spread, ending at the last."""
    return tuple(
        (2 * i * teacher_layers + student_layers) // (2 * student_layers) for i in range(1, student_layers + 1)
    )


def last(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """1-to-1: the last L_S teacher layers, in order."""
    return tuple(range(teacher_layers - student_layers + 1, teacher_layers + 1))


ONE_TO_ONE: dict[str, Callable[[int, int], tuple[int, ...]]] = {"uniform": uniform, "last": last}


def single(student_layers: int, teacher_layers: int) -> Pairs:
    """The last layer of the one from the last of the other."""
    return ((student_layers, teacher_layers),)


def uniform_consecutive(student_layers: int, teacher_layers: int) -> Pairs:
    """1-to-N: the teacher's layers in L_S blocks, in order, as equal as they can be; every teacher layer teaches."""
    ends = [i * teacher_layers // student_layers for i in range(student_layers + 1)]
    return tuple((i, j) for i in range(1, student_layers + 1) for j in range(ends[i - 1] + 1, ends[i] + 1))


def uniform_and_last(student_layers: int, teacher_layers: int) -> Pairs:
    """1-to-N: student layer i learns from both uniform(i) and last(i); where they are one layer it counts once."""
    chosen = zip(uniform(student_layers, teacher_layers), last(student_layers, teacher_layers), strict=True)
    return tuple((i, j) for i, both in enumerate(chosen, start=1) for j in dict.fromkeys(both))


def _one_to_one(name: str) -> Callable[[int, int], Pairs]:
    def pairs(student_layers: int, teacher_layers: int) -> Pairs:
        return tuple(enumerate(ONE_TO_ONE[name](student_layers, teacher_layers), start=1))

    return pairs


LAYER_MAPS: dict[MapName, Callable[[int, int], Pairs]] = {
    "single": single,
    "uniform": _one_to_one("uniform"),
    "last": _one_to_one("last"),
    "uniform-consecutive": uniform_consecutive,
    "uniform+last": uniform_and_last,
}


def pairs_of(mapping: LayerMap, *, student_layers: int, teacher_layers: int) -> Pairs:
    """The (student, teacher) pairs of a mapping by name, or these pairs themselves.

    BadRequest where a named mapping meets a student that is the deeper one, or a given pair names a layer that is not
    there or is given twice.
    """
    if not isinstance(mapping, str):
        return _checked(mapping, student_layers=student_layers, teacher_layers=teacher_layers)
    _refuse_deeper(mapping, student_layers=student_layers, teacher_layers=teacher_layers)
    return LAYER_MAPS[mapping](student_layers, teacher_layers)


def teacher_layers_of(mapping: str, *, student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """The teacher layer of each student layer under a 1-to-1 mapping (`uniform`, `last`); BadRequest where the student
    is the deeper one."""
    _refuse_deeper(mapping, student_layers=student_layers, teacher_layers=teacher_layers)
    return ONE_TO_ONE[mapping](student_layers, teacher_layers)


def _refuse_deeper(mapping: str, *, student_layers: int, teacher_layers: int) -> None:
    if student_layers > teacher_layers:
        raise BadRequest(
            f"layer mapping {mapping!r}: the student has {student_layers} layers and the teacher only "
            f"{teacher_layers}; set distill.student.layers to {teacher_layers} or fewer"
        )


def _checked(pairs: Pairs, *, student_layers: int, teacher_layers: int) -> Pairs:
    for pair in pairs:
        for layer, layers, whose in zip(pair, (student_layers, teacher_layers), ("student", "teacher"), strict=True):
            if layer > layers:
                raise BadRequest(
                    f"distill.objective.mapping: the pair {list(pair)} (student layer, teacher layer) names {whose} "
                    f"layer {layer}, and the {whose} has {layers} layers"
                )
    if len(set(pairs)) < len(pairs):
        twice = next(list(pair) for pair in pairs if pairs.count(pair) > 1)
        raise BadRequest(f"distill.objective.mapping: the pair {twice} is given twice; give it once")
    return pairs
