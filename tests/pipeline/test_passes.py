"""Settings of a pass over text: the layout that a device and a family allow."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import BadRequest
from pipeline.passes import PassConfig


@pytest.mark.parametrize(
    ("layout", "model_type", "device", "packs"),
    [
        ("auto", "bert", "cpu", False),
        ("auto", "bert", "cuda", True),
        ("auto", "deberta-v2", "cuda", False),
        ("packed", "bert", "cpu", True),
        ("padded", "bert", "cuda", False),
        ("padded", "deberta-v2", "cpu", False),
    ],
)
def test_documents_are_packed_where_it_is_asked_for_or_pays(
    layout: Any, model_type: str, device: str, packs: bool
) -> None:
    assert PassConfig(layout=layout).packs(model_type, device=device) is packs


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"layout": "packed"},
            "pretrain.layout: packed, but documents of a deberta-v2 cannot be kept apart in one row (its attention is "
            "its own); set layout to padded",
        ),
        (
            {"max_length": 512, "batch_tokens": 256},
            "pretrain.max_length is 512, more than the 256 of pretrain.batch_tokens; lower the one or raise the other",
        ),
        (
            {"compiled": True},
            "pretrain.compiled: torch.compile needs a C++ compiler, and none (c++, g++, clang++) is on the PATH; "
            "install one, or set pretrain.compiled=false",
        ),
    ],
)
def test_what_can_only_fail_is_refused_beforehand(
    settings: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.passes.shutil.which", lambda _name: None)
    with pytest.raises(BadRequest) as refused:
        PassConfig.model_validate(settings).check("pretrain", "deberta-v2")
    assert str(refused.value) == said
    PassConfig(layout="packed").check("distill", "bert")


@pytest.mark.parametrize("settings", [{"layout": "dense"}, {"precision": "fp16"}, {"micro_batches": 0}, {"batch": 3}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PassConfig.model_validate(settings)
