"""Stand-ins that tests share: small real things rather than mocks.

`tiny_bundle` seals a real ONNX graph with a real tokenizer whose raw outputs have a closed form: every word of class c
adds `WEIGHT / L` to output c, where L counts the tokens including [CLS] and [SEP]; for token-classification the token
of such a word has `WEIGHT` at c and nothing elsewhere. The word "poison" makes them NaN.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipeline.artifact import Manifest, SealedFile, tree_digest
from serving.bundle import Aggregation, Bundle, Golden, Item, ServingSpec, TaskKind, read_bundle, seal_core
from serving.long_texts import LongTexts, Truncate
from serving.machine import machine_identity
from serving.tuning import Earned, Setting, Tuning

WEIGHT = 8.0
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("bad", "good", "awful", "fine", "dull", "bright")  # word i votes for class i modulo the number of classes
POISON = "poison"
VOCABULARY = (*SPECIAL, *WORDS, POISON)
# What a tiny bundle is labelled with; "good" and "dull" begin an entity, "awful" and "bright" go on with one.
LABELS: dict[TaskKind, tuple[str, ...]] = {
    "classification": ("negative", "positive"),
    "multi-label": ("negative", "positive"),
    "regression": (),
    "token-classification": ("O", "B-mood", "I-mood"),
    "embedding": (),
}
THRESHOLD = 0.6  # of each label, where none are given: a label that no word votes for has 0.5
DIMENSIONS = 3


class Clock:
    """A clock that only the test moves, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def tiny_bundle(
    path: Path,
    *,
    name: str = "tiny",
    task: TaskKind | None = None,
    labels: Sequence[str] | None = None,
    thresholds: Sequence[float] | None = None,
    refuse_below: float | None = None,
    texts_per_item: int = 1,
    max_length: int = 16,
    long_texts: LongTexts = Truncate(),  # noqa: B008 frozen
    aggregation: Aggregation = "first",
    max_items: int = 64,
    max_characters: int = 20_000,
    cpu_features: Sequence[str] = (),
    providers: Sequence[str] = ("CPUExecutionProvider",),
    bias: float = 0.0,
    golden_error: float = 0.0,
    work: int = 0,
) -> Bundle:
    """Seal a bundle in `path`: where no task is named, of regression if there are no labels, else of classification.

    `bias` is added to output 0 (another version of the model); `golden_error` falsifies the golden outputs; `work`
    multiplies two work x work matrices per answer (a slow model)."""
    path.mkdir(parents=True, exist_ok=True)
    kind: TaskKind = task or ("regression" if labels is not None and not labels else "classification")
    named = tuple(LABELS[kind] if labels is None else labels)
    if thresholds is None:
        thresholds = [THRESHOLD] * len(named) if kind == "multi-label" else []
    spec = ServingSpec(
        name=name,
        task=kind,
        labels=named,
        thresholds=tuple(thresholds),
        refuse_below=refuse_below,
        dimensions=DIMENSIONS if kind == "embedding" else None,
        texts_per_item=texts_per_item,
        max_length=max_length,
        long_texts=long_texts,
        aggregation=aggregation,
        pad_id=0,
        graph_inputs=("input_ids", "attention_mask", *(("token_type_ids",) if texts_per_item == 2 else ())),
        buckets=(max_length // 2, max_length),
        providers=tuple(providers),
        cpu_features=tuple(cpu_features),
        parameters=len(VOCABULARY) * (len(named) or 1),
        max_items=max_items,
        max_characters=max_characters,
    )
    (path / "config.json").write_text('{"model_type": "tiny"}')
    tiny_tokenizer(texts_per_item).save(str(path / "tokenizer.json"))
    onnx.save(tiny_graph(spec, bias=bias, work=work), path / "model.onnx")
    items = _golden_items(texts_per_item)
    logits = [[value + golden_error for value in expected_logits(item, spec=spec, bias=bias)] for item in items]
    seal_core(path, spec=spec, golden=Golden(items=[list(item) for item in items], logits=logits, tolerance=1e-4))
    return read_bundle(path)


def expected_logits(item: Item, *, spec: ServingSpec, bias: float = 0.0) -> list[float]:
    """The closed form, for items shorter than max_length; flat, row by row, where every token has outputs."""
    if spec.per_token:
        tokens = ["[CLS]", *item[0].split(), "[SEP]"]
        return [value for token in tokens for value in _sum_of_votes([token], spec=spec, bias=bias, length=1)]
    words = [word for text in item for word in text.split()]
    return _sum_of_votes(words, spec=spec, bias=bias, length=len(words) + 1 + len(item))


def _sum_of_votes(words: Sequence[str], *, spec: ServingSpec, bias: float, length: int) -> list[float]:
    logits = [0.0] * spec.outputs
    for word in words:
        if word in WORDS:
            logits[WORDS.index(word) % spec.outputs] += WEIGHT / length
    logits[0] += bias
    return logits


def tiny_tokenizer(texts_per_item: int = 1) -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def tiny_graph(spec: ServingSpec, *, bias: float = 0.0, work: int = 0) -> onnx.ModelProto:
    """Gather the votes, mask padding, average over the real tokens (or leave them as they are), add the bias."""
    votes = np.zeros((len(VOCABULARY), spec.outputs), np.float32)
    for index in range(len(WORDS)):
        votes[len(SPECIAL) + index, index % spec.outputs] = WEIGHT
    votes[VOCABULARY.index(POISON)] = np.nan
    constants: dict[str, np.ndarray] = {
        "votes": votes,
        "bias": np.array([bias] + [0.0] * (spec.outputs - 1), np.float32),
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["votes", "input_ids"], ["votes_NLC"]),
        helper.make_node("Cast", ["attention_mask"], ["mask_NL"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask_NL", "last"], ["mask_NL1"]),
        helper.make_node("Mul", ["votes_NLC", "mask_NL1"], ["kept_NLC"]),
        helper.make_node("ReduceSum", ["kept_NLC", "middle"], ["sum_NC"], keepdims=0),
        helper.make_node("ReduceSum", ["mask_NL1", "middle"], ["length_N1"], keepdims=0),
        helper.make_node("Div", ["sum_NC", "length_N1"], ["mean_NC"]),
        helper.make_node("Add", ["kept_NLC" if spec.per_token else "mean_NC", "bias"], ["plain"]),
    ]
    nodes += _work_nodes(constants, size=work) if work else [helper.make_node("Identity", ["plain"], ["logits"])]
    shape = ["batch", *(["length"] if spec.per_token else []), spec.outputs]
    return helper.make_model(
        helper.make_graph(
            [*nodes, *_segment_nodes(spec)],
            "tiny",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in spec.graph_inputs],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 20)],
    )


