import math
from itertools import pairwise

import pytest

from pipeline.distillation.layer_maps import LAYER_MAPS, last, teacher_layers_of, uniform
from pipeline.errors import BadRequest

DEPTHS = [(student, teacher) for teacher in range(1, 25) for student in range(1, teacher + 1)]


@pytest.mark.parametrize("mapping", LAYER_MAPS)
def test_every_student_layer_has_a_teacher_layer_of_its_own_in_ascending_order(mapping: str) -> None:
    for student, teacher in DEPTHS:
        sources = teacher_layers_of(mapping, student_layers=student, teacher_layers=teacher)
        assert len(sources) == student
        assert all(1 <= source <= teacher for source in sources)
        assert all(below < above for below, above in pairwise(sources))
        assert sources[-1] == teacher


def test_uniform_spreads_evenly_and_rounds_halves_up() -> None:
    for student, teacher in DEPTHS:
        assert uniform(student, teacher) == tuple(
            math.floor(i * teacher / student + 0.5) for i in range(1, student + 1)
        )
    assert uniform(4, 6) == (2, 3, 5, 6)


def test_last_takes_the_top_layers() -> None:
    assert last(3, 12) == (10, 11, 12)


@pytest.mark.parametrize("mapping", LAYER_MAPS)
def test_equal_depths_map_layer_to_layer(mapping: str) -> None:
    assert teacher_layers_of(mapping, student_layers=5, teacher_layers=5) == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("mapping", LAYER_MAPS)
def test_a_student_deeper_than_its_teacher_is_refused(mapping: str) -> None:
    for teacher in range(1, 24):
        with pytest.raises(BadRequest) as refused:
            teacher_layers_of(mapping, student_layers=teacher + 1, teacher_layers=teacher)
        assert str(refused.value) == (
            f"layer mapping {mapping!r}: the student has {teacher + 1} layers and the teacher only {teacher}; "
            f"set distill.student.layers to {teacher} or fewer"
        )
