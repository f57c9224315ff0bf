"""Stages called as the runner calls them, over a tiny teacher; what one makes is made once and read by the next."""

import importlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from models import BAD, GOOD, LABELS, encoder_folder, sentences
from pydantic import TypeAdapter

from pipeline.artifact import EVIDENCE, MANIFEST, Artifact, Manifest, sealed_files, tree_digest, write_json
from pipeline.data.corpus import CorpusSource
from pipeline.encoders.teachers import TeacherConfig
from pipeline.graph import Inputs, TaskSplits, Tools
from pipeline.progress import Silent
from pipeline.quantizing.dynamic import DynamicRecipe
from pipeline.stages.distill import DistillConfig
from pipeline.stages.export import ExportConfig
from pipeline.stages.finetune import FinetuneConfig
from pipeline.tasking.base import TUNING
from pipeline.tasks import Task


def tools_in(root: Path, *, key: str = "key") -> Tools:
    return Tools(key, root, root / "cache", root / "checkpoints" / key, Silent())


def run_stage(stage: str, config: Any, inputs: Inputs, out: Path, *, tools: Tools) -> dict[str, Any]:
    """What the runner does around a stage, less the sealing."""
    (out / EVIDENCE).mkdir(parents=True)
    facts: dict[str, Any] = importlib.import_module(f"pipeline.stages.{stage}").run(config, inputs, out, tools)
    return facts


def sealed(path: Path, *, label: str, facts: Mapping[str, Any] = {}, **changes: Any) -> Artifact:
    """The folder as an artifact, with what a test cares about in its manifest."""
    files = sealed_files(path)
    told: dict[str, Any] = {
        "stage": label.partition("-")[0],
        "label": label,
        "key": f"{label}-0",
        "digest": tree_digest(files),
        "inputs": {},
        "config": {},
        "code": "0" * 64,
        "versions": {},
        "git": {"commit": "abc", "dirty": False},
        "machine": {},
        "finished_at": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "facts": dict(facts),
        "files": files,
    }
    manifest = Manifest(**{**told, **changes})
    write_json(path / MANIFEST, manifest)
    return Artifact(path, manifest)


class Chain:
    """distill -> finetune -> export -> quantize on a task one word decides; a step runs when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.teacher = TeacherConfig(source=str(encoder_folder(root / "teacher", layers=3, initializer_range=0.2)))
        self._write_data()
        data = {"kind": "files", **{split: str(root / f"{split}.jsonl") for split in ("train", "dev", "test")}}
        task = TypeAdapter(Task).validate_python({"kind": "classification", "data": data})
        self.task = TaskSplits(task, TUNING)
        self.text = TypeAdapter(CorpusSource).validate_python({"kind": "files", "files": str(root / "text.txt")})

    def _write_data(self) -> None:
        """No test split: a stage that read it would fail."""
        neutral = [text for text in sentences(900, seed=3) if not {*text.split()} & {*GOOD, *BAD}]
        rows = [
            {"text": f"{text} {(BAD, GOOD)[i % 2][i % 4]}", "label": LABELS[i % 2]} for i, text in enumerate(neutral)
        ]
        for split, part in (("train", rows[:230]), ("dev", rows[230:270])):
            (self.root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        (self.root / "text.txt").write_text("\n".join(sentences(120, seed=4)))

    def run(self, stage: str, label: str, config: Any, inputs: Inputs, *, root: Path | None = None) -> Artifact:
        """One stage in a folder of its own, sealed."""
        root = root or self.root
        out = root / "artifacts" / label
        facts = run_stage(stage, config, inputs, out, tools=tools_in(root, key=label))
        return sealed(out, label=label, facts=facts)

    def distill(self, root: Path | None = None, **settings: Any) -> Artifact:
        student = {"layers": 2, "width": 32, "heads": 4}
        objective = {"kind": "relation", "relation_heads": 8}
        asked = {"student": student, "objective": objective, "tokens": 2000, "batch_tokens": 256, "max_length": 16}
        config = DistillConfig.model_validate({**asked, **settings})
        return self.run(
            "distill", "distill", config, Inputs({}, {"teacher": self.teacher, "text": self.text}), root=root
        )

    def finetune(self, inputs: Inputs, label: str, root: Path | None = None, **settings: Any) -> Artifact:
        told = {"epochs": 2, "batch_tokens": 128, "max_length": 20, "optimization": {"learning_rate": 1e-2}, **settings}
        return self.run("finetune", label, FinetuneConfig.model_validate(told), inputs, root=root)

    @cached_property
    def distilled(self) -> Artifact:
        return self.distill()

    @cached_property
    def tuned_teacher(self) -> Artifact:
        return self.finetune(Inputs({}, {"model": self.teacher, "task": self.task}), "finetune-teacher")

    @cached_property
    def finetuned(self) -> Artifact:
        return self.finetune(Inputs({"model": self.distilled}, {"task": self.task}), "finetune-student")

    @cached_property
    def exported(self) -> Artifact:
        inputs = Inputs({"model": self.finetuned}, {"task": self.task})
        return self.run("export", "export-student", ExportConfig(), inputs)

    @cached_property
    def quantized(self) -> Artifact:
        inputs = Inputs({"bundle": self.exported}, {"task": self.task})
        return self.run("quantize", "quantize-student", DynamicRecipe(), inputs)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def seal() -> Callable[..., Artifact]:
    return sealed
