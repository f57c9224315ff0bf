"""From a fine-tuned model folder to one ONNX file whose answers are proven equal to torch's; every post-condition is
an error.

The graph comes from the public `torch.onnx.export` (dynamo) over eager attention: of the exports measured it is the
one that quantizes to the fastest graph. Shapes: N texts, L tokens, C outputs.
"""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.answerable import encode
from pipeline.encoders.families import reads_token_types
from pipeline.errors import BadArtifact
from pipeline.graph_checks import check_graph, frozen_sizes
from pipeline.graph_edits import fold_constants, sweep
from pipeline.quiet import below_error_muted
from serving.bundle import Golden, GraphInput, Item, ServingSpec, TaskKind, seal_core
from serving.engine import Engine, Tokens
from serving.windows import joined, pieces, units

Floats = npt.NDArray[np.float32]
OPSET = 20
PARITY_ATOL = 1e-4
ORDINARY_LOGIT = 20.0
GOLDEN_ITEMS = 8
EXPORTER_NOISE = (r"`isinstance\(treespec, LeafSpec\)` is deprecated", "# The axis name: ")  # torch 2.13 about itself
ONE_OF_SEVERAL = ("classification", "token-classification")
EXAMPLE = (5, 19)
"""(N, L) the exporter is shown: numbers that no part of a model has, so that a shape that remembers them shows"""
UNSEEN_SHAPES = ((1, 3), (3, 17), (7, 40))
PADDINGS = (0, 11)
"""columns of padding behind the longest text of a batch; texts differ in length"""
BUCKETS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Parity:
    """How far the graph is from torch: over `texts` real texts, the largest difference of an output and how many labels
    differ (of a tagging: of all tokens)."""

    texts: int
    max_abs_difference: float
    labels_differ: int


