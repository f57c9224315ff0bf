import math
import re
from pathlib import Path

import msgspec
import pytest
from fakes import DIMENSIONS, LABELS, tiny_bundle

from serving.bundle import Bundle, Golden, ServingSpec, TaskKind, read_bundle, seal_core
from serving.errors import BadArtifact
from serving.long_texts import LongTexts, Refuse, Truncate, Windows

AGAIN = "fetch or export the bundle again"
CORE = "config.json, golden.json, model.onnx, serving.yaml, tokenizer.json"
MULTI: dict[str, object] = {"task": "multi-label"}
TAGS: dict[str, object] = {"task": "token-classification", "labels": ("O", "B-x", "I-x")}
# serving.yaml as version 0.1 wrote it.
FIRST_SCHEMA = """
schema: 1
name: tiny
task: classification
labels: [negative, positive]
texts_per_item: 1
max_length: 16
pad_id: 0
graph_inputs: [input_ids, attention_mask]
buckets: [8, 16]
providers: [CPUExecutionProvider]
cpu_features: []
parameters: 22
max_items: 64
max_characters: 20000
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


def reseal(bundle: Bundle, **changes: object) -> str:
    return seal_core(bundle.path, spec=msgspec.structs.replace(bundle.spec, **changes), golden=bundle.golden)


def refusal(path: Path) -> str:
    with pytest.raises(BadArtifact) as refused:
        read_bundle(path)
    return str(refused.value)


def test_a_sealed_bundle_reads_back_as_it_was_written(bundle: Bundle) -> None:
    assert read_bundle(bundle.path) == bundle
    assert bundle.spec.labels == ("negative", "positive")
    assert bundle.golden.items[0] == ["good"]


def test_the_manifest_lists_the_core_sorted_and_its_hash_is_the_digest(bundle: Bundle) -> None:
    import hashlib

    manifest = (bundle.path / "manifest.sha256").read_bytes()
    lines = manifest.decode().splitlines()
    assert [line.split("  ")[1] for line in lines] == CORE.split(", ")
    assert bundle.digest == hashlib.sha256(manifest).hexdigest()


def test_sealing_the_same_core_twice_gives_the_same_digest(bundle: Bundle, tmp_path: Path) -> None:
    assert tiny_bundle(tmp_path / "again").digest == bundle.digest


def test_receipts_and_tuning_beside_the_core_change_nothing(bundle: Bundle) -> None:
    (bundle.path / "receipts").mkdir()
    (bundle.path / "receipts" / "latency@here.json").write_text("{}")
    (bundle.path / "tuning@here.json").write_text("{}")
    assert read_bundle(bundle.path).digest == bundle.digest


def test_optional_tokenizer_files_are_covered(bundle: Bundle) -> None:
    (bundle.path / "tokenizer_config.json").write_text("{}")
    assert reseal(bundle) != bundle.digest
    (bundle.path / "tokenizer_config.json").write_text("{ }")
    assert refusal(bundle.path) == f"{bundle.path}: tokenizer_config.json was altered after it was sealed; {AGAIN}"


@pytest.mark.parametrize("name", CORE.split(", "))
def test_a_tampered_core_file_is_refused(bundle: Bundle, name: str) -> None:
    with (bundle.path / name).open("ab") as file:
        file.write(b" ")
    assert refusal(bundle.path) == f"{bundle.path}: {name} was altered after it was sealed; {AGAIN}"


@pytest.mark.parametrize("name", CORE.split(", "))
def test_a_missing_core_file_is_refused(bundle: Bundle, name: str) -> None:
    (bundle.path / name).unlink()
    assert refusal(bundle.path) == f"{bundle.path}: {name} is missing; {AGAIN}"


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    told = "is not a bundle: it has no manifest.sha256; name a folder that export or quantize sealed"
    assert refusal(tmp_path) == f"{tmp_path} {told}"


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"garbage\n",
        b"\xff\xfe\n",
        b"0" * 64 + b"  ../../etc/passwd\n",
        b"0" * 64 + b"  model.onnx\n",
    ],
)
def test_a_manifest_that_does_not_list_the_core_is_refused(bundle: Bundle, manifest: bytes) -> None:
    path = bundle.path / "manifest.sha256"
    path.write_bytes(manifest)
    assert refusal(bundle.path) == f"{path} does not list exactly the core files {CORE}"


def test_a_manifest_that_lists_a_file_of_no_core_is_refused(bundle: Bundle) -> None:
    path = bundle.path / "manifest.sha256"
    path.write_text(path.read_text() + "0" * 64 + "  zz.py\n")
    assert refusal(bundle.path) == f"{path} does not list exactly the core files {CORE}"


def test_a_tokenizer_file_slipped_in_after_the_seal_is_refused(bundle: Bundle) -> None:
    (bundle.path / "special_tokens_map.json").write_text("{}")
    told = "special_tokens_map.json came after the seal; remove it or export again"
    assert refusal(bundle.path) == f"{bundle.path}: {told}"


def test_a_newer_schema_is_told_apart_from_a_broken_one(bundle: Bundle) -> None:
    with pytest.raises(BadArtifact) as refused:
        reseal(bundle, schema=5)
    told = "schema 5 is newer than 4, the newest this version reads; update Retort"
    assert str(refused.value) == f"{bundle.path / 'serving.yaml'}: {told}"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"labels": ("one",)}, "classification needs two labels or more"),
        ({"labels": ("O",), "task": "token-classification"}, "token-classification needs two labels or more"),
        ({"labels": (), "task": "multi-label"}, "multi-label needs a label or more"),
        ({"labels": ("a", "a", "b")}, "labels must differ from each other"),
        ({"task": "regression"}, "regression has no labels"),
        ({"task": "embedding", "dimensions": 3}, "embedding has no labels"),
        ({"task": "embedding", "labels": ()}, "embedding needs dimensions, the width of its vector"),
        ({"dimensions": 3}, "dimensions are for embedding; classification has none"),
        ({"thresholds": (0.5, 0.5)}, "thresholds are for multi-label; classification has none"),
        (MULTI, "multi-label needs one threshold per label; 2 label(s) have 0"),
        (MULTI | {"thresholds": (0.5,)}, "multi-label needs one threshold per label; 2 label(s) have 1"),
        (
            MULTI | {"thresholds": (0.5, 1.0)},
            "thresholds must lie between 0 and 1, both excluded; found [1.0]",
        ),
        (
            MULTI | {"thresholds": (0.0, math.nan)},
            "thresholds must lie between 0 and 1, both excluded; found [0.0, nan]",
        ),
        (
            MULTI | {"thresholds": (0.5, 0.5), "refuse_below": 0.5},
            "refuse_below is for classification, not for multi-label",
        ),
        ({"refuse_below": 0.0}, "refuse_below must lie between 0 and 1, both excluded; found 0.0"),
        ({"refuse_below": 1.0}, "refuse_below must lie between 0 and 1, both excluded; found 1.0"),
        (TAGS | {"texts_per_item": 2}, "token-classification reads one text per item; texts_per_item is 2"),
        (
            TAGS | {"labels": ("O", "B-x", "x", "E-x", "B-", "B")},
            "labels of token-classification must be O, B-x or I-x; found x, E-x, B-, B",
        ),
        (TAGS | {"labels": ("O", "B-x", "I-y")}, "a label I-x needs a B-x beside it; I-y have none"),
        ({"graph_inputs": ("attention_mask",)}, "graph_inputs must name input_ids"),
        ({"graph_inputs": ("input_ids", "input_ids")}, "graph_inputs must differ from each other"),
        ({"buckets": ()}, "buckets must be ascending lengths"),
        ({"buckets": (16, 8)}, "buckets must be ascending lengths"),
        ({"buckets": (8, 17)}, "no bucket may exceed max_length"),
        ({"providers": ()}, "providers must name at least one"),
        (
            {"runtime": "openvino", "providers": ("CUDAExecutionProvider", "CPUExecutionProvider")},
            "providers are for onnxruntime; openvino takes CPUExecutionProvider alone",
        ),
        ({"long_texts": Windows(stride=9)}, "windows of 16 tokens may share half of them, not 9"),
        ({"aggregation": "max"}, "aggregation max is for token-classification; classification has none"),
        (
            {"inference_precision": "bf16"},
            "inference_precision bf16 needs runtime openvino; onnxruntime has none",
        ),
    ],
)
def test_a_spec_that_contradicts_itself_cannot_be_made(bundle: Bundle, changes: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(fault)}$"):
        ServingSpec(**(msgspec.structs.asdict(bundle.spec) | changes))


def test_a_bundle_of_the_first_schema_is_still_read(bundle: Bundle) -> None:
    _seal_text(bundle, FIRST_SCHEMA)
    assert read_bundle(bundle.path).spec == msgspec.structs.replace(bundle.spec, schema=1)


def test_a_bundle_of_the_second_schema_is_computed_as_it_was(bundle: Bundle) -> None:
    _seal_text(bundle, FIRST_SCHEMA.replace("schema: 1", "schema: 2") + "thresholds: []\nrefuse_below: 0.5\n")
    spec = read_bundle(bundle.path).spec
    assert spec == msgspec.structs.replace(bundle.spec, schema=2, refuse_below=0.5)
    assert (spec.runtime, spec.inference_precision) == ("onnxruntime", "fp32")


def test_a_bundle_of_the_third_schema_cuts_long_texts_as_it_did(bundle: Bundle) -> None:
    _seal_text(bundle, FIRST_SCHEMA.replace("schema: 1", "schema: 3") + "runtime: onnxruntime\n")
    spec = read_bundle(bundle.path).spec
    assert spec == msgspec.structs.replace(bundle.spec, schema=3)
    assert (spec.long_texts, spec.aggregation, spec.reach) == (Truncate(), "first", spec.max_length)


@pytest.mark.parametrize(
    ("long_texts", "reach"), [(Truncate(), 16), (Refuse(), 16), (Windows(stride=4, max_windows=3), 48)]
)
def test_what_becomes_of_long_texts_is_read_back_as_it_was_sealed(
    bundle: Bundle, long_texts: LongTexts, reach: int
) -> None:
    reseal(bundle, long_texts=long_texts)
    spec = read_bundle(bundle.path).spec
    assert (spec.long_texts, spec.reach) == (long_texts, reach)


def test_runtime_and_precision_are_read_back_as_they_were_sealed(bundle: Bundle) -> None:
    plain = bundle.digest
    assert reseal(bundle, runtime="openvino", inference_precision="bf16") != plain
    spec = read_bundle(bundle.path).spec
    assert (spec.schema, spec.runtime, spec.inference_precision) == (4, "openvino", "bf16")


@pytest.mark.parametrize("task", LABELS)
def test_a_spec_of_every_task_reads_back_with_the_width_of_its_outputs(tmp_path: Path, task: TaskKind) -> None:
    sealed = tiny_bundle(tmp_path, task=task)
    assert read_bundle(tmp_path) == sealed
    assert sealed.spec.outputs == {"regression": 1, "embedding": DIMENSIONS}.get(task, len(LABELS[task]))
    assert sealed.spec.per_token == (task == "token-classification")


def test_thresholds_and_the_bound_of_refusal_are_kept_to_the_last_bit(tmp_path: Path) -> None:
    chosen = (0.1, float.fromhex("0x1.5555560000000p-2"))
    assert tiny_bundle(tmp_path / "m", task="multi-label", thresholds=chosen).spec.thresholds == chosen
    assert tiny_bundle(tmp_path / "c", refuse_below=chosen[1]).spec.refuse_below == chosen[1]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"max_items": 0}, "Expected `int` >= 1 - at `$.max_items`"),
        ({"texts_per_item": 3}, "Expected `int` <= 2 - at `$.texts_per_item`"),
        ({"task": "tagging"}, "Invalid enum value 'tagging' - at `$.task`"),
        ({"task": "embedding", "labels": (), "dimensions": -1}, "Expected `int` >= 1 - at `$.dimensions`"),
        ({"runtime": "tensorrt"}, "Invalid enum value 'tensorrt' - at `$.runtime`"),
        ({"inference_precision": "fp16"}, "Invalid enum value 'fp16' - at `$.inference_precision`"),
        ({"name": ""}, "Expected `str` of length >= 1 - at `$.name`"),
        ({"graph_inputs": ("input_ids", "inputs")}, "Invalid enum value 'inputs' - at `$.graph_inputs[1]`"),
    ],
)
def test_what_cannot_be_read_back_is_not_sealed(bundle: Bundle, changes: dict[str, object], fault: str) -> None:
    with pytest.raises(BadArtifact) as refused:
        reseal(bundle, **changes)
    assert str(refused.value) == f"{bundle.path / 'serving.yaml'}: {fault}"


def test_an_unknown_key_in_the_spec_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BadArtifact) as refused:
        _write_spec(bundle, threads=4)
    assert str(refused.value) == f"{bundle.path / 'serving.yaml'}: Object contains unknown field `threads`"


def test_labels_that_yaml_could_mistake_stay_text(tmp_path: Path) -> None:
    assert tiny_bundle(tmp_path, labels=("no", "yes", "1", "null")).spec.labels == ("no", "yes", "1", "null")


@pytest.mark.parametrize(
    ("items", "logits", "fault"),
    [
        ([], [], "0 items and 0 rows of logits; needs one row per item"),
        ([["a"]], [], "1 items and 0 rows of logits; needs one row per item"),
        ([["a", "b"]], [[0.0, 1.0]], "an item has not 1 text(s), as serving.yaml says"),
        ([["a"]], [[0.0]], "a row has not 2 logit(s), as serving.yaml says"),
        ([["a"]], [[0.0, float("nan")]], "Expected `float`, got `null` - at `$.logits[0][1]`"),
    ],
)
def test_golden_inputs_that_do_not_fit_are_refused(
    bundle: Bundle, items: list[list[str]], logits: list[list[float]], fault: str
) -> None:
    with pytest.raises(BadArtifact) as refused:
        seal_core(bundle.path, spec=bundle.spec, golden=Golden(items=items, logits=logits, tolerance=0.1))
    assert str(refused.value) == f"{bundle.path / 'golden.json'}: {fault}"


@pytest.mark.parametrize("row", [[], [0.0] * 4])
def test_golden_rows_of_a_tagger_hold_every_label_for_each_token(tmp_path: Path, row: list[float]) -> None:
    bundle = tiny_bundle(tmp_path, task="token-classification")
    seal_core(tmp_path, spec=bundle.spec, golden=Golden(items=[["good"]], logits=[[0.0] * 9], tolerance=0.1))
    with pytest.raises(BadArtifact) as refused:
        seal_core(tmp_path, spec=bundle.spec, golden=Golden(items=[["good"]], logits=[row], tolerance=0.1))
    told = "a row has not 3 logits for each of its tokens, as serving.yaml says"
    assert str(refused.value) == f"{tmp_path / 'golden.json'}: {told}"


def test_an_incomplete_core_cannot_be_sealed(bundle: Bundle) -> None:
    (bundle.path / "model.onnx").unlink()
    (bundle.path / "config.json").unlink()
    with pytest.raises(BadArtifact) as refused:
        reseal(bundle)
    told = "cannot seal a bundle without config.json, model.onnx; write them first"
    assert str(refused.value) == f"{bundle.path}: {told}"


def _write_spec(bundle: Bundle, **changes: object) -> None:
    """Seal a serving.yaml that no ServingSpec would be."""
    _seal_text(bundle, msgspec.yaml.encode(msgspec.structs.asdict(bundle.spec) | changes).decode())


def _seal_text(bundle: Bundle, text: str) -> None:
    import hashlib

    path = bundle.path / "serving.yaml"
    path.write_text(text)
    manifest = bundle.path / "manifest.sha256"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(re.sub(r"[0-9a-f]{64}(?=  serving.yaml)", digest, manifest.read_text()))
    read_bundle(bundle.path)
