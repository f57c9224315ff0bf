"""Every target: loads from configuration, opens its folder, and computes what it should."""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import yaml
from fakes import VOCABULARY, expected_logits, tiny_bundle, tiny_tokenizer
from pydantic import ValidationError
from safetensors.numpy import load_file

from benchmarks.targets import TARGET, BundleTarget, OpenVino, OrtCpu, OrtCuda, Target, Torch
from serving.bundle import TaskKind, seal_core
from serving.cpu import cpu_features
from serving.errors import BadArtifact, BadRequest
from serving.runtimes import BF16_FEATURES

UNION = get_args(get_args(Target)[0])


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 2 labels, saved in half precision as some teachers are."""
    return saved_bert(tmp_path_factory.mktemp("bert"), "BertForSequenceClassification", half=True)


def saved_bert(path: Path, architecture: str, *, labels: int = 2, half: bool = False) -> Path:
    """A folder as finetune leaves it, of random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=labels,
    )
    model = getattr(transformers, architecture)(config)
    (model.bfloat16() if half else model).save_pretrained(path)
    tiny_tokenizer(2).save(str(path / "tokenizer.json"))
    return path


def outputs_of(path: Path, architecture: str, tokens: Any) -> Any:
    """What transformers itself computes of one item."""
    import torch
    import transformers

    model = getattr(transformers, architecture).from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens.ids]), token_type_ids=torch.tensor([tokens.type_ids]))


def test_what_runs_bundles_is_every_target_but_torch() -> None:
    assert {*get_args(get_args(BundleTarget)[0])} == {*UNION} - {Torch}


@pytest.mark.parametrize("target", UNION)
def test_every_target_loads_from_yaml(target: type[OrtCpu | OrtCuda | OpenVino | Torch]) -> None:
    kind = target.model_fields["kind"].default
    assert TARGET.validate_python(yaml.safe_load(f"{{kind: {kind}, threads: 2}}")) == target(threads=2)


def test_an_unknown_kind_is_answered_with_the_list_of_right_ones() -> None:
    with pytest.raises(ValidationError, match="'ort-cpu', 'ort-cuda', 'openvino', 'torch'"):
        TARGET.validate_python({"kind": "ort-gpu"})


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="thread\n  Extra inputs are not permitted"):
        TARGET.validate_python({"kind": "ort-cpu", "thread": 2})


@pytest.mark.parametrize("target", UNION)
def test_every_target_says_what_this_machine_lacks_for_it(target: type[OrtCpu | OrtCuda | OpenVino | Torch]) -> None:
    lacking = target().missing()
    assert isinstance(lacking, str)
    assert "\n" not in lacking
    if target in (OrtCpu, Torch):
        assert lacking == ""


