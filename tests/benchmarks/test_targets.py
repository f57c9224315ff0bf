"""Every target: loads from configuration, opens its folder, and computes what it should."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from fakes import VOCABULARY, expected_logits, tiny_bundle, tiny_tokenizer
from pydantic import ValidationError

from benchmarks.targets import TARGET, OrtCpu, Target, Torch
from serving.errors import BadArtifact

UNION = get_args(get_args(Target)[0])


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 2 labels, saved in half precision as some teachers are."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=2,
    )
    BertForSequenceClassification(config).bfloat16().save_pretrained(path)
    tiny_tokenizer(2).save(str(path / "tokenizer.json"))
    return path


@pytest.mark.parametrize("target", UNION)
def test_every_target_loads_from_yaml(target: type[OrtCpu | Torch]) -> None:
    kind = target.model_fields["kind"].default
    assert TARGET.validate_python(yaml.safe_load(f"{{kind: {kind}, threads: 2}}")) == target(threads=2)


def test_an_unknown_kind_is_answered_with_the_list_of_right_ones() -> None:
    with pytest.raises(ValidationError, match="'ort-cpu', 'torch'"):
        TARGET.validate_python({"kind": "ort-gpu"})


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="thread\n  Extra inputs are not permitted"):
        TARGET.validate_python({"kind": "ort-cpu", "thread": 2})


def test_threads_default_to_what_the_process_may_use() -> None:
    assert OrtCpu(threads=3).resolved_threads() == 3
    assert OrtCpu().resolved_threads() >= 1


def test_ort_cpu_answers_like_the_engine_step_by_step(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    runner = OrtCpu(threads=1).open(tmp_path)
    tokens = runner.encode(("good bad good",))
    assert len(tokens.ids) == 5
    expected = expected_logits(("good bad good",), spec=bundle.spec)
    np.testing.assert_allclose(runner.infer(tokens), [expected], rtol=1e-6)
    np.testing.assert_allclose(runner.logits([("good bad good",)] * 2), [expected] * 2, rtol=1e-6)


def test_ort_cpu_names_the_digest_of_the_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    facts = OrtCpu(threads=1).open(tmp_path).facts
    assert (facts.digest, facts.parameters, facts.providers) == (bundle.digest, 22, ("CPUExecutionProvider",))
    assert facts.size_mb == (tmp_path / "model.onnx").stat().st_size / 1e6


def test_torch_computes_in_float32_what_the_model_says_for_a_pair(bert_folder: Path) -> None:
    import torch
    from transformers import BertForSequenceClassification

    runner = Torch(threads=1, max_length=16).open(bert_folder)
    tokens = runner.encode(("good", "bad fine"))
    assert (tokens.ids, tokens.type_ids) == ([2, 5, 3, 4, 7, 3], [0, 0, 0, 1, 1, 1])
    model = BertForSequenceClassification.from_pretrained(bert_folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(
            input_ids=torch.tensor([tokens.ids]), token_type_ids=torch.tensor([tokens.type_ids])
        ).logits.numpy()
    assert runner.infer(tokens).dtype == np.float32
    np.testing.assert_allclose(runner.logits([("good", "bad fine")]), expected, atol=1e-6)


def test_torch_cuts_long_items_at_max_length(bert_folder: Path) -> None:
    runner = Torch(threads=1, max_length=16).open(bert_folder)
    assert len(runner.encode(("good " * 50,)).ids) == 16
    assert runner.logits([("good " * 50,)]).shape == (1, 2)


def test_torch_names_the_digest_and_the_parameters_of_its_weights(bert_folder: Path) -> None:
    import hashlib

    facts = Torch(threads=1).open(bert_folder).facts
    assert facts.digest == hashlib.sha256((bert_folder / "model.safetensors").read_bytes()).hexdigest()
    assert facts.parameters > 1000
    assert facts.providers == ("torch-cpu",)


def test_torch_refuses_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    message = "has no model.safetensors, tokenizer.json: target 'torch' measures a folder saved by finetune$"
    with pytest.raises(BadArtifact, match=message):
        Torch(threads=1).open(tmp_path)
