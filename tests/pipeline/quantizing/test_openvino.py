"""OpenVINO: the same file in another runtime's hands, and NNCF's int8."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import ITEMS, Exported
from pydantic import ValidationError
from taskdata import load, task_over

from pipeline.errors import BadArtifact, BadRequest
from pipeline.quantizing import openvino, silent_nncf
from pipeline.quantizing.building import build
from pipeline.quantizing.features import qualified_features
from pipeline.quantizing.given import Given
from pipeline.quantizing.openvino import OpenVinoRecipe
from serving.bundle import read_bundle
from serving.cpu import cpu_features
from serving.engine import Engine

HAS_BF16 = bool({"amx_bf16", "avx512_bf16"} & cpu_features())


def given(exported: Exported, scratch: Path, texts: list[str] | None = None) -> Given:
    """With training texts that are the golden ones, or `texts`."""
    rows = [
        {"text": text, "label": ("bad", "good")[i % 2]}
        for i, text in enumerate(texts or [item[0] for item in ITEMS[:24]])
    ]
    for split in ("train", "dev"):
        (scratch / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_over("classification", {split: str(scratch / f"{split}.jsonl") for split in ("train", "dev")})
    bundle = read_bundle(exported.bundle)
    return Given(bundle=bundle, scratch=scratch, task=task, load=lambda: load(task, scratch), threads=1)


def logits_of(bundle: Path) -> Any:
    return np.stack(Engine(read_bundle(bundle), threads=1).logits(ITEMS))


def built(exported: Exported, folder: Path, **settings: Any) -> tuple[Any, Mapping[str, Any]]:
    facts = build(OpenVinoRecipe(**settings), given(exported, folder), folder / "made")
    return read_bundle(folder / "made"), facts


def test_fp32_is_the_same_file_with_the_same_answers(bert: Exported, tmp_path: Path) -> None:
    made, _ = built(bert, tmp_path)

    assert (made.path / "model.onnx").read_bytes() == (bert.bundle / "model.onnx").read_bytes()
    assert (made.spec.runtime, made.spec.inference_precision, made.spec.cpu_features) == ("openvino", "fp32", ())
    assert np.abs(logits_of(made.path) - logits_of(bert.bundle)).max() < 1e-3


@pytest.mark.skipif(not HAS_BF16, reason="this CPU does not multiply bf16")
def test_bf16_is_the_same_file_and_needs_a_cpu_that_multiplies_it(bert: Exported, tmp_path: Path) -> None:
    made, facts = built(bert, tmp_path, precision="bf16")

    assert (made.path / "model.onnx").read_bytes() == (bert.bundle / "model.onnx").read_bytes()
    assert (made.spec.runtime, made.spec.inference_precision) == ("openvino", "bf16")
    assert made.spec.cpu_features == (facts["bf16_by"],)
    assert 1e-5 < np.abs(logits_of(made.path) - logits_of(bert.bundle)).max() < 1


def test_int8_has_every_product_with_a_weight_between_scales(bert: Exported, tmp_path: Path) -> None:
    made, facts = built(bert, tmp_path, precision="int8", samples=8)

    assert facts["operators"]["DequantizeLinear"] >= 2 * 14
    assert facts["size_bytes"] < facts["size_bytes_before"]
    assert set(qualified_features()) <= set(made.spec.cpu_features)
    wanted, found = logits_of(bert.bundle), logits_of(made.path)
    assert np.abs(wanted - found).max() > 1e-4
    assert np.corrcoef(wanted[:, 0], found[:, 0])[0, 1] > 0.7  # of weights drawn wide


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_precision_is_a_variant_and_only_int8_reads_texts(precision: Any) -> None:
    recipe = OpenVinoRecipe(precision=precision)
    assert recipe.variant == f"openvino-{precision}"
    assert recipe.needs == ({"calibration"} if precision == "int8" else set())


@pytest.mark.parametrize(
    ("features", "feature"),
    [({"avx2", "amx_bf16", "avx512_bf16"}, "amx_bf16"), ({"avx512_bf16"}, "avx512_bf16"), ({"bf16"}, "bf16")],
)
def test_the_feature_named_is_one_that_the_machine_has(
    features: set[str], feature: str, bert: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.cpu.cpu_features", lambda: frozenset(features))
    spec = OpenVinoRecipe(precision="bf16").spec(read_bundle(bert.bundle).spec)
    assert (spec.cpu_features, spec.inference_precision) == ((feature,), "bf16")


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_bf16_on_a_cpu_without_it_is_refused(bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.cpu.cpu_features", lambda: frozenset({"avx2"}))
    with pytest.raises(BadRequest) as refused:
        OpenVinoRecipe(precision="bf16").apply(bert.bundle / "model.onnx", tmp_path / "m", given(bert, tmp_path))
    assert str(refused.value) == (
        "this CPU does not multiply bf16 (it has none of amx_bf16, avx512_bf16, bf16), and precision: bf16 would be "
        "slower than fp32; use fp32 or int8"
    )


@pytest.mark.parametrize(
    ("settings", "missing", "told"),
    [
        ({}, "openvino", "OpenVINO is not installed here: pip install 'retort[openvino]'"),
        ({"precision": "int8"}, "nncf", "NNCF is not installed here: pip install 'retort[quantization]'"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_the_extra_that_has_it(
    settings: Any, missing: str, told: str, bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = openvino.find_spec
    for module in (openvino, silent_nncf):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(BadRequest) as refused:
        OpenVinoRecipe(**settings).apply(bert.bundle / "model.onnx", tmp_path / "m", given(bert, tmp_path))
    assert str(refused.value) == told


def test_texts_of_one_length_are_refused(bert: Exported, tmp_path: Path) -> None:
    alike = given(bert, tmp_path, texts=["good bad", "fine dull", "sad happy"])
    with pytest.raises(BadArtifact) as refused:
        OpenVinoRecipe(precision="int8").apply(bert.bundle / "model.onnx", tmp_path / "m", alike)
    assert str(refused.value) == (
        "calibration needs training texts of several lengths, found 3, all of 4 tokens: add texts"
    )


def test_a_fused_graph_is_not_for_openvino() -> None:
    with pytest.raises(ValidationError, match="Input should be False"):
        OpenVinoRecipe(fused=True)  # type: ignore[arg-type]
