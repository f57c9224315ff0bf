"""How far answers are from others, and what each product costs and saves."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from givens import given_of
from models import Exported
from scipy.special import softmax
from scipy.stats import entropy

from pipeline.quantizing.given import Given
from pipeline.quantizing.products import products_of
from pipeline.quantizing.sensitivity import divergence, parameters_of, sensitivities
from pipeline.quantizing.static import StaticRecipe, calibrate

RNG = np.random.default_rng(0)


def rows(count: int, width: int) -> list[np.ndarray]:
    return list(RNG.normal(0, 2, (count, width)).astype(np.float32))


def test_of_one_label_of_many_it_is_the_kullback_leibler_divergence() -> None:
    wanted, found = rows(7, 4), rows(7, 4)
    pairs = zip(wanted, found, strict=True)
    expected = np.mean([entropy(softmax(one), softmax(other)) for one, other in pairs])
    assert divergence(wanted, found, task="classification") == pytest.approx(expected, rel=1e-5)


def test_of_tags_it_is_the_mean_over_tokens() -> None:
    wanted = [np.stack(rows(length, 3)) for length in (2, 5)]
    found = [row + 1.5 * RNG.normal(size=row.shape).astype(np.float32) for row in wanted]
    flat = [list(np.concatenate(each)) for each in (wanted, found)]
    assert divergence(wanted, found, task="token-classification") == pytest.approx(
        divergence(*flat, task="classification")
    )


def test_of_several_labels_it_is_summed_over_them() -> None:
    wanted, found = rows(5, 3), rows(5, 3)
    each = [
        [entropy([p, 1 - p], [q, 1 - q]) for p, q in zip(1 / (1 + np.exp(-one)), 1 / (1 + np.exp(-other)), strict=True)]
        for one, other in zip(wanted, found, strict=True)
    ]
    assert divergence(wanted, found, task="multi-label") == pytest.approx(np.sum(each, axis=1).mean(), rel=1e-4)


@pytest.mark.parametrize("task", ["regression", "embedding"])
def test_of_numbers_it_is_the_mean_squared_error(task: str) -> None:
    wanted, found = rows(5, 3), rows(5, 3)
    assert divergence(wanted, found, task=task) == pytest.approx(np.mean(np.square(np.subtract(wanted, found))))  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["classification", "multi-label", "regression"])
def test_the_same_answers_do_not_differ(task: str) -> None:
    same = rows(5, 3)
    assert divergence(same, same, task=task) == 0  # type: ignore[arg-type]


def test_products_are_called_as_the_modules_they_come_from(bert: Exported) -> None:
    graph = onnx.load(bert.bundle / "model.onnx").graph
    found = [parameters_of(graph)[each.output] for each in products_of(graph)]
    layer = [
        *(f"attention.self.{name}" for name in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    ]
    layers = [f"bert.encoder.layer.{number}.{name}" for number in (0, 1) for name in layer]
    assert found == [*layers, "bert.pooler.dense", "classifier"]


def fake_times(_: Given, graph: Path) -> dict[tuple[str, str], float]:
    """Every product takes 3 ms, in integers 1."""
    ms = {"MatMul": 3.0, "Gemm": 3.0, "MatMulIntegerToFloat": 1.0}
    return {(node.op_type, node.name): ms.get(node.op_type, 0.0) for node in onnx.load(graph).graph.node}


def test_every_product_is_judged_alone_and_the_costliest_comes_first(
    bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Given, "node_times", fake_times)
    given = given_of(bert, tmp_path)
    calibrated = calibrate(StaticRecipe(samples=16), bert.bundle / "model.onnx", given)
    product = calibrated.products[4]
    ranges = {**calibrated.ranges, product.activation: calibrated.ranges[product.activation]._replace(high=0.05)}

    found = sensitivities(calibrated._replace(ranges=ranges), given, items=16)

    assert {each.product for each in found} == set(calibrated.products)
    assert [each.cost for each in found] == sorted((each.cost for each in found), reverse=True)
    assert found[0].product == product
    assert {each.ms for each in found} == {2.0}


def test_where_nothing_is_saved_the_most_harmful_comes_first(
    bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Given, "node_times", lambda *_: {})
    given = given_of(bert, tmp_path)
    calibrated = calibrate(StaticRecipe(samples=16), bert.bundle / "model.onnx", given)

    found = sensitivities(calibrated, given, items=16)

    assert [each.divergence for each in found] == sorted((each.divergence for each in found), reverse=True)
