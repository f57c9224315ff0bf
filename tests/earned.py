"""A chain of steps that nobody ran, whole enough to make a version of: tiny bundles, real manifests and receipts, and
real sources with licences beside them."""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from fakes import LABELS, manifest_of, tiny_bundle
from pydantic import TypeAdapter
from receipts import INT8, SMALL, TEACHER, figures_of, measured, receipt

from benchmarks.receipt import Receipt, write_receipt
from pipeline.artifact import EVIDENCE, MANIFEST, Artifact, sealed_files, write_json
from pipeline.data.corpus import CorpusSource
from pipeline.encoders.teachers import TeacherConfig
from pipeline.evidence import bundle_with_receipts, manifests_of
from pipeline.gates import Verdict
from pipeline.origins import Origin
from pipeline.tasking.base import ALL, TUNING
from pipeline.tasks import Task
from pipeline.version_facts import facts_of
from pipeline.version_folder import build_version
from pipeline.version_records import VersionFacts
from serving.bundle import TaskKind, read_bundle

VERSIONS = {"torch": "2.13.0", "onnxruntime": "1.31.1", "nncf": "absent"}
QUALITY = {"drop": (0.002, -0.001, 0.005), "flips": (0.01, 0.004, 0.017), "agreement": (0.96, 0.95, 0.97)}
VERDICT = Verdict("PASS", "student-onnx-int8 passes every rule: p95_ms 2.5 is <= 5", INT8, ())
SPLITS = {"train": 900, "dev": 100}


def earned_steps(
    root: Path, *, task: TaskKind = "classification", targets: tuple[str, ...] = ("here",), **options: Any
) -> dict[str, Artifact]:
    """What the register stage reads, by label; `options` are `tiny_bundle`'s. The first target is `benchmark`."""
    digests = {}
    folders = {
        label: root / label
        for label in (
            *("distill", "finetune-teacher", "finetune-student"),
            *("export-teacher", "export-student", "quantize-student"),
        )
    }
    sessions = {target: "benchmark" if target == targets[0] else f"benchmark-{target}" for target in targets}
    for path in (*folders.values(), *(root / label for label in sessions.values())):
        (path / EVIDENCE).mkdir(parents=True)
    for label, name in (("export-teacher", TEACHER), ("export-student", SMALL), ("quantize-student", INT8)):
        bias = len(digests) / 4
        bundle = tiny_bundle(folders[label] / "bundle", name=name, task=task, bias=bias, **options)
        digests[name] = bundle.digest
    told = {"texts": 256, "max_abs_difference": 1.5e-7, "labels_differ": 0}
    (folders["export-student"] / EVIDENCE / "parity.json").write_text(json.dumps(told))
    found = {label: _sealed(path, label=label) for label, path in folders.items()}
    for target, label in sessions.items():
        found[label] = _measured(root / label, digests, target=target, label=label)
    return found


def earned_version(
    root: Path, *, key: Path | None = None, sources: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Path, VersionFacts]:
    """A version's folder as the register stage makes it, and what it was made from; `options` are `earned_steps`'."""
    steps = having_read(sources or {}, earned_steps(root / "steps", **options), root / "cache")
    facts = facts_in(root, steps, sources=sources)
    folder = build_version(root, bundle=root / "bundle", manifests=manifests_of(steps), facts=facts, key=key)
    return folder, facts


def facts_in(root: Path, steps: Mapping[str, Artifact], **told: Any) -> VersionFacts:
    """The facts of the quantized student, whose bundle is put in `root`/bundle; the steps read the sources that are
    given, as they are now."""
    steps = having_read(told.get("sources") or {}, steps, root / "cache")
    write_json(root / "verdict.json", VERDICT)
    shutil.rmtree(root / "bundle", ignore_errors=True)
    bundle = bundle_with_receipts(steps, "quantize-student", root)
    digest = read_bundle(bundle).digest
    return facts_of(steps, VERDICT, bundle, name="tiny", digest=digest, cache=root / "cache", **told)


def having_read(sources: Mapping[str, Any], steps: Mapping[str, Artifact], cache: Path) -> dict[str, Artifact]:
    """The steps, whose manifests say that they read these sources."""

    def inputs(label: str) -> dict[str, str]:
        found = dict(steps[label].manifest.inputs)
        for role in {"teacher", "text"} & sources.keys() if label == "distill" else ():
            found[role] = sources[role].identity(cache)
        if label == "finetune-teacher" and "teacher" in sources:
            found["model"] = sources["teacher"].identity(cache)
        if not label.startswith(("distill", "quantize")) and "task" in sources:
            splits = ALL if label.startswith("benchmark") else TUNING
            found["task"] = sources["task"].identity(cache, splits)
        return found

    return {
        label: Artifact(step.path, msgspec.structs.replace(step.manifest, inputs=inputs(label)))
        for label, step in steps.items()
    }


