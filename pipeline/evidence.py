"""What a registered version carries: the bundle with its receipts, and all a run can say of how it was earned."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pipeline.artifact import EVIDENCE, MANIFEST, Artifact
from pipeline.errors import BadRequest
from pipeline.gates import Verdict
from pipeline.naming import BENCHMARK, TUNING
from pipeline.tracking import Curve, Evidence
from serving.bundle import read_bundle
from serving.registry import DIGEST_TAG
from serving.tuning import tuning_file


def sessions_in(artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """What was measured, by target, first that which rules without `at` speak of; those that were skipped are left out.

    Raises:
        BadRequest: the first one was skipped.
    """
    first = artifacts[BENCHMARK]
    if why := first.manifest.facts.get("skipped"):
        raise BadRequest(
            f"nothing was measured at {first.manifest.facts['target']!r}, the target that rules without `at` speak of: "
            f"{why}; run the benchmark on such a machine, or make another target the first one (benchmark.first)"
        )
    others = [each for role, each in artifacts.items() if each.manifest.stage == BENCHMARK and role != BENCHMARK]
    measured = [first, *(each for each in others if not each.manifest.facts.get("skipped"))]
    return {each.manifest.facts["target"]: each for each in measured}


def bundle_with_receipts(artifacts: Mapping[str, Artifact], chosen: str, out: Path) -> Path:
    """The bundle's own bytes, with the receipts that name its digest beside the core."""
    bundle = out / "bundle"
    shutil.copytree(artifacts[chosen].path / "bundle", bundle)
    receipts = bundle / "receipts"
    receipts.mkdir()
    for target, session in sessions_in(artifacts).items():
        shutil.copyfile(session.path / "receipt.json", receipts / f"latency@{target}.json")
        shutil.copyfile(session.path / "figures.json", receipts / f"quality@{target}.json")
        tuning = session.path / TUNING / read_bundle(bundle).spec.name / tuning_file(target)
        if tuning.is_file():  # beside the core, where the server looks
            shutil.copyfile(tuning, bundle / tuning.name)
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
    git = manifests[BENCHMARK].git
    measured = manifests[BENCHMARK].facts
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
        metrics=_metrics(artifacts),
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


def _metrics(artifacts: Mapping[str, Artifact]) -> dict[str, float]:
    """VARIANT/FIGURE of the first target, TARGET/VARIANT/FIGURE of the others. Ratios are left out: they follow from
    the others, and the slash in their names would make a group of each in MLflow's pages."""
    return {
        f"{f'{target}/' if at else ''}{variant}/{name}": value
        for at, (target, session) in enumerate(sessions_in(artifacts).items())
        for variant, figures in session.manifest.facts["figures"].items()
        for name, value in figures.items()
        if "/" not in name
    }


def _curves(label: str, artifact: Artifact) -> list[Curve]:
    path = artifact.path / EVIDENCE / "curve.jsonl"
    if not path.is_file():
        return []
    return [Curve(name=label, rows=[msgspec.json.decode(line) for line in path.read_bytes().splitlines()])]
