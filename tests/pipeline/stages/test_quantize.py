"""quantize as a stage: a bundle of its own, smaller, qualified for this kind of machine."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from pipeline.errors import BadArtifact
from pipeline.graph import Inputs
from pipeline.quantizing.dynamic import DynamicRecipe
from pipeline.quantizing.features import qualified_features
from serving.bundle import read_bundle
from serving.engine import Engine, check_golden


def bundles(chain: Any) -> tuple[Any, Any]:
    return read_bundle(chain.exported.path / "bundle"), read_bundle(chain.quantized.path / "bundle")


def test_it_leaves_a_bundle_that_differs_in_name_and_features_alone(chain: Any) -> None:
    before, after = bundles(chain)

    assert after.spec == msgspec.structs.replace(
        before.spec, name="student-onnx-int8", cpu_features=qualified_features()
    )
    assert after.digest != before.digest
    for name in ("tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (after.path / name).read_bytes() == (before.path / name).read_bytes()


def test_its_graph_is_int8(chain: Any) -> None:
    _, after = bundles(chain)
    operators = [node.op_type for node in onnx.load(after.path / "model.onnx").graph.node]
    assert operators.count("MatMulInteger") == chain.quantized.manifest.facts["operators"]["MatMulInteger"] == 14


def test_its_golden_answers_are_its_own(chain: Any) -> None:
    before, after = bundles(chain)

    check_golden(Engine(after, threads=1))

    assert after.golden.items == before.golden.items
    difference = np.abs(np.array(after.golden.logits) - np.array(before.golden.logits)).max()
    assert 0 < difference < 1


def test_its_facts_name_the_bundle_and_both_sizes(chain: Any) -> None:
    before, after = bundles(chain)
    facts = chain.quantized.manifest.facts

    assert facts["bundle_digest"] == after.digest
    assert facts["size_bytes"] == (after.path / "model.onnx").stat().st_size
    assert facts["size_bytes_before"] == (before.path / "model.onnx").stat().st_size
    assert facts["size_bytes"] < facts["size_bytes_before"]


def test_the_source_bundle_is_left_alone(chain: Any) -> None:
    before, _ = bundles(chain)
    assert before.digest == chain.exported.manifest.facts["bundle_digest"]


def test_a_recipe_that_makes_the_graph_no_smaller_is_refused(
    chain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(_: DynamicRecipe, source: Path, target: Path, given: Any) -> dict[str, Any]:
        shutil.copyfile(source, target)
        return {"operators": {}}

    monkeypatch.setattr(DynamicRecipe, "apply", copy)
    inputs = Inputs({"bundle": chain.exported}, {"task": chain.task})
    with pytest.raises(BadArtifact) as refused:
        chain.run("quantize", "quantize-student", DynamicRecipe(), inputs, root=tmp_path)

    before = (chain.exported.path / "bundle" / "model.onnx").stat().st_size
    assert str(refused.value) == (
        f"quantization made the graph larger ({before:,} to {before:,} bytes); use another recipe"
    )


def test_a_bundle_that_was_altered_is_refused(chain: Any, seal: Any, tmp_path: Path) -> None:
    shutil.copytree(chain.exported.path, tmp_path / "altered")
    (tmp_path / "altered" / "bundle" / "tokenizer.json").write_text("{}")
    altered = seal(tmp_path / "altered", label="export-student")

    with pytest.raises(BadArtifact, match=r"tokenizer\.json was altered after it was sealed"):
        chain.run("quantize", "q", DynamicRecipe(), Inputs({"bundle": altered}, {"task": chain.task}), root=tmp_path)
