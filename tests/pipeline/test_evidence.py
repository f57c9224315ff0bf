"""What a version carries beside the core that was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from judged import CIRCUMSTANCES, FIGURES, INT8, LABELS, SMALL, judged_steps, seal

from pipeline import evidence
from pipeline.artifact import EVIDENCE, MANIFEST, Artifact, write_json
from pipeline.gates import Verdict
from serving.bundle import read_bundle

VERDICT = Verdict("PASS", "int8 passes every rule", INT8, (), "FAIL", "p95_ms 2 is not <= 1")


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Artifact]:
    return judged_steps(tmp_path / "artifacts")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_json(tmp_path / "verdict.json", VERDICT)
    return tmp_path


def with_edge(artifacts: dict[str, Artifact]) -> dict[str, Artifact]:
    """And a session at `edge`, and one at `gpu` that was skipped."""
    found, root = dict(artifacts), artifacts["benchmark"].path.parent
    told: dict[str, Any] = {"edge": {**CIRCUMSTANCES, "target": "edge", "figures": FIGURES}}
    told["gpu"] = {"target": "gpu", "skipped": "it needs an NVIDIA GPU", "disturbed": {}}
    for target, facts in told.items():
        path = root / f"benchmark-{target}"
        path.mkdir()
        if target == "edge":
            (path / "receipt.json").write_text('{"of": "edge"}')
            (path / "figures.json").write_text(json.dumps(FIGURES))
        found[f"benchmark-{target}"] = seal(path, label=f"benchmark-{target}", facts=facts)
    return found


def test_the_core_ships_as_it_was_measured_with_its_receipts_beside_it(
    artifacts: dict[str, Artifact], out: Path
) -> None:
    shipped = evidence.bundle_with_receipts(artifacts, "quantize-student", out)

    measured = artifacts["quantize-student"].path / "bundle"
    core = {file.name: file.read_bytes() for file in measured.iterdir()}
    assert {file.name: file.read_bytes() for file in shipped.iterdir() if file.is_file()} == core
    assert read_bundle(shipped).digest == read_bundle(measured).digest
    receipts = {file.name: json.loads(file.read_text()) for file in (shipped / "receipts").iterdir()}
    assert receipts.keys() == {"latency@here.json", "quality@here.json", "parity@here.json", "verdict@here.json"}
    assert receipts["latency@here.json"] == {"raw": [1, 2, 3]}
    assert receipts["quality@here.json"] == FIGURES
    assert receipts["parity@here.json"] == {"texts": 256}
    assert (receipts["verdict@here.json"]["verdict"], receipts["verdict@here.json"]["promotion"]) == ("PASS", "FAIL")


def test_of_several_students_each_ships_with_its_own_parity(artifacts: dict[str, Artifact], out: Path) -> None:
    for name in ("small", "wide-one"):
        folder = out / f"export-{name}"
        (folder / EVIDENCE).mkdir(parents=True)
        (folder / EVIDENCE / "parity.json").write_text(json.dumps({"of": name}))
        artifacts[f"export-{name}"] = seal(folder, label=f"export-{name}")
    shipped = evidence.bundle_with_receipts(
        artifacts | {"quantize-wide-one": artifacts["quantize-student"]}, "quantize-wide-one", out
    )
    assert json.loads((shipped / "receipts" / "parity@here.json").read_text()) == {"of": "wide-one"}


def test_a_version_carries_the_receipts_of_all_targets_that_were_measured(
    artifacts: dict[str, Artifact], out: Path
) -> None:
    shipped = evidence.bundle_with_receipts(with_edge(artifacts), "quantize-student", out)
    found = {file.name for file in (shipped / "receipts").iterdir() if file.name.startswith(("lat", "qual"))}
    assert found == {f"{of}@{target}.json" for of in ("latency", "quality") for target in ("here", "edge")}
    assert json.loads((shipped / "receipts" / "latency@edge.json").read_text()) == {"of": "edge"}


def test_the_chosen_variant_s_tuning_lies_beside_its_core_and_is_no_part_of_it(
    artifacts: dict[str, Artifact], out: Path
) -> None:
    for variant in (SMALL, INT8):
        folder = artifacts["benchmark"].path / "tuning" / variant
        folder.mkdir(parents=True)
        (folder / "tuning@here.json").write_text(json.dumps({"of": variant}))
    shipped = evidence.bundle_with_receipts(artifacts, "quantize-student", out)
    assert json.loads((shipped / "tuning@here.json").read_text()) == {"of": INT8}
    assert read_bundle(shipped).digest == read_bundle(artifacts["quantize-student"].path / "bundle").digest


def test_the_manifests_of_every_step_go_along_as_they_were_sealed(artifacts: dict[str, Artifact]) -> None:
    found = evidence.manifests_of(artifacts)
    assert found == {label: artifacts[label].path / MANIFEST for label in LABELS}


def test_tags_carry_digests_both_answers_the_metric_and_lineage(artifacts: dict[str, Artifact], out: Path) -> None:
    shipped = evidence.bundle_with_receipts(artifacts, "quantize-student", out)
    assert evidence.tags_of(artifacts, VERDICT, shipped) == {
        "retort.digest": read_bundle(shipped).digest,
        "retort.variant": INT8,
        "retort.verdict": "PASS",
        "retort.promotion": "FAIL",
        "retort.reason": "int8 passes every rule",
        "retort.accuracy": "0.8700",
        "retort.git_commit": "abc",
        "retort.git_dirty": "true",
        **{f"retort.lineage.{label}": artifact.digest for label, artifact in artifacts.items()},
    }


def test_a_gate_that_asks_nothing_of_the_champion_is_told_apart_from_one_that_is_not_passed(
    artifacts: dict[str, Artifact], out: Path
) -> None:
    shipped = evidence.bundle_with_receipts(artifacts, "quantize-student", out)
    unasked = Verdict("PASS", "int8 passes every rule", INT8, ())
    assert evidence.tags_of(artifacts, unasked, shipped)["retort.promotion"] == "not asked"
