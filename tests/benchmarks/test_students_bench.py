"""Which students the comparison compares."""

from benchmarks.students_bench import pairs_of


def test_every_student_is_compared_with_the_last_and_with_its_own_int8_and_the_teacher() -> None:
    assert pairs_of(["mha", "hs", "none"], []) == [
        ("mha, fp32", "none, fp32"),
        ("hs, fp32", "none, fp32"),
        ("mha, int8", "none, int8"),
        ("hs, int8", "none, int8"),
        ("mha, int8", "mha, fp32"),
        ("hs, int8", "hs, fp32"),
        ("none, int8", "none, fp32"),
        ("mha, fp32", "teacher, fp32"),
        ("hs, fp32", "teacher, fp32"),
        ("none, fp32", "teacher, fp32"),
    ]


def test_a_student_that_was_taught_is_compared_with_itself_untaught() -> None:
    assert pairs_of(["student"], [], taught=True) == [
        ("student+taught, fp32", "student, fp32"),
        ("student+taught, int8", "student, int8"),
        ("student, int8", "student, fp32"),
        ("student+taught, int8", "student+taught, fp32"),
        ("student, fp32", "teacher, fp32"),
        ("student+taught, fp32", "teacher, fp32"),
    ]


def test_pairs_that_are_asked_for_take_their_place() -> None:
    found = pairs_of(["mha", "hs", "none"], ["mha:hs"])
    assert found[:2] == [("mha, fp32", "hs, fp32"), ("mha, int8", "hs, int8")]
    assert ("hs, fp32", "none, fp32") not in found
