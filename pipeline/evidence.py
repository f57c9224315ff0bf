"""What a registered version carries: the bundle with its receipts, the manifests of all steps, and tags that say how it
was earned."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from pipeline.artifact import EVIDENCE, MANIFEST, Artifact
from pipeline.errors import BadRequest
from pipeline.gates import Verdict
from pipeline.naming import BENCHMARK, TUNING
from pipeline.recorded import LINEAGE
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


def manifests_of(artifacts: Mapping[str, Artifact]) -> dict[str, Path]:
    """The manifest of every step that this version was made by, by the step's role."""
    return {label: artifact.path / MANIFEST for label, artifact in artifacts.items()}


def tags_of(artifacts: Mapping[str, Artifact], verdict: Verdict, bundle: Path) -> dict[str, str]:
    """What the registry says of the version that `bundle` becomes, beside what its files say."""
    manifests = {label: artifact.manifest for label, artifact in artifacts.items()}
    measured, git = manifests[BENCHMARK].facts, manifests[BENCHMARK].git
    metric = measured["metric"]
    return {
        DIGEST_TAG: read_bundle(bundle).digest,
        "retort.variant": str(verdict.chosen),
        "retort.verdict": verdict.verdict,
        "retort.promotion": verdict.promotion or "not asked",
        "retort.reason": verdict.reason,
        f"retort.{metric}": f"{measured['figures'][str(verdict.chosen)][metric]:.4f}",
        "retort.git_commit": str(git["commit"]),
        "retort.git_dirty": str(git["dirty"]).lower(),
        **{f"{LINEAGE}{label}": manifest.digest for label, manifest in manifests.items()},
    }
