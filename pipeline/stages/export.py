"""export: a fine-tuned model as a sealed bundle in fp32, proven equal to torch; leaves `bundle/`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.errors import BadArtifact
from pipeline.long_texts import LongTexts, Truncate, served
from pipeline.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.artifact import Artifact
    from pipeline.graph import Inputs, Tools
    from pipeline.tasking.base import TaskData
    from serving.bundle import ServingSpec


class ExportConfig(Record):
    """How many real texts the graph must agree with torch on (texts of the train and dev splits); and what becomes of
    those of more tokens than the model reads."""

    parity_texts: int = Field(default=256, ge=256)
    long_texts: LongTexts = Truncate()


def check(config: ExportConfig, data: "TaskData") -> None:
    """Refuse data too small to prove parity on, before anything is trained."""
    found = len(data.train.items) + len(data.dev.items)
    if found < config.parity_texts:
        raise BadArtifact(
            f"export proves parity on {config.parity_texts} real texts; train and dev hold only {found}: add texts"
        )


def check_tokens(ids: "Mapping[str, int]", *, rows: int) -> None:
    """Refuse a tokenizer that gives ids without an embedding: not every runtime says so, OpenVINO answers."""
    token = max(ids, key=ids.__getitem__)
    if ids[token] >= rows:
        raise BadArtifact(
            f"the tokenizer gives {token!r} the id {ids[token]}, and the model has embeddings for {rows} tokens; give "
            "it the tokenizer it was trained with"
        )


def run(config: ExportConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Export, seal, and check through the engine that will serve it."""
    from pipeline import answerable, exporting
    from pipeline.artifact import EVIDENCE, write_json
    from pipeline.encoders.heads import load_tuned
    from pipeline.encoders.teachers import load_tokenizer
    from pipeline.quantizing.graphs import operators
    from serving.bundle import read_bundle
    from serving.engine import Engine

    source, view = inputs.artifacts["model"], inputs.sources["task"]
    data = view.load(tools.cache, tools.progress)
    check(config, data)
    tokenizer, model = load_tokenizer(source.path), load_tuned(source.path, view.task, data.label_names)
    check_tokens(tokenizer.get_vocab(), rows=model.config.vocab_size)
    bundle = out / "bundle"
    bundle.mkdir()
    spec = _spec(config, source, view.task.texts_per_item, tokenizer, model)
    exporting.copy_files(source.path, bundle)
    items = answerable.answered(bundle, data.train.items, data.dev.items, spec=spec, most=config.parity_texts)
    with tools.reporter.bar("export", total=None, unit="graph"):
        head = view.task.head(data.label_names)
        exporting.export_onnx(model, bundle / "model.onnx", inputs=spec.graph_inputs, output=head.output)
    exporting.seal_bundle(bundle, model=model, spec=spec, items=items)
    engine = Engine(read_bundle(bundle))
    exporting.check_shapes(engine, model, vocabulary=len(tokenizer))
    parity = exporting.check_parity(engine, model, items)
    write_json(out / EVIDENCE / "parity.json", asdict(parity))
    return {
        "bundle_digest": engine.bundle.digest,
        "parameters": spec.parameters,
        "parity": asdict(parity),
        "operators": operators(bundle / "model.onnx"),
    }


def _spec(config: ExportConfig, source: "Artifact", texts_per_item: int, tokenizer: Any, model: Any) -> "ServingSpec":
    """What a server must know of the graph: what was fitted, and the shape of what it reads."""
    from pipeline.encoders.students import parameters_of
    from pipeline.exporting import buckets_up_to, graph_inputs
    from pipeline.tasking.fitted import read_fitted
    from serving.bundle import ServingSpec

    fitted = read_fitted(source.path)
    return ServingSpec(
        name=source.manifest.label.removeprefix("finetune-") + "-onnx-fp32",
        task=fitted.kind,
        labels=fitted.labels,
        thresholds=fitted.thresholds,
        refuse_below=fitted.refuse_below,
        dimensions=fitted.dimensions,
        aggregation=fitted.aggregation,
        texts_per_item=texts_per_item,
        max_length=tokenizer.model_max_length,
        long_texts=served(config.long_texts),
        pad_id=tokenizer.pad_token_id,
        graph_inputs=graph_inputs(model.config),
        buckets=buckets_up_to(tokenizer.model_max_length),
        parameters=parameters_of(model),
    )
