"""What the register stage reads, in small: the sealed steps of one student, with tiny bundles and given figures; and
runs of it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes import manifest_of, tiny_bundle
from offers import MLMODEL

from pipeline.artifact import EVIDENCE, MANIFEST, Artifact, sealed_files, write_json
from pipeline.gates import Outcome as Answer
from pipeline.gates import Verdict
from pipeline.graph import Inputs, Tools
from pipeline.progress import Silent
from pipeline.registration import Outcome, register_chosen
from pipeline.stages.register import RegisterConfig
from serving.bundle import read_bundle
from serving.signatures import FILES, files_listing

TEACHER, SMALL, INT8 = "teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8"
CIRCUMSTANCES: dict[str, Any] = {"target": "here", "metric": "accuracy", "champion": None, "disturbed": {}}
FIGURES = {
    TEACHER: {"accuracy": 0.9, "p95_ms": 10.0},
    SMALL: {"accuracy": 0.88, "p95_ms": 4.0},
    INT8: {"accuracy": 0.87, "p95_ms": 2.0},
}
GATE = ("accuracy >= 0.95 * teacher", "p95_ms <= 0.5 * teacher")
LABELS = ("distill", "finetune-student", "export-student", "quantize-student", "benchmark")
GIT = {"commit": "abc", "dirty": True}


def seal(path: Path, *, label: str, facts: Mapping[str, Any] = {}) -> Artifact:
    """The folder as an artifact with these facts."""
    stage = label.partition("-")[0]
    told = {"stage": stage, "label": label, "config": {"of": label}, "git": GIT, "facts": dict(facts)}
    manifest = manifest_of(f"{label}-0", sealed_files(path), **told)
    write_json(path / MANIFEST, manifest)
    return Artifact(path, manifest)


def judged_steps(root: Path, *, bias: float = 0.0) -> dict[str, Artifact]:
    """Every step by its label; another `bias` makes other models."""
    folders = {label: root / label for label in LABELS}
    for folder in folders.values():
        (folder / EVIDENCE).mkdir(parents=True)
    for label, name, more in (("export-student", SMALL, 0.0), ("quantize-student", INT8, 0.5)):
        tiny_bundle(folders[label] / "bundle", name=name, bias=bias + more)
    (folders["export-student"] / EVIDENCE / "parity.json").write_text('{"texts": 256}')
    (folders["benchmark"] / "receipt.json").write_text('{"raw": [1, 2, 3]}')
    (folders["benchmark"] / "figures.json").write_text(json.dumps(FIGURES))
    facts = {"benchmark": {**CIRCUMSTANCES, "figures": FIGURES}}
    return {label: seal(folder, label=label, facts=facts.get(label, {})) for label, folder in folders.items()}


def measured(steps: Mapping[str, Artifact], **facts: Any) -> dict[str, Artifact]:
    """The same, whose benchmark found something else."""
    told = {**CIRCUMSTANCES, "figures": FIGURES, **facts}
    return {**steps, "benchmark": seal(steps["benchmark"].path, label="benchmark", facts=told)}


def only_tiny_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cards and bills of materials say is tested where they are written."""

    def build(out: Path, *, bundle: Path, manifests: Mapping[str, Path], facts: Any, key: Path | None) -> Path:
        folder = out / "version"
        shutil.copytree(bundle, folder / "bundle")
        (folder / "manifests").mkdir()
        for label, manifest in manifests.items():
            shutil.copyfile(manifest, folder / "manifests" / f"{label}.json")
        (folder / "MLmodel").write_text(MLMODEL)
        (folder / "README.md").write_text(f"# {facts}\n")
        (folder / FILES).write_text(files_listing(folder))
        return folder

    monkeypatch.setattr("pipeline.version_folder.build_version", build)
    monkeypatch.setattr("pipeline.version_facts.facts_of", lambda *_, name, **__: name)


class RegisterRun:
    """One run of the stage, as often as it is asked for: each time with an empty folder, as the runner does it."""

    chosen = "quantize-student"
    who = ""

    def __init__(self, root: Path, *, bias: float = 0.0, key: str = "register-1", **config: Any) -> None:
        self.root, self.key, self.out = root, key, root / "out" / key
        self.steps = judged_steps(root / "artifacts" / key, bias=bias)
        self.config = RegisterConfig.model_validate({"name": "tiny", "gate": GATE, **config})

    @property
    def digest(self) -> str:
        return read_bundle(self.steps[self.chosen].path / "bundle").digest

    def __call__(self, promotion: Answer | None = None, why: str = "", *, champion: str | None = None) -> Outcome:
        shutil.rmtree(self.out, ignore_errors=True)
        (self.out / EVIDENCE).mkdir(parents=True)
        verdict = Verdict("PASS", "int8 passes every rule: accuracy 0.87 is >= 0.855", INT8, (), promotion, why)
        write_json(self.out / "verdict.json", verdict)
        inputs = Inputs(measured(self.steps, champion=champion), {})
        tools = Tools(self.key, self.root, self.root / "cache", self.root / "checkpoints", Silent(), who=self.who)
        return register_chosen(self.config, inputs, verdict, label=self.chosen, out=self.out, tools=tools)