def sources_in(root: Path, *, task: TaskKind = "classification", **data: Any) -> dict[str, Any]:
    """A teacher's folder, text and labelled data with what is said of their licences; `data` changes where it is."""
    folder = root / "sources" / "a-teacher"
    folder.mkdir(parents=True)
    for name, content in (("config.json", '{"model_type": "bert"}'), ("model.safetensors", ""), ("tokenizer.json", "")):
        (folder / name).write_text(content)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en, de]\n---\n# A teacher\n")
    place = root / "sources" / "moods"
    place.mkdir()
    for split in ("train", "dev", "test"):
        (place / f"{split}.jsonl").write_text('{"text": "good", "label": "positive"}\n')
    (place / "SOURCE.md").write_text("# Moods\n- Rows: 3\n- Licence/terms: CC BY 4.0 (see its page)\n")
    (root / "sources" / "words.txt").write_text("good words\n")
    where = {"kind": "files", **{split: str(place / f"{split}.jsonl") for split in ("train", "dev", "test")}, **data}
    return {
        "teacher": TeacherConfig(source=str(folder)),
        "text": TypeAdapter(CorpusSource).validate_python(
            {"kind": "files", "files": str(root / "sources" / "words.txt")}
        ),
        "task": TypeAdapter(Task).validate_python({"kind": task, "data": where}),
    }


def origin(facts: VersionFacts, role: str) -> Origin:
    """The source of that role."""
    return next(each for each in facts.origins if each.role == role)


def _measured(path: Path, digests: Mapping[str, str], *, target: str, label: str) -> Artifact:
    """A session at `target`: the receipt of nobody's machine, and what is said of the answers' quality."""
    session, plain = _session(tuple(digests.items()), target)
    figures = {variant: dict(found) for variant, found in plain.items()}
    for name, (value, low, high) in QUALITY.items():
        figures[INT8] |= {name: value, f"{name}_low": low, f"{name}_high": high}
    figures[INT8] |= {"batch_difference": 0.25, "batch_flips": 0.005}
    write_receipt(session, path)
    write_json(path / "figures.json", figures)
    facts = {"target": target, "metric": "accuracy", "champion": None, "disturbed": {}, "figures": figures}
    facts |= {"also": {name: {} for name in figures}, "test_texts": 1821, "test_texts_also_in_train": 7}
    return _sealed(path, label=label, facts=facts)


@cache
def _session(digests: tuple[tuple[str, str], ...], target: str) -> tuple[Receipt, dict[str, dict[str, float]]]:
    """A receipt and its figures; their intervals take a while."""
    variants = [measured(name, digest=digest, seed=seed) for seed, (name, digest) in enumerate(digests)]
    session = receipt(variants, target=target)
    return session, figures_of(session)


def _sealed(path: Path, *, label: str, facts: Mapping[str, Any] | None = None) -> Artifact:
    stage, _, of = label.partition("-")
    survey = {"splits": {split: {"cut_share": 0.25 if split == "train" else 0.0} for split in SPLITS}}
    own: dict[str, Any] = {
        "distill": {"teacher_parameters": 22_713_216, "tokens": 6029.0},
        "finetune": {"train_texts": SPLITS["train"], "dev_texts": SPLITS["dev"], "data": survey},
    }
    roles = {"distill": ("teacher", "text"), "finetune": ("model", "task")}.get(stage, ("model",))
    manifest = manifest_of(
        f"{label}-0123456789abcdef",
        sealed_files(path),
        stage=stage,
        label=label,
        inputs={role: f"{role[0]}" * 64 for role in roles},
        config={"distill_from": None} if stage == "finetune" else {},
        versions=VERSIONS,
        git={"commit": "c0ffee" * 6, "dirty": of == "student"},
        facts=dict(own.get(stage, {}) if facts is None else facts),
        seconds=12.5,
    )
    write_json(path / MANIFEST, manifest)
    return Artifact(path, manifest)


def as_json(facts: VersionFacts) -> str:
    """All that is known of a version, as text to search in."""
    return msgspec.json.encode(facts).decode()


__all__ = ["LABELS", "as_json", "earned_steps", "earned_version", "facts_in", "having_read", "origin", "sources_in"]