def test_a_machine_without_cuda_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert OrtCuda().missing() == (
        "CUDAExecutionProvider, which this onnxruntime does not have: pip uninstall onnxruntime, then "
        "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


def test_a_machine_without_a_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert OpenVino().missing() == "openvino, which is not installed: pip install 'retort[openvino]'"
    assert Torch().missing() == "torch, which is not installed: see requirements/torch.txt"


def test_bf16_lacks_the_cpu_for_it_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.targets.cpu_features", lambda: frozenset({"avx512f"}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert OpenVino().missing() == ""
    assert OpenVino(precision="bf16").missing() == (
        "a CPU that computes in bf16 (amx_bf16, avx512_bf16, bf16): measure it on one, or in fp32"
    )


def test_ort_cuda_never_answers_from_the_cpu(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    if lacking := OrtCuda().missing():
        with pytest.raises(BadArtifact) as refused:
            OrtCuda(threads=1).open(tmp_path)
        assert str(refused.value) == f"{tmp_path} needs {lacking}"
    else:
        runner = OrtCuda(threads=1).open(tmp_path)
        assert runner.facts.providers[0] == "CUDAExecutionProvider"
        expected = expected_logits(("good bad good",), spec=bundle.spec)
        np.testing.assert_allclose(runner.logits([("good bad good",)]), [expected], atol=1e-4)


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


def test_ort_cpu_answers_every_token_of_a_tagged_item(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, task="token-classification")
    runner = OrtCpu(threads=1).open(tmp_path)
    expected = np.reshape(expected_logits(("good dull",), spec=bundle.spec), (4, 3))
    assert runner.task == "token-classification"
    np.testing.assert_allclose(runner.infer(runner.encode(("good dull",))), [expected], rtol=1e-6)
    np.testing.assert_allclose(runner.logits([("good dull",)]), [expected], rtol=1e-6)


def test_ort_cpu_names_the_digest_of_the_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    facts = OrtCpu(threads=1).open(tmp_path).facts
    assert (facts.digest, facts.parameters, facts.providers) == (bundle.digest, 22, ("CPUExecutionProvider",))
    assert facts.size_mb == (tmp_path / "model.onnx").stat().st_size / 1e6


def test_torch_computes_in_float32_what_the_model_says_for_a_pair(bert_folder: Path) -> None:
    runner = Torch(threads=1, max_length=16).open(bert_folder)
    tokens = runner.encode(("good", "bad fine"))
    assert (tokens.ids, tokens.type_ids) == ([2, 5, 3, 4, 7, 3], [0, 0, 0, 1, 1, 1])
    expected = outputs_of(bert_folder, "BertForSequenceClassification", tokens).logits.numpy()
    assert runner.infer(tokens).dtype == np.float32
    np.testing.assert_allclose(runner.logits([("good", "bad fine")]), expected, atol=1e-6)


def test_torch_cuts_long_items_at_max_length(bert_folder: Path) -> None:
    runner = Torch(threads=1, max_length=16).open(bert_folder)
    assert len(runner.encode(("good " * 50,)).ids) == 16
    assert [each.shape for each in runner.logits([("good " * 50,)])] == [(2,)]


ITEMS = [("good", "bad"), ("fine bad good", "dull"), ("bad", "good")]


def test_torch_answers_every_token_of_each_item_in_the_order_asked(tmp_path: Path) -> None:
    path = saved_bert(tmp_path, "BertForTokenClassification", labels=3)
    runner = Torch(threads=1, max_length=16, task="token-classification").open(path)
    found = runner.logits(ITEMS)
    assert (runner.task, [each.shape for each in found]) == ("token-classification", [(5, 3), (7, 3), (5, 3)])
    for item, output in zip(ITEMS, found, strict=True):
        tokens = runner.encode(item)
        expected = outputs_of(path, "BertForTokenClassification", tokens).logits.numpy()
        np.testing.assert_allclose(runner.infer(tokens), expected, atol=1e-6)
        np.testing.assert_allclose(output, expected[0], atol=1e-6)


@pytest.mark.parametrize(("task", "labels"), [("multi-label", 3), ("regression", 1)])
def test_torch_answers_with_the_head_s_raw_numbers(tmp_path: Path, task: TaskKind, labels: int) -> None:
    path = saved_bert(tmp_path, "BertForSequenceClassification", labels=labels)
    runner = Torch(threads=1, max_length=16, task=task).open(path)
    expected = outputs_of(path, "BertForSequenceClassification", runner.encode(ITEMS[0])).logits.numpy()
    np.testing.assert_allclose(runner.logits(ITEMS[:1]), expected, atol=1e-6)


def embedder(path: Path, *modes: str) -> Path:
    """A folder as sentence-transformers leaves it; `modes` are switched on."""
    saved_bert(path, "BertModel")
    known = ("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens")
    pooling = {"word_embedding_dimension": 16, **{mode: mode in modes for mode in known}, "include_prompt": True}
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling/config.json").write_text(json.dumps(pooling))
    return path


@pytest.mark.parametrize("mode", ["pooling_mode_cls_token", "pooling_mode_mean_tokens"])
def test_torch_pools_vectors_as_the_folder_says(tmp_path: Path, mode: str) -> None:
    path = embedder(tmp_path, mode)
    runner = Torch(threads=1, max_length=16, task="embedding").open(path)
    for item, vector in zip(ITEMS, runner.logits(ITEMS), strict=True):
        hidden_LD = outputs_of(path, "BertModel", runner.encode(item)).last_hidden_state[0].numpy()
        expected = hidden_LD[0] if mode == "pooling_mode_cls_token" else hidden_LD.mean(axis=0)
        np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_torch_leaves_out_the_layer_that_no_vector_goes_through(tmp_path: Path) -> None:
    path = embedder(tmp_path, "pooling_mode_cls_token")
    whole = sum(tensor.size for tensor in load_file(path / "model.safetensors").values())
    assert Torch(threads=1, task="embedding").open(path).facts.parameters == whole - (16 * 16 + 16)


def test_torch_divides_vectors_by_their_length_where_the_folder_asks_for_it(tmp_path: Path) -> None:
    path = embedder(tmp_path, "pooling_mode_mean_tokens")
    target = Torch(threads=1, max_length=16, task="embedding")
    plain = np.stack(target.open(path).logits(ITEMS))
    modules = [{"path": "1_Pooling"}, {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]
    (path / "modules.json").write_text(json.dumps(modules))
    listed = np.stack(target.open(path).logits(ITEMS))
    (path / "modules.json").write_text(json.dumps(modules[:1]))
    unlisted = np.stack(target.open(path).logits(ITEMS))
    (path / "2_Normalize").mkdir()
    with_folder = np.stack(target.open(path).logits(ITEMS))
    np.testing.assert_allclose(listed, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(with_folder, listed)
    np.testing.assert_array_equal(unlisted, plain)


@pytest.mark.parametrize(
    ("modes", "asked"),
    [
        (("pooling_mode_max_tokens",), "pooling_mode_max_tokens"),
        (
            ("pooling_mode_cls_token", "pooling_mode_mean_tokens"),
            "pooling_mode_cls_token and pooling_mode_mean_tokens",
        ),
        ((), "no pooling"),
    ],
)
def test_torch_refuses_a_pooling_it_does_not_know(tmp_path: Path, modes: tuple[str, ...], asked: str) -> None:
    path = embedder(tmp_path, *modes)
    with pytest.raises(BadArtifact) as caught:
        Torch(threads=1, task="embedding").open(path)
    assert str(caught.value) == (
        f"{path}/1_Pooling/config.json asks for {asked}: target 'torch' knows pooling_mode_cls_token or "
        "pooling_mode_mean_tokens"
    )


def test_torch_refuses_an_embedding_whose_pooling_is_not_written_down(bert_folder: Path) -> None:
    message = r"has no 1_Pooling/config\.json: target 'torch' measures a folder saved by finetune$"
    with pytest.raises(BadArtifact, match=message):
        Torch(threads=1, task="embedding").open(bert_folder)


def test_torch_names_the_digest_and_the_parameters_of_its_weights(bert_folder: Path) -> None:
    import hashlib

    facts = Torch(threads=1).open(bert_folder).facts
    assert facts.digest == hashlib.sha256((bert_folder / "model.safetensors").read_bytes()).hexdigest()
    assert facts.parameters > 1000
    assert facts.providers == ("torch-cpu",)


@pytest.mark.parametrize("target", [OrtCpu(threads=1), Torch(threads=1, max_length=16, task="token-classification")])
def test_a_padded_batch_answers_as_its_items_do_alone(tmp_path: Path, target: OrtCpu | Torch) -> None:
    if isinstance(target, OrtCpu):
        tiny_bundle(tmp_path, task="token-classification")
    else:
        saved_bert(tmp_path, "BertForTokenClassification", labels=3)
    items = [item[: 1 if isinstance(target, OrtCpu) else 2] for item in ITEMS]
    runner = target.open(tmp_path)
    tokens = [runner.encode(item) for item in items]
    together = runner.infer_batch(tokens)
    assert together.shape == (3, max(len(one.ids) for one in tokens), 3)
    for one, row in zip(tokens, together, strict=True):
        np.testing.assert_allclose(row[: len(one.ids)], runner.infer(one)[0], atol=1e-6)


@pytest.mark.parametrize("mode", ["pooling_mode_cls_token", "pooling_mode_mean_tokens"])
def test_padding_is_no_part_of_a_vector(tmp_path: Path, mode: str) -> None:
    runner = Torch(threads=1, max_length=16, task="embedding").open(embedder(tmp_path, mode))
    together = runner.infer_batch([runner.encode(item) for item in ITEMS])
    np.testing.assert_allclose(together, runner.logits(ITEMS), atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ort_cpu_opens_what_the_bundle_names_and_tells_it(tmp_path: Path, precision: str) -> None:
    bundle = tiny_bundle(tmp_path)
    if not cpu_features() & BF16_FEATURES and precision == "bf16":
        pytest.skip("this CPU does not compute in bf16")
    spec = msgspec.structs.replace(bundle.spec, runtime="openvino", inference_precision=precision)
    seal_core(tmp_path, spec=spec, golden=bundle.golden)
    runner = OrtCpu(threads=1).open(tmp_path)
    assert runner.facts.providers == (f"openvino-cpu-{precision}",)
    expected = expected_logits(("good bad good",), spec=bundle.spec)
    np.testing.assert_allclose(runner.logits([("good bad good",)]), [expected], rtol=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_computes_a_bundle_that_names_onnxruntime(tmp_path: Path, precision: str) -> None:
    if not cpu_features() & BF16_FEATURES and precision == "bf16":
        pytest.skip("this CPU does not compute in bf16")
    bundle = tiny_bundle(tmp_path)
    runner = TARGET.validate_python({"kind": "openvino", "precision": precision, "threads": 1}).open(tmp_path)
    assert runner.facts.providers == (f"openvino-cpu-{precision}",)
    assert runner.facts.digest == bundle.digest
    expected = expected_logits(("good bad good",), spec=bundle.spec)
    np.testing.assert_allclose(runner.logits([("good bad good",)]), [expected], rtol=0.01)


def test_openvino_keeps_the_precision_that_a_bundle_names(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    assert OpenVino(threads=1).open(tmp_path).facts.providers == ("openvino-cpu-fp32",)
    if cpu_features() & BF16_FEATURES:
        spec = msgspec.structs.replace(bundle.spec, runtime="openvino", inference_precision="bf16")
        seal_core(tmp_path, spec=spec, golden=bundle.golden)
        assert OpenVino(threads=1).open(tmp_path).facts.providers == ("openvino-cpu-bf16",)


@pytest.mark.parametrize("task", ["classification", "embedding"])
def test_torch_in_bf16_is_close_to_fp32_and_answers_in_float32(tmp_path: Path, task: TaskKind) -> None:
    path = embedder(tmp_path, "pooling_mode_mean_tokens")
    if task == "classification":
        saved_bert(path, "BertForSequenceClassification")
    target = Torch(threads=1, max_length=16, task=task)
    half, plain = (target.model_copy(update={"precision": p}).open(path) for p in ("bf16", "fp32"))
    found, wanted = np.stack(half.logits(ITEMS)), np.stack(plain.logits(ITEMS))
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    assert (half.facts.providers, plain.facts.providers) == (("torch-cpu-bf16",), ("torch-cpu",))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_torch_compiled_answers_as_eager_does_at_any_length(bert_folder: Path) -> None:
    target = Torch(threads=1, max_length=16)
    runner = target.model_copy(update={"compiled": True}).open(bert_folder)
    items = [("good " * n, "bad") for n in range(1, 9)]  # each of another length
    np.testing.assert_allclose(runner.logits(items), target.open(bert_folder).logits(items), atol=1e-5)
    assert runner.facts.providers == ("torch-cpu-compiled",)


def test_torch_compiled_without_a_compiler_is_refused(bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(BadRequest) as caught:
        Torch(threads=1, compiled=True).open(bert_folder)
    assert str(caught.value) == (
        "target 'torch' with compiled: true needs a C++ compiler, and there is neither g++ nor clang++ here: "
        "install one or leave `compiled` out"
    )


def test_torch_refuses_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    message = "has no model.safetensors, tokenizer.json: target 'torch' measures a folder saved by finetune$"
    with pytest.raises(BadArtifact, match=message):
        Torch(threads=1).open(tmp_path)