def export_onnx(model: Any, path: Path, *, inputs: Sequence[str], output: str = "logits") -> None:
    """Write `model` as one ONNX file with symbolic batch and length; BadArtifact where torch cannot, where a dimension
    was specialised, or where an operator is none of ONNX's."""
    import torch
    from torch.onnx import OnnxExporterError

    example = _example(inputs)
    dynamic = {name: {0: "batch", 1: "length"} for name in inputs}
    with warnings.catch_warnings(), below_error_muted():
        for message in EXPORTER_NOISE:
            warnings.filterwarnings("ignore", message=message)
        try:
            torch.onnx.export(
                model,
                args=(),
                kwargs={name: torch.from_numpy(value) for name, value in example.items()},
                f=path,
                dynamo=True,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except OnnxExporterError as error:
            raise BadArtifact(
                f"{path}: torch cannot export this model: {_reason(error)}; the families that export are listed in "
                "pipeline/encoders/families.py, and their config must fit their weights"
            ) from error
        _finish(path)
    check_graph(path)


def _reason(error: Exception) -> str:
    """The first line of what lies at the bottom."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"


def _finish(path: Path) -> None:
    """Write it again without the stack traces the exporter notes at every node, and with weights that are used twice
    (DeBERTa-v2's) stored as they are multiplied."""
    import onnx

    model = onnx.load(path)
    fold_constants(model.graph)
    sweep(model)
    onnx.save(model, path)


def copy_files(source: Path, bundle: Path) -> None:
    """What describes the model and its tokenizer, in words that transformers 4 knows too."""
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(source / name, bundle / name)
    told = json.loads((source / "tokenizer_config.json").read_bytes())
    if told.get("tokenizer_class") == "TokenizersBackend":
        told["tokenizer_class"] = "PreTrainedTokenizerFast"  # the same class, by its older name
    (bundle / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n")


def graph_inputs(config: Any) -> tuple[GraphInput, ...]:
    """What the graph reads, in order: as in training, token types only where the encoder makes use of them."""
    types: tuple[GraphInput, ...] = ("token_type_ids",) if reads_token_types(config) else ()
    return ("input_ids", "attention_mask", *types)


def buckets_up_to(max_length: int) -> tuple[int, ...]:
    """Lengths the server warms up at."""
    return (*(bucket for bucket in BUCKETS if bucket < max_length), max_length)


def seal_bundle(folder: Path, *, model: Any, spec: ServingSpec, items: Sequence[Item]) -> str:
    """Write serving.yaml and the golden inputs (torch's own logits) and seal the core; return the bundle's digest."""
    encodings = encode(folder, items[:GOLDEN_ITEMS], spec=spec)
    golden = golden_of(items[:GOLDEN_ITEMS], torch_logits(model, encodings, spec), task=spec.task)
    return seal_core(folder, spec=spec, golden=golden)


def golden_of(items: Sequence[Item], logits: Sequence[Floats], *, task: TaskKind, slack: float = 1.0) -> Golden:
    """Items with their outputs, token outputs row behind row; `slack` multiplies what an answer may be off."""
    rows = [row.reshape(-1).tolist() for row in logits]
    tolerance = tolerance_for(logits, task=task) * slack
    return Golden(items=[list(item) for item in items], logits=rows, tolerance=tolerance)


def torch_logits(model: Any, encodings: Sequence[Tokens], spec: ServingSpec) -> list[Floats]:
    """Outputs from torch, (C,) or (L, C) each, every text (or window) alone and unpadded: the reference.
    Windows are put together as they are served."""
    import torch

    rows = []
    with torch.inference_mode():
        for tokens in pieces(encodings):
            fed = _feed([tokens], spec, length=len(tokens.ids))
            output = model(**{name: torch.from_numpy(value) for name, value in fed.items()}).logits
            rows.append(output[0].float().numpy())
    return joined(encodings, rows, spec=spec, unit=units(rows, task=spec.task))


def tolerance_for(logits: Sequence[Floats], *, task: TaskKind) -> float:
    """1e-4 for outputs of ordinary size; for larger ones (a regression on 0..1000) the same share of the largest; of
    vectors, whose numbers are small, 1e-4 of the largest."""
    largest = max(float(np.abs(row).max()) for row in logits)
    return PARITY_ATOL * (min(1.0, largest) if task == "embedding" else max(1.0, largest / ORDINARY_LOGIT))


def check_parity(engine: Engine, model: Any, items: Sequence[Item]) -> Parity:
    """Compare the shipped graph, through the shipped engine, with torch on real texts; BadArtifact when they differ."""
    spec = engine.bundle.spec
    encodings = encode(engine.bundle.path, items, spec=spec)
    wanted, found = torch_logits(model, encodings, spec), engine.logits(items)
    off_N = [float(np.abs(one - other).max()) for one, other in zip(wanted, found, strict=True)]
    pairs = zip(wanted, found, strict=True)
    labels = sum(_labels_differ(one, other) for one, other in pairs) if spec.task in ONE_OF_SEVERAL else 0
    parity = Parity(len(items), max(off_N), labels)
    allowed = tolerance_for(wanted, task=spec.task)
    if not max(off_N) <= allowed or parity.labels_differ:
        worst, labels = int(np.argmax(off_N)), sum(row[..., 0].size for row in wanted)
        raise BadArtifact(
            f"{engine.bundle.path}: the ONNX graph differs from torch by {max(off_N):.3g} (allowed: {allowed:g}), "
            f"{parity.labels_differ} of {labels} labels differ; worst text: {items[worst][0][:80]!r}"
        )
    return parity


def check_shapes(engine: Engine, model: Any, *, vocabulary: int) -> None:
    """Run shapes the export never saw, each under every padding; BadArtifact names the shape that fails or differs from
    torch, and the node that may remember the example's."""
    generator, most = np.random.default_rng(0), engine.bundle.spec.max_length
    for batch, unseen in UNSEEN_SHAPES:
        length = min(unseen, max(1, most - max(PADDINGS)))
        lengths = [length, *generator.integers(1, length + 1, batch - 1).tolist()]
        tokens = [Tokens(generator.integers(1, vocabulary, n).tolist(), [0] * n) for n in lengths]
        for padding in PADDINGS:
            _check_shape(engine, model, tokens, length=min(length + padding, most))


def _check_shape(engine: Engine, model: Any, tokens: Sequence[Tokens], *, length: int) -> None:
    import torch

    spec, lengths = engine.bundle.spec, [len(one.ids) for one in tokens]
    fed = {name: torch.from_numpy(value) for name, value in _feed(tokens, spec, length=length).items()}
    with torch.inference_mode():
        answered = model(**fed).logits.float().numpy()
    wanted, found = (_real(each, lengths) for each in (answered, engine.run(tokens, length=length)))
    difference = max(float(np.abs(one - other).max()) for one, other in zip(wanted, found, strict=True))
    allowed = tolerance_for(wanted, task=spec.task)
    if not difference <= allowed:
        node = frozen_sizes(engine.bundle.path / "model.onnx", sizes=EXAMPLE)
        raise BadArtifact(
            f"{engine.bundle.path}: at batch {len(tokens)}, length {length} with padding the graph differs from torch "
            f"by {difference:.3g} (allowed: {allowed:g}); a dimension was specialised in the export"
            + (f": look at the node {node}" if node else "; look for a shape read as a number in the model's code")
        )


def _real(outputs: Floats, lengths: Sequence[int]) -> list[Floats]:
    """Each item's own outputs: of (N, L, C) without those of padding, which mean nothing."""
    return [output[:length] if output.ndim == 2 else output for output, length in zip(outputs, lengths, strict=True)]


def _labels_differ(wanted: Floats, found: Floats) -> int:
    """Labels that differ though torch's own margin is more than rounding can bridge; outputs are (C,) or (L, C)."""
    top = np.sort(wanted, axis=-1)
    clear = top[..., -1] - top[..., -2] > 2 * PARITY_ATOL
    return int(((wanted.argmax(axis=-1) != found.argmax(axis=-1)) & clear).sum())


def _feed(tokens: Sequence[Tokens], spec: ServingSpec, *, length: int) -> dict[str, npt.NDArray[np.int64]]:
    fed: dict[str, npt.NDArray[np.int64]] = {
        name: np.zeros((len(tokens), length), np.int64) for name in spec.graph_inputs
    }
    fed["input_ids"][:] = spec.pad_id
    for row, one in enumerate(tokens):
        fed["input_ids"][row, : len(one.ids)] = one.ids
        fed["attention_mask"][row, : len(one.ids)] = 1
        if "token_type_ids" in fed:
            fed["token_type_ids"][row, : len(one.ids)] = one.type_ids
    return fed


def _example(inputs: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    fills = {"input_ids": 5, "attention_mask": 1, "token_type_ids": 0}
    values = {name: np.full(EXAMPLE, fills[name], np.int64) for name in inputs}
    values["attention_mask"][-1, EXAMPLE[1] // 2 :] = 0
    return values
