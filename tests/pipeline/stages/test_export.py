"""export as a stage: a sealed bundle that says what it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import LABELS
from onnx import numpy_helper
from pydantic import ValidationError

from pipeline import exporting
from pipeline.errors import BadArtifact
from pipeline.graph import Inputs
from pipeline.quantizing.graphs import operators
from pipeline.stages.export import ExportConfig, check_tokens
from serving.bundle import ServingSpec, read_bundle
from serving.engine import Engine, check_golden
from serving.long_texts import Windows


def test_it_leaves_a_whole_bundle_that_answers(chain: Any) -> None:
    bundle = read_bundle(chain.exported.path / "bundle")
    engine = Engine(bundle, threads=1)

    check_golden(engine)
    assert [row.shape for row in engine.answer([("a plain story good",)]).scores] == [(2,)]


def test_its_contract_is_filled_in_from_task_tokenizer_and_model(chain: Any) -> None:
    spec = read_bundle(chain.exported.path / "bundle").spec

    assert spec == ServingSpec(
        name="student-onnx-fp32",
        task="classification",
        labels=LABELS,
        texts_per_item=1,
        max_length=20,
        pad_id=0,
        graph_inputs=("input_ids", "attention_mask", "token_type_ids"),
        buckets=(16, 20),
        parameters=chain.finetuned.manifest.facts["parameters"],
    )


def test_what_becomes_of_long_texts_is_shipped_as_it_is_asked_for(chain: Any, tmp_path: Path) -> None:
    config = ExportConfig.model_validate({"long_texts": {"kind": "windows", "stride": 4, "max_windows": 5}})
    inputs = Inputs({"model": chain.finetuned}, {"task": chain.task})
    made = chain.run("export", "export-student", config, inputs, root=tmp_path)

    engine = Engine(read_bundle(made.path / "bundle"), threads=1)

    assert engine.bundle.spec.long_texts == Windows(stride=4, max_windows=5)
    (tokens,) = engine.encode([("a plain story good " * 12,)])
    assert len(tokens.windows) > 1
    assert engine.answer([("a plain story good " * 12,)]).scores[0].shape == (2,)


def test_its_facts_name_the_bundle_and_the_parity_that_was_proven(chain: Any) -> None:
    facts = chain.exported.manifest.facts

    assert facts["bundle_digest"] == read_bundle(chain.exported.path / "bundle").digest
    assert (facts["parity"]["texts"], facts["parity"]["labels_differ"]) == (256, 0)
    assert facts["parity"]["max_abs_difference"] <= 1e-4
    assert facts["operators"] == operators(chain.exported.path / "bundle" / "model.onnx")
    assert json.loads((chain.exported.path / "evidence" / "parity.json").read_text()) == facts["parity"]


def test_too_few_texts_to_prove_parity_on_are_refused(chain: Any, tmp_path: Path) -> None:
    inputs = Inputs({"model": chain.finetuned}, {"task": chain.task})
    with pytest.raises(BadArtifact) as refused:
        chain.run("export", "export-student", ExportConfig(parity_texts=271), inputs, root=tmp_path)
    assert str(refused.value) == "export proves parity on 271 real texts; train and dev hold only 270: add texts"


def test_parity_on_fewer_than_256_texts_is_not_to_be_had() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 256"):
        ExportConfig(parity_texts=255)


def test_a_graph_that_differs_is_an_error_of_the_stage(
    chain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export gone wrong: the real graph with another bias."""
    graph = onnx.load(chain.exported.path / "bundle" / "model.onnx")
    (bias,) = (tensor for tensor in graph.graph.initializer if tensor.name == "classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1), bias.name))
    monkeypatch.setattr(exporting, "export_onnx", lambda _, path, **__: onnx.save(graph, path))
    inputs = Inputs({"model": chain.finetuned}, {"task": chain.task})

    with pytest.raises(BadArtifact, match="the graph differs from torch by 1 "):
        chain.run("export", "export-student", ExportConfig(), inputs, root=tmp_path)


def test_a_token_without_an_embedding_is_refused() -> None:
    check_tokens({"good": 0, "last": 8}, rows=9)
    with pytest.raises(BadArtifact) as refused:
        check_tokens({"good": 0, "added": 9}, rows=9)
    assert str(refused.value) == (
        "the tokenizer gives 'added' the id 9, and the model has embeddings for 9 tokens; give it the tokenizer it was "
        "trained with"
    )
