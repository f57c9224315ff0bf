"""Fusion of every family's export: the same answers from fewer operators, and the mask in each attention, in int8 too.

Shapes: N texts, L tokens.
"""

from pathlib import Path
from typing import Any

import exports
import numpy as np
import onnx
import pytest
from models import exported_case
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from pipeline import fusing
from pipeline.errors import BadArtifact
from pipeline.fusing import fuse
from pipeline.graph_checks import random_feed, run
from pipeline.quantizing.graphs import operators
from pipeline.quiet import below_error_muted

TWO_LAYERS = {"Attention": 2, "SkipLayerNormalization": 4, "BiasGelu": 2}
# of two layers each
EXPECTED: dict[str, dict[str, int]] = {
    "bert": {**TWO_LAYERS, "EmbedLayerNormalization": 1},
    "bert-tags": {**TWO_LAYERS, "EmbedLayerNormalization": 1},
    "bert-vectors": {**TWO_LAYERS, "EmbedLayerNormalization": 1},
    "roberta": {**TWO_LAYERS, "SkipLayerNormalization": 5},
    "xlm-roberta": {**TWO_LAYERS, "SkipLayerNormalization": 5},
    "distilbert": {**TWO_LAYERS, "EmbedLayerNormalization": 1},
    "electra": {**TWO_LAYERS, "EmbedLayerNormalization": 1},
    "deberta-v2": {"SkipLayerNormalization": 4, "BiasGelu": 2, "FusedMatMul": 4},
    "modernbert": {"MultiHeadAttention": 2},
}
KINDS = (*fusing.FUSED, "FusedMatMul")


def plain(name: str, base: Path) -> Path:
    case = exports.family_export(name, base) if name in exports.CASES else exported_case(name, base)
    return case.bundle / "model.onnx"


@pytest.fixture(scope="session")
def real(base: Path) -> tuple[Path, Path]:
    """Real weights: the plain graph and the fused one."""
    source = exports.real_export(base)
    fuse(source, base / "real-fused.onnx")
    return source, base / "real-fused.onnx"


def quantized(source: Path, target: Path) -> Path:
    graph = onnx.load(source)
    del graph.graph.value_info[:]
    told = {"DefaultTensorType": TensorProto.FLOAT}
    with below_error_muted():
        quantize_dynamic(graph, target, per_channel=True, weight_type=QuantType.QInt8, extra_options=told)
    return target


def off_by_padding(path: Path, feed: dict[str, Any]) -> float:
    """How far the answers (N, C) of padded items are from theirs alone."""
    lengths = feed["attention_mask"].sum(axis=1)
    alone = [{name: rows[i : i + 1, :n] for name, rows in feed.items()} for i, n in enumerate(lengths)]
    return float(np.abs(run(path, [feed])[0] - np.concatenate(run(path, alone))).max())


def attentions(path: Path) -> list[Any]:
    return [node for node in onnx.load(path).graph.node if node.op_type in ("Attention", "MultiHeadAttention")]


# -- what becomes of the families --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_every_family_fuses_as_far_as_it_is_said_to_and_answers_as_before(
    name: str, base: Path, tmp_path: Path
) -> None:
    source, target = plain(name, base), tmp_path / "fused.onnx"

    counts = fuse(source, target)

    assert {kind: counts[kind] for kind in KINDS if kind in counts} == EXPECTED[name]
    assert counts == operators(target)
    onnx.checker.check_model(onnx.load(target))  # which wants nodes in their order
    feed = random_feed(source, rows=7, length=40)
    wanted, found = run(source, [feed])[0], run(target, [feed])[0]
    if wanted.ndim == 3:
        wanted, found = (each[feed["attention_mask"].astype(bool)] for each in (wanted, found))
    assert np.abs(wanted - found).max() <= 1e-4 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
def test_every_attention_sees_the_mask(name: str, base: Path, tmp_path: Path) -> None:
    fuse(plain(name, base), tmp_path / "fused.onnx")

    found = attentions(tmp_path / "fused.onnx")
    assert len(found) == 2
    for node in found:
        assert "qkv_hidden_sizes" not in {attribute.name for attribute in node.attribute}
        if node.op_type == "Attention":
            assert list(node.input[3:]) == ["attention_mask_int32"]
        else:
            assert node.input[5]  # windows and padding: more than a mask of padding


