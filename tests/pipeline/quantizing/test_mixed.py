"""Mixed precision: products go back to fp32, the costliest first, until the metric holds."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from givens import given_of, given_over, real_bundle
from models import EXPORTED, Exported, exported_case
from pydantic import ValidationError

from pipeline.errors import GateFailed
from pipeline.quantizing.given import Given
from pipeline.quantizing.mixed import MixedRecipe
from pipeline.quantizing.products import products_of


def mixed(case: Exported, root: Path, **settings: Any) -> dict[str, Any]:
    recipe = MixedRecipe(samples=16, sensitivity_items=16, **settings)
    return recipe.apply(case.bundle / "model.onnx", root / "model.onnx", given_of(case, root))


def metrics(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """The metric of fp32 and then of each mix that is tried; the last one goes on."""
    left = list(values)
    monkeypatch.setattr(Given, "metric_of", lambda *_: left.pop(0) if len(left) > 1 else left[0])


@pytest.mark.parametrize("name", EXPORTED)
def test_every_kind_of_task_is_measured_by_its_own_metric(name: str, tmp_path: Path, base: Path) -> None:
    case = exported_case(name, base)
    facts = mixed(case, tmp_path, metric_drop=2.0)

    assert facts["kept_fp32"] == []
    assert [point["kept"] for point in facts["curve"]] == [0]
    given = given_of(case, tmp_path)
    assert facts["fp32"]["metric"] == given.dev_metric(case.bundle / "model.onnx")
    assert facts["curve"][0]["metric"] == given.dev_metric(tmp_path / "model.onnx")


def test_products_go_back_until_the_metric_holds(
    bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics(monkeypatch, 0.90, 0.80, 0.85, 0.896)

    facts = mixed(bert, tmp_path)

    costliest = [each["product"] for each in facts["sensitivity"]]
    assert facts["kept_fp32"] == costliest[:2]
    assert [(point["kept"], point["metric"]) for point in facts["curve"]] == [(0, 0.80), (1, 0.85), (2, 0.896)]
    assert all(point["ms"] > 0 and point["divergence"] > 0 for point in facts["curve"])
    assert {each.name for each in products_of(onnx.load(tmp_path / "model.onnx").graph)} == set(costliest[:2])
    assert facts["operators"]["MatMulIntegerToFloat"] == 12


def test_the_receipt_names_each_product_with_what_it_costs_and_saves(bert: Exported, tmp_path: Path) -> None:
    facts = mixed(bert, tmp_path, metric_drop=2.0)

    assert len(facts["sensitivity"]) == 14
    assert all(set(each) == {"product", "parameter", "divergence", "ms"} for each in facts["sensitivity"])
    assert "classifier" in {each["parameter"] for each in facts["sensitivity"]}


def test_what_is_excluded_stays_and_is_not_tried(
    bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics(monkeypatch, 0.9, 0.8, 0.9)
    last = products_of(onnx.load(bert.bundle / "model.onnx").graph)[-1].name

    facts = mixed(bert, tmp_path, exclude=(last,))

    assert last not in {each["product"] for each in facts["sensitivity"]}
    assert facts["kept_fp32"] == [last, facts["sensitivity"][0]["product"]]


def test_fused_attention_may_go_back_too(bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics(monkeypatch, *[0.9], *[0.1] * 9, 0.9)

    facts = mixed(bert, tmp_path, fused=True)

    assert len(facts["sensitivity"]) == 10
    assert len(facts["kept_fp32"]) == 9
    assert facts["operators"].get("QAttention", 0) + facts["operators"].get("MatMulIntegerToFloat", 0) == 1


def test_where_no_mix_holds_the_nearest_is_named(
    bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics(monkeypatch, 0.9, 0.5, 0.62, 0.5)

    with pytest.raises(GateFailed) as refused:
        mixed(bert, tmp_path)

    assert str(refused.value) == (
        f"{tmp_path / 'model.onnx'}: no mix with int8 in it is within 0.005 of fp32's 0.9000 on dev; the nearest has "
        "0.6200 with 1 of 14 products in fp32; allow a larger metric_drop, or use another recipe"
    )


def test_real_weights_hold_their_metric(tmp_path: Path, base: Path) -> None:
    """Of the six layers only the last is tried, or it would take most of a minute."""
    bundle = real_bundle(base)
    given = given_over(bundle, "classification", tmp_path)
    every = [each.name for each in products_of(onnx.load(bundle.path / "model.onnx").graph)]
    recipe = MixedRecipe(samples=16, sensitivity_items=16, metric_drop=0.1, exclude=tuple(every[:30]))

    facts = recipe.apply(bundle.path / "model.onnx", tmp_path / "model.onnx", given)

    assert len(every) == 38
    assert {each["product"] for each in facts["sensitivity"]} == set(every[30:])
    assert facts["kept_fp32"][:30] == every[:30]
    assert facts["fp32"]["metric"] - facts["curve"][-1]["metric"] <= 0.1 + 1e-9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric_drop": -0.1}, "greater than or equal to 0"),
        ({"sensitivity_items": 513}, "less than or equal to 512"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MixedRecipe(**settings)
