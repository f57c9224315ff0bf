"""Graphs that are not quantized: the same answers from a fused graph, and fp16."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from models import ITEMS, Exported

from pipeline.errors import BadArtifact
from pipeline.quantizing.building import build
from pipeline.quantizing.given import Given
from pipeline.quantizing.plain import Fp16Recipe, Fp32Recipe
from serving.bundle import read_bundle
from serving.engine import Engine


def given(exported: Exported, scratch: Path) -> Given:
    return Given(bundle=read_bundle(exported.bundle), scratch=scratch, threads=1)


def logits_of(bundle: Path) -> Any:
    return np.stack(Engine(read_bundle(bundle), threads=1).logits(ITEMS))


def test_the_fused_graph_gives_the_same_answers_on_any_cpu(bert: Exported, tmp_path: Path) -> None:
    facts = build(Fp32Recipe(), given(bert, tmp_path), tmp_path / "fused")

    made, source = read_bundle(tmp_path / "fused"), read_bundle(bert.bundle)
    assert np.abs(logits_of(made.path) - logits_of(source.path)).max() < 1e-4
    assert facts["operators"]["Attention"] == 2
    assert not {"SkipLayerNormalization", "BiasGelu"} & facts["operators"].keys()  # slower than their parts
    assert facts["bundle_digest"] == made.digest
    assert made.spec.cpu_features == ()
    assert made.golden == source.golden  # what was measured of torch stays the measure


def test_the_graph_as_it_was_exported_can_be_asked_for(bert: Exported, tmp_path: Path) -> None:
    build(Fp32Recipe(fused=False), given(bert, tmp_path), tmp_path / "plain")
    assert (tmp_path / "plain" / "model.onnx").read_bytes() == (bert.bundle / "model.onnx").read_bytes()


def test_the_variant_is_named_by_what_it_is() -> None:
    assert (Fp32Recipe().variant, Fp16Recipe().variant) == ("onnx-fused", "onnx-fp16")


@pytest.mark.parametrize("fused", [False, True])
def test_fp16_is_half_the_file_and_answers_in_fp32(fused: bool, bert: Exported, tmp_path: Path) -> None:
    facts = Fp16Recipe(fused=fused).apply(bert.bundle / "model.onnx", tmp_path / "model.onnx", given(bert, tmp_path))

    graph = onnx.load(tmp_path / "model.onnx").graph
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert facts["operators"].get("Attention", 0) == (2 if fused else 0)
    before = (bert.bundle / "model.onnx").stat().st_size
    assert (tmp_path / "model.onnx").stat().st_size < 0.7 * before


def test_fp16_is_for_cuda(bert: Exported) -> None:
    spec = Fp16Recipe().spec(read_bundle(bert.bundle).spec)
    assert spec.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert spec.cpu_features == ()


def test_what_is_made_for_cuda_is_checked_on_the_cpu_where_there_is_none(bert: Exported, tmp_path: Path) -> None:
    build(Fp16Recipe(), given(bert, tmp_path), tmp_path / "half")

    made = read_bundle(tmp_path / "half")
    assert made.spec.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    wanted = np.array(read_bundle(bert.bundle).golden.logits)
    assert 0 < np.abs(np.array(made.golden.logits) - wanted).max() < 2e-2 * max(1.0, np.abs(wanted).max())
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(BadArtifact, match="needs CUDAExecutionProvider, which this onnxruntime does not have"):
            Engine(made)


def test_a_weight_beyond_fp16_is_refused_by_its_name(bert: Exported, tmp_path: Path) -> None:
    model = onnx.load(bert.bundle / "model.onnx")
    matrix = next(each for each in model.graph.initializer if len(each.dims) == 2 and each.data_type == 1)
    matrix.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(matrix) * 1e6, matrix.name))
    onnx.save(model, tmp_path / "large.onnx")

    with pytest.raises(BadArtifact, match=r"beyond fp16's 65504; serve it in fp32$"):
        Fp16Recipe().apply(tmp_path / "large.onnx", tmp_path / "model.onnx", given(bert, tmp_path))
