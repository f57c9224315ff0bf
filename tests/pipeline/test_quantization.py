"""Dynamic int8 over exported tiny models: what became int8, how finely, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization
import pytest
from givens import given_alone
from models import ITEMS, Exported
from onnx import TensorProto, helper, numpy_helper
from pydantic import TypeAdapter, ValidationError
from written import steps

from pipeline.errors import BadArtifact
from pipeline.quantization import Recipe
from pipeline.quantizing.dynamic import DynamicRecipe
from pipeline.quantizing.features import qualified_features
from pipeline.quantizing.given import Given
from pipeline.quantizing.static import StaticRecipe
from serving.bundle import Golden, read_bundle, seal_core
from serving.engine import Engine

WITH_VNNI = frozenset({"avx2", "avx512f", "avx512_vnni"})
PRODUCTS = {"token-classification": 13, "embedding": 12}  # six a layer; one in the head of tags, none behind a vector
WITH_TEXT_HEAD = 14  # two in pooler or head


def given_for(exported: Exported, path: Path) -> Given:
    """What `dynamic` needs: a folder that vanishes."""
    return given_alone(exported, path.parent)


def quantized(exported: Exported, path: Path, **settings: Any) -> Any:
    DynamicRecipe(**settings).apply(exported.graph, path, given_for(exported, path))
    return onnx.load(path).graph


def weights_of(graph: Any) -> dict[str, np.ndarray]:
    """The int8 matrices and their scales, by name."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if "quantized" in tensor.name or "scale" in tensor.name
    }


def products_of(graph: Any) -> list[str]:
    """The second operand of every integer product."""
    return [node.input[1] for node in graph.node if node.op_type == "MatMulInteger"]


# -- what became int8 --------------------------------------------------------------------------------------------------


def test_every_product_with_a_weight_is_int8_and_no_other(exported: Exported, tmp_path: Path) -> None:
    graph = quantized(exported, tmp_path / "model.onnx")

    constants = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in graph.initializer}
    assert {constants[name] for name in products_of(graph)} == {np.dtype(np.int8)}
    assert len(products_of(graph)) == PRODUCTS.get(exported.fitted.kind, WITH_TEXT_HEAD)
    left = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(left) == 4  # scores and context of two layers: activations on both sides
    assert not any(constants.keys() & set(node.input) for node in left)


def test_the_counts_are_those_of_the_written_graph(exported: Exported, tmp_path: Path) -> None:
    given = given_for(exported, tmp_path / "model.onnx")
    counts = DynamicRecipe().apply(exported.graph, tmp_path / "model.onnx", given)["operators"]

    written = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert counts == {name: written.count(name) for name in written}


def test_the_source_is_left_alone(bert: Exported, tmp_path: Path) -> None:
    before = bert.graph.read_bytes()
    quantized(bert, tmp_path / "model.onnx")
    assert bert.graph.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.name != "scratch"] == ["model.onnx"]


