"""A bundle of a given size that answers, without a training run: a bag of words over a random table of float32.

Its bytes do not compress, as those of real weights do not. Shapes: N items, L tokens, D hidden, C classes, V words.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from benchmarks.machine import read
from serving.bundle import Bundle, Golden, ServingSpec, read_bundle, seal_core

if TYPE_CHECKING:
    import onnx
    from tokenizers import Tokenizer

HIDDEN: Final = 384
UNKNOWN: Final = "not stated"
SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MAX_LENGTH: Final = 32
LABELS: Final = ("one", "other")
ITEMS: Final = ("w1 w2 w3", "w2", "an unknown word and w1")


def made_bundle(path: Path, *, size_bytes: int, seed: int = 0) -> Bundle:
    """Seal a bundle in `path` whose graph has that many bytes of weights, of another seed with others."""
    words = max(len(SPECIAL) + 4, size_bytes // (4 * HIDDEN))
    path.mkdir(parents=True)
    spec = ServingSpec(
        name=f"made-{size_bytes}",
        task="classification",
        labels=LABELS,
        texts_per_item=1,
        max_length=MAX_LENGTH,
        pad_id=0,
        graph_inputs=("input_ids", "attention_mask"),
        buckets=(MAX_LENGTH,),
        parameters=words * HIDDEN,
    )
    tokenizer = _tokenizer(words)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text('{"model_type": "bag-of-words"}\n')
    (path / "model.onnx").write_bytes(_graph(words, seed=seed).SerializeToString())
    logits = [_answer(path / "model.onnx", tokenizer.encode(text).ids) for text in ITEMS]
    seal_core(path, spec=spec, golden=Golden(items=[[text] for text in ITEMS], logits=logits, tolerance=1e-4))
    return read_bundle(path)


def facts_without_a_run(bundle: Bundle, name: str) -> dict[str, Any]:
    """As few facts as a version can have (pipeline.version_records): a bundle that no run made has none to tell."""
    machine, now = msgspec.to_builtins(read()), datetime.now(UTC).isoformat(timespec="seconds")
    of_machine = {
        field: machine[field] for field in ("cpu_model", "cores", "quota_cores", "memory_mb", "libraries", "python")
    }
    session = {"target": "here", "started": now, "threads": 1, "noise": UNKNOWN, "receipt": bundle.digest}
    session |= {"providers": bundle.spec.providers, "times": [], "figures": {}, "teacher": {}}
    step = {"label": "register", "stage": "register", "key": "register-0", "digest": bundle.digest, "commit": 40 * "0"}
    licence = {"name": UNKNOWN}
    return {
        "name": name,
        "alias": "champion",
        "variant": bundle.spec.name,
        "digest": bundle.digest,
        "spec": msgspec.to_builtins(bundle.spec),
        "size_bytes": (bundle.path / "model.onnx").stat().st_size,
        "model_sha256": bundle.digest,
        "verdict": {"verdict": "PASS", "reason": UNKNOWN, "chosen": bundle.spec.name, "candidates": []},
        "code": licence,
        "licence": licence,
        "origins": [{"role": role, "kind": "made", "name": UNKNOWN} for role in ("teacher", "text", "data")],
        "teacher_parameters": 0,
        "distilled_tokens": 0,
        "sizes": {"test": 0},
        "also_in_train": None,
        "cut": {},
        "metrics": [],
        "parity": {"texts": 0, "max_abs_difference": 0.0, "labels_differ": 0},
        "sessions": [{**of_machine, **session}],
        "steps": [{**step, "dirty": False, "finished_at": now, "seconds": 0.0, "versions": {}}],
    }


def _tokenizer(words: int) -> "Tokenizer":
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: at for at, word in enumerate((*SPECIAL, *(f"w{i}" for i in range(words - len(SPECIAL)))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def _graph(words: int, *, seed: int) -> "onnx.ModelProto":
    """The mean of the real tokens' rows, and a layer over it."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    constants: dict[str, Any] = {
        "table_VD": random.standard_normal((words, HIDDEN), np.float32),
        "weights_DC": random.standard_normal((HIDDEN, len(LABELS)), np.float32),
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table_VD", "input_ids"], ["rows_NLD"]),
        helper.make_node("Cast", ["attention_mask"], ["mask_NL"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask_NL", "last"], ["mask_NL1"]),
        helper.make_node("Mul", ["rows_NLD", "mask_NL1"], ["kept_NLD"]),
        helper.make_node("ReduceSum", ["kept_NLD", "middle"], ["sum_ND"], keepdims=0),
        helper.make_node("ReduceSum", ["mask_NL1", "middle"], ["length_N1"], keepdims=0),
        helper.make_node("Div", ["sum_ND", "length_N1"], ["mean_ND"]),
        helper.make_node("MatMul", ["mean_ND", "weights_DC"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])]
    kept = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "bag-of-words", inputs, outputs, kept)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def _answer(model: Path, ids: list[int]) -> list[float]:
    """What the graph itself gives for one item."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    ids_NL = np.array([ids], np.int64)
    (logits_NC,) = session.run(None, {"input_ids": ids_NL, "attention_mask": np.ones_like(ids_NL)})
    return [float(value) for value in logits_NC[0]]


def size_of(folder: Path) -> int:
    """Of all files below it, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
