import pytest
import torch

from pipeline import precision


@pytest.mark.parametrize(
    ("asked", "here", "wanted"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("fp32", True, torch.float32),
    ],
)
def test_products_are_bf16_where_it_is_asked_for_or_left_open_and_the_hardware_has_it(
    asked: precision.Precision, here: bool, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_on", lambda _device: here)
    with precision.autocast("cpu", asked):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == wanted
    assert precision.precision_used(asked, "cpu") == {torch.bfloat16: "bf16", torch.float32: "fp32"}[wanted]