def test_the_same_graph_gives_the_same_bytes(bert: Exported, tmp_path: Path) -> None:
    quantized(bert, tmp_path / "one.onnx")
    quantized(bert, tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_every_channel_has_a_scale_of_its_own(exported: Exported, tmp_path: Path) -> None:
    graph = quantized(exported, tmp_path / "model.onnx")

    weights = weights_of(graph)
    for name in products_of(graph):
        scale = weights[name.removesuffix("_quantized") + "_scale"]
        assert scale.shape == (weights[name].shape[1],), name
        assert len(np.unique(scale)) == scale.size
        assert (np.abs(weights[name]).max(axis=0) >= 126).all(), name  # each channel uses its whole range


def test_one_scale_a_matrix_where_that_is_asked_for(bert: Exported, tmp_path: Path) -> None:
    graph = quantized(bert, tmp_path / "model.onnx", per_channel=False)

    weights = weights_of(graph)
    assert {weights[name.removesuffix("_quantized") + "_scale"].size for name in products_of(graph)} == {1}


def test_answers_stay_close_to_those_in_fp32(exported: Exported, tmp_path: Path) -> None:
    bundle = exported.copy(tmp_path / "int8")
    DynamicRecipe().apply(exported.graph, bundle / "model.onnx", given_alone(exported, tmp_path))
    golden = read_bundle(exported.bundle).golden
    loose = Golden(items=golden.items, logits=golden.logits, tolerance=1e9)
    seal_core(bundle, spec=exported.spec(), golden=loose)

    wanted, found = exported.engine().logits(ITEMS), Engine(read_bundle(bundle), threads=1).logits(ITEMS)

    wanted_NC, found_NC = (np.concatenate([np.atleast_2d(row) for row in each]) for each in (wanted, found))
    assert np.abs(wanted_NC - found_NC).max() > 1e-4  # it is another graph
    for wanted_N, found_N in zip(wanted_NC.T, found_NC.T, strict=True):
        assert np.corrcoef(wanted_N, found_N)[0, 1] > 0.9


# -- the machine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "largest"),
    [(WITH_VNNI, 127), ({"avx2", "avx_vnni"}, 127), ({"amx_int8"}, 127), ({"avx2", "avx512f"}, 64), (set(), 64)],
)
def test_weights_get_seven_bits_where_products_would_saturate(
    features: set[str], largest: int, bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.cpu.cpu_features", lambda: frozenset(features))

    graph = quantized(bert, tmp_path / "model.onnx")

    weights = weights_of(graph)
    assert max(np.abs(weights[name].astype(int)).max() for name in products_of(graph)) == largest


@pytest.mark.parametrize(
    ("features", "wanted"),
    [(WITH_VNNI, ("avx2", "avx512_vnni")), ({"avx_vnni", "avx2", "sse4_2"}, ("avx2", "avx_vnni")), (set(), ())],
)
def test_a_bundle_is_qualified_with_the_features_its_answers_depend_on(
    features: set[str], wanted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.cpu.cpu_features", lambda: frozenset(features))
    assert qualified_features() == wanted


# -- what is refused ---------------------------------------------------------------------------------------------------


def graph_over_x(path: Path, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> Path:
    """A graph from x to y, both (batch, 4)."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_a_graph_in_which_nothing_can_be_quantized_is_refused(bert: Exported, tmp_path: Path) -> None:
    sums = [helper.make_node("Add", ["x", "one"], ["y"])]
    source = graph_over_x(tmp_path / "source.onnx", sums, one=np.ones(4, np.float32))

    with pytest.raises(BadArtifact) as refused:
        DynamicRecipe().apply(source, tmp_path / "model.onnx", given_alone(bert, tmp_path))

    assert str(refused.value) == (
        f"{tmp_path / 'model.onnx'}: nothing was quantized; the graph has no MatMul or Gemm with a constant weight"
    )
    assert refused.value.exit_code == 65


def test_a_product_that_stayed_in_fp32_is_refused_by_its_name(
    bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime.quantization.quantize_dynamic
    monkeypatch.setattr(
        onnxruntime.quantization,
        "quantize_dynamic",
        lambda *args, **options: real(*args, **options, nodes_to_exclude=[first_product(bert.graph)]),
    )

    with pytest.raises(BadArtifact, match=re.escape("was asked to be int8 and stayed fp32")) as refused:
        DynamicRecipe().apply(bert.graph, tmp_path / "model.onnx", given_alone(bert, tmp_path))

    assert first_product(bert.graph) in str(refused.value)


def first_product(path: Path) -> str:
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    return next(node.name for node in graph.node if node.op_type in ("MatMul", "Gemm") and constants & set(node.input))


def test_a_weight_that_is_computed_from_constants_does_not_slip_through(bert: Exported, tmp_path: Path) -> None:
    """The quantizer skips it, as it is no initializer; it is a weight all the same."""
    products = [
        helper.make_node("MatMul", ["x", "plain"], ["first"], name="first"),
        helper.make_node("Transpose", ["folded"], ["turned"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["first", "turned"], ["y"], name="second"),
    ]
    square = np.eye(4, dtype=np.float32)
    source = graph_over_x(tmp_path / "source.onnx", products, plain=square, folded=2 * square)

    with pytest.raises(BadArtifact) as refused:
        DynamicRecipe().apply(source, tmp_path / "model.onnx", given_alone(bert, tmp_path))
    assert str(refused.value) == f"{tmp_path / 'model.onnx'}: second was asked to be int8 and stayed fp32"


# -- the union ---------------------------------------------------------------------------------------------------------


def test_a_recipe_loads_by_its_kind() -> None:
    recipe: TypeAdapter[Any] = TypeAdapter(Recipe)
    assert recipe.validate_python({"kind": "dynamic"}) == DynamicRecipe(per_channel=True)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        recipe.validate_python({"kind": "dynamic", "per_chanel": True})
    with pytest.raises(ValidationError, match=r"expected tags: 'fp32', 'fp16', 'dynamic', 'static', .*'search'"):
        recipe.validate_python({"kind": "statik"})


def test_a_search_holds_any_recipe_but_another_search() -> None:
    recipes = {"recipes": [{"kind": "static"}], "fallbacks": []}
    search = TypeAdapter[Any](Recipe).validate_python({"kind": "search", **recipes})
    assert [type(one) for one in search.recipes] == [StaticRecipe]
    assert search.needs == {"calibration", "dev"}
    assert len(TypeAdapter[Any](Recipe).validate_python({"kind": "search"}).recipes) >= 8
    with pytest.raises(ValidationError, match="union_tag_invalid"):
        TypeAdapter(Recipe).validate_python({"kind": "search", "recipes": [{"kind": "search"}]})


@pytest.mark.parametrize(
    ("quantize", "more"),
    [
        ({"kind": "dynamic"}, set()),
        ({"kind": "static"}, {"task"}),
        ({"kind": "aware"}, {"task", "model"}),
        ({"kind": "search"}, {"task", "model"}),
        ({"kind": "search", "fallbacks": []}, {"task"}),
    ],
)
def test_a_step_reads_what_its_recipe_needs_and_no_more(quantize: dict[str, Any], more: set[str]) -> None:
    step = steps(quantize=quantize)["quantize-student"]
    assert {*step.inputs, *step.sources} == {"bundle", *more}
