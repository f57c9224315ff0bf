"""What the pictures of a session are made of: points that are kept, the front, the gate's bounds."""

from itertools import pairwise

import numpy as np
import pytest
from receipts import INT8, SMALL, figures_of, receipt

from benchmarks.drawing import LOG_FROM, MARKERS, SERIES, line_look, marker_look, svg_of, write_axis
from benchmarks.pictures import GateLine, envelope, gate_lines, pareto
from benchmarks.shown import Outcomes
from pipeline import gates


def test_few_samples_are_all_drawn() -> None:
    values = np.array([3.0, 1.0, 2.0])
    places, kept = envelope(values, most=3)
    assert (places.tolist(), kept.tolist()) == ([0, 1, 2], [3.0, 1.0, 2.0])


def test_of_many_samples_the_extremes_of_every_stretch_stay_in_their_places() -> None:
    values = np.arange(1000.0) % 10
    values[437] = 99.0
    places, kept = envelope(values, most=20)
    assert len(places) <= 20
    assert 437 in places
    assert kept.tolist() == values[places].tolist()
    assert places.tolist() == sorted(places)
    assert [kept.min(), kept.max()] == [0.0, 99.0]


def test_the_front_holds_whom_nobody_beats_in_both() -> None:
    points = {"slow": (9.0, 0.9), "mid": (5.0, 0.8), "worse": (6.0, 0.79), "as good": (7.0, 0.8), "fast": (1.0, 0.5)}
    assert pareto(points, metric="accuracy") == ("fast", "mid", "slow")


def test_of_two_as_fast_the_better_is_on_the_front() -> None:
    assert pareto({"a": (1.0, 0.5), "b": (1.0, 0.6)}, metric="accuracy") == ("b",)


def test_an_error_is_better_when_it_is_less() -> None:
    assert pareto({"slow": (9.0, 0.1), "fast": (1.0, 0.3), "worse": (2.0, 0.4)}, metric="mse") == ("fast", "slow")


def test_the_gate_s_lines_are_bounds_of_this_session_in_their_own_units() -> None:
    figures = figures_of(receipt())
    texts = ["accuracy >= 0.95 * teacher", "p95_ms < 6", "p95_ms <= 2 at cluster", "size_mb <= 9", "p95_ms_high <= 7"]
    verdict = gates.judge(
        gates.parse_rules(texts), figures, [SMALL, INT8], figures_by_target={"here": figures, "cluster": figures}
    )
    lines = gate_lines(Outcomes("t", receipt(), figures, "accuracy", verdict), ("p95_ms", "accuracy"))
    assert lines == (
        GateLine("accuracy", above=True, bound=pytest.approx(0.855), rule=texts[0]),
        GateLine("p95_ms", above=False, bound=6.0, rule=texts[1]),
    )


def test_without_a_gate_there_are_no_lines() -> None:
    assert gate_lines(Outcomes("t", receipt()), ("p95_ms",)) == ()


def test_variants_differ_in_more_than_colour() -> None:
    looks = [(str(line_look(number)["linestyle"]), marker_look(number)["marker"]) for number in range(len(MARKERS))]
    assert len({marker for _, marker in looks}) == len(looks) > len(SERIES)
    assert all(one[0] != other[0] for one, other in pairwise(looks))


@pytest.mark.parametrize(("most", "scale"), [(LOG_FROM - 1, "linear"), (LOG_FROM + 1, "log")])
def test_an_axis_that_spans_much_is_logarithmic(most: float, scale: str) -> None:
    scales = []

    def draw(axes: object) -> None:
        axes.plot([1.0, most], [1.0, 2.0])  # type: ignore[attr-defined]
        write_axis(axes, "x", label="ms", values=(1.0, most))
        scales.append(axes.get_xscale())  # type: ignore[attr-defined]

    assert "e+" not in svg_of(draw, title="t", height=2.0)
    assert scales == [scale]
