"""Static int8 over exported models: every product is one of integers, what runs is what is written, and no answer
depends on its batch."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from givens import engine_over, furthest_in_a_batch, given_of, given_over, real_bundle
from models import Exported, sentences
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from pipeline.errors import BadArtifact, BadRequest
from pipeline.quantizing.building import build
from pipeline.quantizing.calibration import Method
from pipeline.quantizing.graphs import operators, optimized_operators
from pipeline.quantizing.products import products_of
from pipeline.quantizing.static import StaticRecipe
from serving.bundle import read_bundle
from serving.engine import Engine, check_golden

PRODUCTS = {"token-classification": 13, "embedding": 12}  # six a layer; one in the head of tags, none behind a vector
WITH_TEXT_HEAD = 14
TEXTS = sentences(8, seed=5, longest=20)
# One sum of fp32 in another order may push an activation over the edge of a step; more is a scale of the batch's own.
A_STEP_OR_TWO = 0.02


def source_of(case: Exported) -> Path:
    return case.bundle / "model.onnx"


def static(case: Exported, root: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    target = root / "model.onnx"
    facts = StaticRecipe(samples=32, **settings).apply(source_of(case), target, given_of(case, root))
    return target, facts


# -- what is written ---------------------------------------------------------------------------------------------------


def test_every_product_is_one_of_integers_and_is_what_runs(exported: Exported, tmp_path: Path) -> None:
    target, facts = static(exported, tmp_path)

    assert facts["operators"] == operators(target)
    wanted = PRODUCTS.get(exported.fitted.kind, WITH_TEXT_HEAD)
    assert facts["operators"]["MatMulIntegerToFloat"] == wanted
    run = optimized_operators(target, tmp_path)
    assert run["MatMulIntegerToFloat"] == wanted
    assert run.keys().isdisjoint({"DequantizeLinear", "DynamicQuantizeLinear", "SkipLayerNormalization", "Gemm"})


def test_fused_attention_is_one_of_integers_too(exported: Exported, tmp_path: Path) -> None:
    target, facts = static(exported, tmp_path, fused=True)

    assert facts["operators"]["QAttention"] == 2
    assert facts["operators"]["MatMulIntegerToFloat"] == PRODUCTS.get(exported.fitted.kind, WITH_TEXT_HEAD) - 6
    run = optimized_operators(target, tmp_path)
    assert run["QAttention"] == 2
    assert run.keys().isdisjoint({"SkipLayerNormalization", "DynamicQuantizeLinear", "EmbedLayerNormalization"})


@pytest.mark.parametrize("fused", [False, True])
def test_the_table_of_words_is_int8_with_a_scale_a_row(bert: Exported, tmp_path: Path, fused: bool) -> None:
    target, _ = static(bert, tmp_path, fused=fused)

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(target).graph.initializer}
    stem = "bert.embeddings.word_embeddings.weight"
    assert stem not in found
    assert found[f"{stem}_quantized"].dtype == np.int8
    assert found[f"{stem}_scale"].shape == (found[f"{stem}_quantized"].shape[0], 1)


def test_weights_have_a_scale_a_column_and_activations_one_each(bert: Exported, tmp_path: Path) -> None:
    graph = onnx.load(static(bert, tmp_path)[0]).graph

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    for _, weight, x_scale, w_scale, x_zero, w_zero, bias in (node.input for node in products):
        columns = found[weight].shape[1]
        assert found[weight].dtype == np.int8
        assert found[x_scale].shape == ()
        assert found[x_zero].dtype == np.uint8
        assert found[w_scale].shape == found[bias].shape == (columns,)
        assert not found[w_zero].any()
        assert (np.abs(found[weight].astype(int)).max(axis=0) == 127).all()


@pytest.mark.parametrize(("features", "largest"), [({"avx512_vnni"}, 127), ({"avx2"}, 63)])
def test_weights_get_seven_bits_where_products_would_saturate(
    features: set[str], largest: int, bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.cpu.cpu_features", lambda: frozenset(features))

    graph = onnx.load(static(bert, tmp_path)[0]).graph

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [found[node.input[1]] for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert max(np.abs(weight.astype(int)).max() for weight in weights) == largest


def test_the_same_graph_and_texts_give_the_same_bytes(bert: Exported, tmp_path: Path) -> None:
    first, _ = static(bert, tmp_path)
    before = first.read_bytes()
    assert static(bert, tmp_path)[0].read_bytes() == before


# -- what it answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_answers_stay_close_to_those_in_fp32_and_do_not_depend_on_the_batch(
    exported: Exported, tmp_path: Path, fused: bool
) -> None:
    target, _ = static(exported, tmp_path, fused=fused)
    given = given_of(exported, tmp_path)

    wanted, found = given.dev_logits(source_of(exported)), given.dev_logits(target)
    wanted_NC, found_NC = (np.concatenate([np.atleast_2d(row) for row in each]) for each in (wanted, found))
    assert np.abs(wanted_NC - found_NC).max() > 1e-4  # it is another graph
    assert np.corrcoef(wanted_NC.ravel(), found_NC.ravel())[0, 1] > 0.95
    assert furthest_in_a_batch(engine_over(target, given, tmp_path / "e"), TEXTS, length=64) < A_STEP_OR_TWO


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_of_calibration_gives_usable_answers(method: Any, bert: Exported, tmp_path: Path) -> None:
    target, facts = static(bert, tmp_path, calibration=method, percentile=99.9)

    given = given_of(bert, tmp_path)
    wanted, found = (np.stack(given.dev_logits(graph)) for graph in (source_of(bert), target))
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.8
    assert facts["calibrated_on"]["texts"] == 32
    assert facts["calibrated_on"]["tokens"] > 32 * 3


def test_a_sealed_bundle_gives_its_own_answers(bert: Exported, tmp_path: Path) -> None:
    facts = build(StaticRecipe(samples=16), given_of(bert, tmp_path), tmp_path / "bundle")

    assert facts["size_bytes"] < 0.6 * facts["size_bytes_before"]
    check_golden(Engine(read_bundle(tmp_path / "bundle"), threads=1))


# -- real weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fused", "wanted"), [(False, 38), (True, 26)])
def test_real_weights_keep_their_answers(fused: bool, wanted: int, tmp_path: Path, base: Path) -> None:
    """6x384: six products a layer (of which three become one attention) and two of the head."""
    bundle = real_bundle(base)
    given, source = given_over(bundle, "classification", tmp_path), bundle.path / "model.onnx"

    facts = StaticRecipe(samples=16, fused=fused).apply(source, tmp_path / "model.onnx", given)

    run = optimized_operators(tmp_path / "model.onnx", tmp_path)
    assert run["MatMulIntegerToFloat"] + run.get("QAttention", 0) == wanted
    assert facts["operators"].get("QAttention", 0) == (6 if fused else 0)
    assert (tmp_path / "model.onnx").stat().st_size < 0.3 * source.stat().st_size
    found, before = (np.stack(given.dev_logits(graph)) for graph in (tmp_path / "model.onnx", source))
    assert np.corrcoef(found.ravel(), before.ravel())[0, 1] > 0.97
    engine = engine_over(tmp_path / "model.onnx", given, tmp_path / "e")
    assert furthest_in_a_batch(engine, TEXTS, length=64) < A_STEP_OR_TWO


# -- what is left and what is refused ----------------------------------------------------------------------------------


def test_excluded_products_stay_in_fp32(bert: Exported, tmp_path: Path) -> None:
    first, *_, last = products_of(onnx.load(source_of(bert)).graph)

    target, facts = static(bert, tmp_path, exclude=(first.name, last.name))

    assert facts["operators"]["MatMulIntegerToFloat"] == WITH_TEXT_HEAD - 2
    kept = [each.name for each in products_of(onnx.load(target).graph)]
    assert kept == [first.name, last.name]


def test_an_exclude_that_names_no_product_is_refused_with_their_names(bert: Exported, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        static(bert, tmp_path, exclude=("pooler",))

    names = ", ".join(each.name for each in products_of(onnx.load(source_of(bert)).graph))
    assert str(refused.value) == f"exclude names pooler, no product of {source_of(bert)}; it has {names}"


def test_a_graph_without_products_is_refused(bert: Exported, tmp_path: Path) -> None:
    total = helper.make_node("Add", ["x", "one"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    ones = numpy_helper.from_array(np.ones(4, np.float32), "one")
    graph = helper.make_graph([total], "small", ends[:1], ends[1:], [ones])
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "a.onnx")

    with pytest.raises(BadArtifact) as refused:
        StaticRecipe().apply(tmp_path / "a.onnx", tmp_path / "b.onnx", given_of(bert, tmp_path))

    assert str(refused.value) == (
        f"{tmp_path / 'a.onnx'}: nothing was quantized; the graph has no MatMul or Gemm with a constant weight"
    )


def test_texts_that_are_all_cut_are_as_long_as_what_the_server_reads(bert: Exported, tmp_path: Path) -> None:
    given = given_of(bert, tmp_path)
    long = "good plot " * given.spec.max_length
    rows = (f'{{"text": "{long}", "label": "{label}"}}\n' for label in ("good", "bad"))
    (tmp_path / "train.jsonl").write_text("".join(rows))
    assert [feed["input_ids"].shape for feed in given.calibration(16)] == [(1, given.spec.max_length)] * 2


def test_texts_of_one_length_are_refused(bert: Exported, tmp_path: Path) -> None:
    given = given_of(bert, tmp_path)
    (tmp_path / "train.jsonl").write_text(
        '{"text": "good plot", "label": "good"}\n{"text": "bad plot", "label": "bad"}\n'
    )

    with pytest.raises(BadArtifact) as refused:
        StaticRecipe().apply(source_of(bert), tmp_path / "model.onnx", given)

    assert str(refused.value) == (
        "calibration needs training texts of several lengths, found 2, all of 4 tokens: add texts"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 15}, "greater than or equal to 16"),
        ({"percentile": 50}, "greater than 50"),
        ({"calibration": "max"}, "'minmax', 'moving-average', 'percentile' or 'entropy'"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StaticRecipe(**settings)