def _golden_items(texts_per_item: int) -> list[Item]:
    texts = ("good", "bad bad good", "an unknown word and a fine one")
    return [(text, "bright day")[:texts_per_item] for text in texts]


def _segment_nodes(spec: ServingSpec) -> list[onnx.NodeProto]:
    if "token_type_ids" not in spec.graph_inputs:
        return []
    return [helper.make_node("Identity", ["token_type_ids"], ["segments_NL"])]


def _work_nodes(constants: dict[str, np.ndarray], *, size: int) -> list[onnx.NodeProto]:
    """Burn size^3 multiplications that depend on the input and change nothing."""
    constants |= {"zeros": np.zeros((size, size), np.float32), "one": np.array([0], np.int64)}
    return [
        helper.make_node("ReduceSum", ["length_N1", "one"], ["length_1"], keepdims=0),
        helper.make_node("Add", ["zeros", "length_1"], ["full_SS"]),
        helper.make_node("MatMul", ["full_SS", "full_SS"], ["product_SS"]),
        helper.make_node("ReduceMin", ["product_SS"], ["smallest"], keepdims=0),
        helper.make_node("Sub", ["smallest", "smallest"], ["nothing"]),
        helper.make_node("Add", ["plain", "nothing"], ["logits"]),
    ]


def tuning_of(bundle: Bundle, setting: Setting, **changes: object) -> Tuning:
    """Earned by that setting alone, on this machine."""
    tuning = Tuning(
        bundle=bundle.digest,
        machine=machine_identity(),
        target="here",
        started="2026-11-21T10:00:00+00:00",
        bound_ms=20.0,
        percent=99,
        libraries={},
        setting=setting,
        earned=(Earned(setting, (812.0, 815.0), ()),),
    )
    return msgspec.structs.replace(tuning, **changes)


def manifest_of(key: str, files: dict[str, SealedFile], **changes: Any) -> Manifest:
    """A manifest over `files` as a stage leaves it; what a test cares about is given, the rest is plain."""
    plain: dict[str, Any] = {
        "stage": "distill",
        "label": key,
        "inputs": {},
        "config": {},
        "code": "c",
        "versions": {},
        "git": {},
        "machine": {},
        "finished_at": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "facts": {},
    }
    return Manifest(key=key, digest=tree_digest(files), files=files, **{**plain, **changes})
