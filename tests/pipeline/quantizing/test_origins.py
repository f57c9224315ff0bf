"""Products of a graph are found among the Linears of the model it came from, or refused by name."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from models import Exported, task_of
from onnx import numpy_helper

from pipeline.encoders.heads import load_tuned
from pipeline.errors import BadArtifact
from pipeline.fusing import fuse
from pipeline.quantizing.calibration import Range
from pipeline.quantizing.origins import origins_of
from pipeline.quantizing.products import products_of
from pipeline.quantizing.static import Calibrated

REMEDY = "its quantized values cannot be trained; use the recipe static"


def calibrated(path: Path, *, exclude: tuple[str, ...] = ()) -> Calibrated:
    """As static leaves it, with ranges that nobody looks at."""
    model = onnx.load(path)
    every = products_of(model.graph)
    return Calibrated(
        path=path,
        model=model,
        products=tuple(product for product in every if product.name not in exclude),
        excluded=tuple(product for product in every if product.name in exclude),
        ranges={product.activation: Range(-1, 1) for product in every},
        bits=8,
        facts={},
    )


def model_of(case: Exported) -> Any:

    return load_tuned(case.folder, task_of(case.fitted.kind), case.fitted.labels)


def test_every_linear_is_found_with_the_tensor_it_reads(bert: Exported) -> None:
    found = origins_of(calibrated(bert.bundle / "model.onnx"), model_of(bert))

    layer = "bert.encoder.layer.1"
    assert len(found.reads) == 14
    assert len({found.reads[f"{layer}.attention.self.{name}"] for name in ("query", "key", "value")}) == 1
    assert found.reads[f"{layer}.output.dense"].startswith("gelu")
    assert found.reads["classifier"].startswith("tanh")
    assert found.tables == ("bert.embeddings.word_embeddings",)


def test_a_fused_attention_is_three_linears(bert: Exported, tmp_path: Path) -> None:
    fuse(bert.bundle / "model.onnx", tmp_path / "fused.onnx")

    found = origins_of(calibrated(tmp_path / "fused.onnx"), model_of(bert))

    plain = origins_of(calibrated(bert.bundle / "model.onnx"), model_of(bert))
    assert found.reads.keys() == plain.reads.keys()
    assert found.tables == plain.tables


def test_what_is_excluded_is_not_put_on_the_grid(bert: Exported) -> None:
    (*_, last) = products_of(onnx.load(bert.bundle / "model.onnx").graph)

    found = origins_of(calibrated(bert.bundle / "model.onnx", exclude=(last.name,)), model_of(bert))

    assert len(found.reads) == 13
    assert "classifier" not in found.reads


def refusal(case: Calibrated, model: Any) -> str:
    with pytest.raises(BadArtifact) as refused:
        origins_of(case, model)
    return str(refused.value)


def test_a_product_that_is_none_of_the_models_linears_is_named(bert: Exported) -> None:
    path, model = bert.bundle / "model.onnx", model_of(bert)
    model.classifier.weight.data += 1

    (*_, last) = products_of(onnx.load(path).graph)
    assert refusal(calibrated(path), model) == (
        f"{path}: the product {last.name} has the weights of no module of the model, so {REMEDY}"
    )


def test_linears_of_equal_weights_are_named(bert: Exported) -> None:
    path, model = bert.bundle / "model.onnx", model_of(bert)
    attention = model.bert.encoder.layer[0].attention.self
    attention.key.weight.data.copy_(attention.query.weight)

    (first, *_) = products_of(onnx.load(path).graph)
    stem = "bert.encoder.layer.0.attention.self"
    assert refusal(calibrated(path), model) == (
        f"{path}: the product {first.name} has the weights of {stem}.query and {stem}.key of the model, which have "
        f"equal weights, so {REMEDY}"
    )


def test_a_linear_that_became_no_product_is_named(bert: Exported) -> None:
    path, model = bert.bundle / "model.onnx", model_of(bert)
    model.more = torch.nn.Linear(3, 4)

    assert refusal(calibrated(path), model) == f"{path}: more of the model is no product of the graph, so {REMEDY}"


def test_a_linear_that_reads_two_tensors_is_named(bert: Exported) -> None:
    path, model = bert.bundle / "model.onnx", model_of(bert)
    case = calibrated(path)
    first, _, _, out, *_ = case.products
    weights = {tensor.name: tensor for tensor in case.model.graph.initializer}
    weights[out.weight].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[first.weight]), out.weight))

    assert refusal(case, model) == (
        f"{path}: bert.encoder.layer.0.attention.self.query of the model is several products of the graph, so {REMEDY}"
    )


def test_a_table_of_words_that_is_none_of_the_models_is_named(bert: Exported) -> None:
    path, model = bert.bundle / "model.onnx", model_of(bert)
    model.bert.embeddings.word_embeddings.weight.data += 1

    assert refusal(calibrated(path), model) == (
        f"{path}: the table bert.embeddings.word_embeddings.weight has the weights of no module of the model, so "
        f"{REMEDY}"
    )


def test_without_a_table_there_is_none(bert: Exported, tmp_path: Path) -> None:
    """Where the graph looks words up by anything but the ids, they stay as they are."""
    graph = onnx.load(bert.bundle / "model.onnx")
    for node in graph.graph.node:
        if node.op_type == "Gather" and node.input[1] == "input_ids":
            node.input[1] = "others"
    onnx.save(graph, tmp_path / "model.onnx")

    found = origins_of(calibrated(tmp_path / "model.onnx"), model_of(bert))

    assert found.tables == ()