def test_what_lies_in_the_file_is_what_is_needed(base: Path, tmp_path: Path) -> None:
    fuse(plain("bert", base), tmp_path / "fused.onnx")

    model = onnx.load(tmp_path / "fused.onnx")
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert not model.graph.value_info
    assert {len(node.output) for node in model.graph.node if node.op_type == "SkipLayerNormalization"} == {1}
    content = (tmp_path / "fused.onnx").read_bytes()
    assert str(Path.cwd()).encode() not in content
    assert b"site-packages" not in content
    assert [file.name for file in tmp_path.iterdir()] == ["fused.onnx"]


def test_the_same_graph_fuses_to_the_same_bytes(base: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        fuse(plain("bert", base), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


# -- real weights, and int8 --------------------------------------------------------------------------------------------


def test_real_weights_fuse_whole(real: tuple[Path, Path]) -> None:
    assert operators(real[1]) == {
        "Attention": 6,
        "SkipLayerNormalization": 12,
        "BiasGelu": 6,
        "EmbedLayerNormalization": 1,
        "MatMul": 18,
        "Cast": 3,
        "Gather": 1,
        "Gemm": 2,
        "Tanh": 1,
    }


def test_padding_does_not_touch_an_answer_of_the_fused_graph(real: tuple[Path, Path]) -> None:
    feed = random_feed(real[0], rows=4, length=40)
    plain_off, fused_off = (off_by_padding(path, feed) for path in real)
    assert fused_off <= max(1e-5, plain_off)


def test_in_int8_padding_matters_no_more_than_in_the_plain_graph(real: tuple[Path, Path], tmp_path: Path) -> None:
    """Dynamic int8 takes its scales from the batch, so padding is never without effect; a lost mask is worse."""
    feed = random_feed(real[0], rows=4, length=40)
    plain_int8, fused_int8 = (quantized(path, tmp_path / f"{path.stem}-int8.onnx") for path in real)
    blind = onnx.load(fused_int8)
    for node in (node for node in blind.graph.node if node.op_type == "QAttention"):
        node.input[5] = ""
    onnx.save(blind, tmp_path / "blind.onnx")

    assert operators(fused_int8)["QAttention"] == 6
    assert operators(fused_int8)["MatMulInteger"] == 20  # each of 18 products and 2 of the head
    assert operators(fused_int8)["DynamicQuantizeLinear"] <= 26  # no weight is quantized at run time
    off = off_by_padding(fused_int8, feed)
    assert off <= 1.5 * off_by_padding(plain_int8, feed)
    assert off_by_padding(tmp_path / "blind.onnx", feed) > 2 * off


def test_in_int8_the_fused_graph_answers_as_well_as_the_plain(real: tuple[Path, Path], tmp_path: Path) -> None:
    """Each text alone, as the engine asks."""
    feeds = [random_feed(real[0], rows=1, length=length) for length in (5, 12, 30, 64)]
    wanted = np.concatenate(run(real[0], feeds))
    off = [
        float(np.abs(np.concatenate(run(quantized(path, tmp_path / f"{path.stem}-int8.onnx"), feeds)) - wanted).mean())
        for path in real
    ]
    assert off[1] <= 1.5 * off[0]


# -- what does not fuse ------------------------------------------------------------------------------------------------


def hand_made(path: Path, nodes: list[Any], *, constants: dict[str, Any] | None = None) -> Path:
    """A graph from `input_ids` and `attention_mask` (N, L) to `logits` (N, 2)."""
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", "L"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])
    given = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "hand", inputs, [output], given)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=domains), path)
    return path


def test_a_graph_of_nothing_known_is_refused(tmp_path: Path) -> None:
    path = hand_made(
        tmp_path / "model.onnx",
        [
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["real"]),
            helper.make_node("Gather", ["table", "real"], ["rows"]),
            helper.make_node("ReduceSum", ["rows", "one"], ["logits"], keepdims=0),
        ],
        constants={"table": np.ones((9, 2), np.float32), "one": np.array([1])},
    )
    with pytest.raises(BadArtifact) as refused:
        fuse(path, tmp_path / "fused.onnx")
    assert str(refused.value) == (
        f"{path}: nothing to fuse: no attention, normalisation or activation is known; quantize it with fused: false"
    )


