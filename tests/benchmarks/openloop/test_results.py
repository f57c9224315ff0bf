"""What two searches of the same thing come to."""

import pytest

from benchmarks.openloop.results import ServerResult, both


def found(kept: float | None, broken: float | None) -> ServerResult:
    return ServerResult("engine", 20.0, 99, best_rps=kept, points=(), broken_rps=broken)


@pytest.mark.parametrize(
    ("one", "other", "known"),
    [
        ((100.0, 110.0), (100.0, 110.0), (100.0, 110.0)),
        ((100.0, 110.0), (50.0, 55.0), (50.0, 110.0)),
        ((100.0, None), (90.0, 95.0), (90.0, None)),
        ((None, 50.0), (100.0, 110.0), (None, 110.0)),
        ((None, 50.0), (None, 25.0), (None, 50.0)),
    ],
    ids=["agreed", "slowed once", "open once", "kept once only", "never kept"],
)
def test_known_is_what_neither_search_contradicts(
    one: tuple[float | None, float | None],
    other: tuple[float | None, float | None],
    known: tuple[float | None, float | None],
) -> None:
    assert both(found(*one), found(*other)) == both(found(*other), found(*one)) == found(*known)
