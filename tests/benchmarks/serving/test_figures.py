"""A figure beside what it is to reach."""

from benchmarks.serving.figures import Figure, percentile, told


def test_a_figure_is_kept_at_its_bound_missed_beyond_it_and_not_known_without_a_value() -> None:
    assert [Figure.least("peak", value, 1.5, "x").kept for value in (1.5, 1.49, None)] == ["yes", "NO", "not known"]
    assert [Figure.most("p99", value, 25.0, "ms").kept for value in (25.0, 25.1, None)] == ["yes", "NO", "not known"]


def test_a_figure_with_a_verdict_is_kept_as_that_says() -> None:
    figure = Figure.most("memory", 0.5, 1.0, "MB/h", verdict="not known")
    assert figure.row() == ("memory", "0.5 MB/h", "<= 1 MB/h", "not known")
    assert told([figure])["memory"]["kept"] == "not known"


def test_a_figure_is_told_to_people_and_to_machines() -> None:
    figure = Figure.most("overhead, p50", 0.2512345, 0.3, "ms")
    assert figure.row() == ("overhead, p50", "0.2512 ms", "<= 0.3 ms", "yes")
    assert Figure.least("peak", None, 1.5, "x").row() == ("peak", "-", ">= 1.5 x", "not known")
    fields = {"name": "overhead, p50", "value": 0.2512345, "bound": 0.3, "side": "most", "unit": "ms", "kept": "yes"}
    assert told([figure]) == {"overhead, p50": fields}


def test_a_percentile_is_a_value_that_occurred() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 50) == 2.0
    assert percentile(range(1, 201), 99) == 198
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) is None
