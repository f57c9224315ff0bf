"""What a registered version carries: the bundle with its receipts, and all a run can say of how it was earned."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pipeline.artifact import EVIDENCE, MANIFEST, Artifact
from pipeline.gates import Verdict
from pipeline.tracking import Curve, Evidence
from serving.bundle import read_bundle
from serving.registry import DIGEST_TAG


def bundle_with_receipts(artifacts: Mapping[str, Artifact], chosen: str, out: Path) -> Path:
    """The bundle's own bytes, with the receipts that name its digest beside the core."""
    bundle = out / "bundle"
    shutil.copytree(artifacts[chosen].path / "bundle", bundle)
    receipts = bundle / "receipts"
    receipts.mkdir()
    benchmark = artifacts["benchmark"].path
    shutil.copyfile(benchmark / "receipt.json", receipts / "latency@here.json")
    shutil.copyfile(benchmark / "figures.json", receipts / "quality@here.json")
    shutil.copyfile(
        artifacts[f"export-{chosen.partition('-')[2]}"].path / EVIDENCE / "parity.json", receipts / "parity@here.json"
    )
    shutil.copyfile(out / "verdict.json", receipts / "verdict@here.json")
    return bundle


def gather(artifacts: Mapping[str, Artifact], verdict: Verdict, bundle: Path) -> Evidence:
    """Files, parameters, metrics, curves and tags of a run, for the version that `bundle` becomes."""
    manifests = {label: artifact.manifest for label, artifact in artifacts.items()}
    manifests_folder = bundle.parent / "manifests"
    manifests_folder.mkdir()
    for label, artifact in artifacts.items():
        shutil.copyfile(artifact.path / MANIFEST, manifests_folder / f"{label}.json")
    git = manifests["benchmark"].git
    measured = manifests["benchmark"].facts
    metric = measured["metric"]
    return Evidence(
        folders={
            "bundle": bundle,
            "manifests": manifests_folder,
            **{
                f"evidence/{label}": artifact.path / EVIDENCE
                for label, artifact in artifacts.items()
                if (artifact.path / EVIDENCE).is_dir()  # an object store brings no empty folder back
            },
        },
        params={label: manifest.config for label, manifest in manifests.items()},
        metrics={
            f"{variant}/{name}": value
            for variant, figures in measured["figures"].items()
            for name, value in figures.items()
        },
        curves=[curve for label, artifact in artifacts.items() for curve in _curves(label, artifact)],
        tags={
            DIGEST_TAG: read_bundle(bundle).digest,
            "retort.variant": str(verdict.chosen),
            "retort.verdict": verdict.verdict,
            "retort.reason": verdict.reason,
            f"retort.{metric}": f"{measured['figures'][str(verdict.chosen)][metric]:.4f}",
            "retort.git_commit": str(git["commit"]),
            "retort.git_dirty": str(git["dirty"]).lower(),
            **{f"retort.lineage.{label}": manifest.digest for label, manifest in manifests.items()},
        },
    )


def _curves(label: str, artifact: Artifact) -> list[Curve]:
    path = artifact.path / EVIDENCE / "curve.jsonl"
    if not path.is_file():
        return []
    return [Curve(name=label, rows=[msgspec.json.decode(line) for line in path.read_bytes().splitlines()])]
