"""Mappings of student to teacher layers: pure functions over all depths."""

import math
from itertools import pairwise
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.distillation.layer_maps import (
    LAYER_MAPS,
    ONE_TO_ONE,
    LayerMap,
    last,
    pairs_of,
    teacher_layers_of,
    uniform,
)
from pipeline.errors import BadRequest

DEPTHS = [(student, teacher) for teacher in range(1, 25) for student in range(1, teacher + 1)]


def blocks(mapping: Any, student: int, teacher: int) -> list[tuple[int, ...]]:
    """The teacher layers of each student layer."""
    pairs = pairs_of(mapping, student_layers=student, teacher_layers=teacher)
    return [tuple(j for i, j in pairs if i == layer) for layer in range(1, student + 1)]


@pytest.mark.parametrize("mapping", ONE_TO_ONE)
def test_one_to_one_every_student_layer_has_a_teacher_layer_of_its_own_in_ascending_order(mapping: str) -> None:
    for student, teacher in DEPTHS:
        sources = teacher_layers_of(mapping, student_layers=student, teacher_layers=teacher)
        assert len(sources) == student
        assert all(1 <= source <= teacher for source in sources)
        assert all(below < above for below, above in pairwise(sources))
        assert sources[-1] == teacher
        assert blocks(mapping, student, teacher) == [(source,) for source in sources]


@pytest.mark.parametrize("mapping", sorted(LAYER_MAPS.keys() - {"single"}))
def test_no_student_layer_goes_without_a_teacher_and_what_follows_learns_from_higher_layers(mapping: str) -> None:
    for student, teacher in DEPTHS:
        found = blocks(mapping, student, teacher)
        assert all(found)
        assert all(1 <= layer <= teacher for block in found for layer in block)
        assert all(max(below) < max(above) and min(below) < min(above) for below, above in pairwise(found))
        assert found[-1][-1] == teacher


def test_uniform_spreads_evenly_and_rounds_halves_up() -> None:
    for student, teacher in DEPTHS:
        assert uniform(student, teacher) == tuple(
            math.floor(i * teacher / student + 0.5) for i in range(1, student + 1)
        )
    assert uniform(4, 6) == (2, 3, 5, 6)


def test_last_takes_the_top_layers() -> None:
    assert last(3, 12) == (10, 11, 12)


def test_single_is_the_last_of_each_even_for_a_deeper_teacher_alone() -> None:
    for student, teacher in DEPTHS:
        assert pairs_of("single", student_layers=student, teacher_layers=teacher) == ((student, teacher),)


def test_uniform_consecutive_parts_all_teacher_layers_into_blocks_as_equal_as_can_be() -> None:
    for student, teacher in DEPTHS:
        found = blocks("uniform-consecutive", student, teacher)
        assert [layer for block in found for layer in block] == list(range(1, teacher + 1))
        sizes = {len(block) for block in found}
        assert sizes <= {teacher // student, -(-teacher // student)}
    assert blocks("uniform-consecutive", 3, 12) == [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]
    assert blocks("uniform-consecutive", 4, 6) == [(1,), (2, 3), (4,), (5, 6)]


def test_uniform_and_last_gives_both_and_counts_one_layer_once() -> None:
    for student, teacher in DEPTHS:
        both = zip(uniform(student, teacher), last(student, teacher), strict=True)
        assert [set(block) for block in blocks("uniform+last", student, teacher)] == [set(pair) for pair in both]
    pairs = pairs_of("uniform+last", student_layers=3, teacher_layers=6)
    assert pairs == ((1, 2), (1, 4), (2, 4), (2, 5), (3, 6))


@pytest.mark.parametrize("mapping", ["uniform", "last", "uniform-consecutive", "uniform+last"])
def test_equal_depths_map_layer_to_layer(mapping: str) -> None:
    assert blocks(mapping, 5, 5) == [(1,), (2,), (3,), (4,), (5,)]


@pytest.mark.parametrize("mapping", LAYER_MAPS)
def test_a_student_deeper_than_its_teacher_is_refused(mapping: Any) -> None:
    for teacher in range(1, 24):
        with pytest.raises(BadRequest) as refused:
            pairs_of(mapping, student_layers=teacher + 1, teacher_layers=teacher)
        assert str(refused.value) == (
            f"layer mapping {mapping!r}: the student has {teacher + 1} layers and the teacher only {teacher}; "
            f"set distill.student.layers to {teacher} or fewer"
        )


def test_given_pairs_are_taken_as_they_are() -> None:
    given = ((1, 6), (3, 2), (3, 5))
    assert pairs_of(given, student_layers=3, teacher_layers=6) == given


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (
            ((4, 2),),
            "the pair [4, 2] (student layer, teacher layer) names student layer 4, and the student has 3 layers",
        ),
        (
            ((1, 7),),
            "the pair [1, 7] (student layer, teacher layer) names teacher layer 7, and the teacher has 6 layers",
        ),
        (((1, 2), (3, 6), (1, 2)), "the pair [1, 2] is given twice; give it once"),
    ],
)
def test_pairs_that_cannot_be_are_refused(pairs: Any, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        pairs_of(pairs, student_layers=3, teacher_layers=6)
    assert str(refused.value) == f"distill.objective.mapping: {said}"


@pytest.mark.parametrize("written", ["uniform", [[1, 2], [2, 6]]])
def test_a_mapping_is_a_name_or_pairs(written: Any) -> None:
    loaded = TypeAdapter(LayerMap).validate_python(written)
    assert loaded == (written if isinstance(written, str) else tuple(map(tuple, written)))


@pytest.mark.parametrize("written", ["unifrom", [], [[0, 1]], [[1]], [[1, 2, 3]]])
def test_what_is_neither_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(LayerMap).validate_python(written)