def with_attention(path: Path, *, bias: str) -> Path:
    """One fused attention of width 4 with `bias` as its attention_bias, as the rewriter leaves it; "" is none."""
    random = np.random.default_rng(0)
    constants = {
        "table": random.normal(size=(9, 4)).astype(np.float32),
        "qkv": random.normal(size=(4, 12)).astype(np.float32),
        "qkv_bias": random.normal(size=12).astype(np.float32),
        "head": random.normal(size=(4, 2)).astype(np.float32),
        "axes": np.array([1, 2]),
        "one": np.array([1]),
        "low": np.float32(-1e9),
        "zero": np.float32(0),
        "half": np.float32(0.5),
        "squares": np.array([1, 1, 1, 1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["states"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["real", "axes"], ["real_N11L"]),
        helper.make_node("Where", ["real_N11L", "zero", "low"], ["row"]),
        helper.make_node("Transpose", ["row"], ["column"], perm=[0, 1, 3, 2]),
        helper.make_node("Mul", ["column", "zero"], ["zeros"]),
        helper.make_node("Add", ["row", "zeros"], ["padding"]),
        helper.make_node("Add", ["padding", "half"], ["more"]),
        helper.make_node(
            "Attention",
            ["states", "qkv", "qkv_bias", *(("", "", bias) if bias else ())],
            ["attended"],
            "first_attention",
            domain="com.microsoft",
            num_heads=2,
            qkv_hidden_sizes=[4, 4, 4],
        ),
        helper.make_node("ReduceSum", ["attended", "one"], ["summed"], keepdims=0),
        helper.make_node("MatMul", ["summed", "head"], ["logits"]),
    ]
    return hand_made(path, nodes, constants=constants)


def test_a_bias_of_padding_alone_becomes_the_mask(tmp_path: Path) -> None:
    source = with_attention(tmp_path / "model.onnx", bias="padding")
    counts = fuse(source, tmp_path / "fused.onnx")

    (node,) = attentions(tmp_path / "fused.onnx")
    assert list(node.input) == ["states", "qkv", "qkv_bias", "attention_mask_int32"]
    assert counts["Attention"] == 1
    assert "Where" not in counts


def test_a_bias_that_says_more_than_padding_is_refused(tmp_path: Path) -> None:
    source = with_attention(tmp_path / "model.onnx", bias="more")
    with pytest.raises(BadArtifact) as refused:
        fuse(source, tmp_path / "fused.onnx")
    assert str(refused.value) == (
        f"{source}: first_attention adds to its scores more than the mask of padding, and onnxruntime's quantizer "
        "would drop that; quantize it with fused: false"
    )


def test_an_attention_without_a_mask_is_refused(tmp_path: Path) -> None:
    source = with_attention(tmp_path / "model.onnx", bias="")
    with pytest.raises(BadArtifact) as refused:
        fuse(source, tmp_path / "fused.onnx")
    assert str(refused.value) == (
        f"{source}: first_attention lost its attention mask when it was fused; quantize it with fused: false"
    )


def test_a_fused_graph_that_answers_otherwise_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(graph: Any) -> None:
        (bias,) = (tensor for tensor in graph.initializer if tensor.name == "classifier.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1), bias.name))

    monkeypatch.setattr(fusing, "fuse_embeddings", spoiled)
    with pytest.raises(BadArtifact, match=r"at batch 1, length 5 with padding it differs from model\.onnx by 1 "):
        fuse(plain("bert", base), tmp_path / "fused.onnx")


def test_an_attention_that_did_not_fuse_beside_others_is_refused(
    real: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def partly(source: Path) -> Any:
        model = rewritten(source)
        model.graph.node.append(helper.make_node("Softmax", ["logits"], ["left"], "left_over"))
        model.graph.output.append(helper.make_tensor_value_info("left", TensorProto.FLOAT, None))
        return model

    rewritten = fusing._rewritten
    monkeypatch.setattr(fusing, "_rewritten", partly)
    with pytest.raises(BadArtifact, match="left_over belongs to an attention that did not fuse as others did"):
        fuse(real[0], tmp_path / "fused.onnx")
