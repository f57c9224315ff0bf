"""register: the gate first; of the variants that pass it, the fastest is logged to MLflow, registered, and given the
alias."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from pipeline.build import git_state
from pipeline.errors import BadRequest
from pipeline.gates import parse_rules
from pipeline.records import Record

if TYPE_CHECKING:
    from pipeline.artifact import Artifact
    from pipeline.gates import Verdict
    from pipeline.graph import Inputs, Tools
    from pipeline.tracking import Curve, Evidence

CANDIDATES = {"student-onnx-fp32": "export-student", "student-onnx-int8": "quantize-student"}


class RegisterConfig(Record):
    """Under which name and alias, by which rules, in which MLflow (its sqlite default lives in the workspace)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
    alias: str = Field(default="champion", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    gate: tuple[str, ...] = Field(min_length=1)
    tracking_uri: str | None = None
    allow_dirty: bool = Field(
        default=False, description="register from a checkout with uncommitted changes; it is recorded"
    )

    @field_validator("gate")
    @classmethod
    def _parses(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        try:
            parse_rules(rules)
        except BadRequest as error:
            raise ValueError(str(error)) from error
        return rules


def check(config: RegisterConfig) -> None:
    """Refuse to register from a checkout whose source nobody could name afterwards, unless told so."""
    git = git_state()
    if git["dirty"] and not config.allow_dirty:
        raise BadRequest(
            f"the checkout differs from its commit ({str(git['commit'])[:12]}), so a registered model could not be "
            "traced to its source; commit first, or set register.allow_dirty=true (it is recorded)"
        )


def run(config: RegisterConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Judge, keep the verdict, and register the chosen bundle when there is one."""
    import msgspec

    from pipeline import tracking
    from pipeline.artifact import write_json

    verdict = _judge(config, inputs.artifacts["benchmark"])
    write_json(out / "verdict.json", verdict)
    facts: dict[str, Any] = {"verdict": msgspec.to_builtins(verdict), "registered": None}
    if verdict.chosen is None:
        return facts
    bundle = _with_receipts(inputs, verdict, out)
    registered = tracking.register(
        _evidence(inputs, verdict, bundle),
        uri=config.tracking_uri or tracking.default_uri(tools.workspace),
        workspace=tools.workspace,
        experiment=config.name,
        name=config.name,
        alias=config.alias,
        key=tools.key,
    )
    return facts | {"registered": asdict(registered) | {"model_uri": registered.model_uri}}


def _judge(config: RegisterConfig, benchmark: "Artifact") -> "Verdict":
    from pipeline.gates import judge

    return judge(parse_rules(config.gate), benchmark.manifest.facts["figures"], tuple(CANDIDATES))


def _with_receipts(inputs: "Inputs", verdict: "Verdict", out: Path) -> Path:
    """The bundle's own bytes, with the receipts that name its digest beside the core."""
    bundle = out / "bundle"
    shutil.copytree(inputs.artifacts[CANDIDATES[str(verdict.chosen)]].path / "bundle", bundle)
    receipts = bundle / "receipts"
    receipts.mkdir()
    benchmark = inputs.artifacts["benchmark"].path
    shutil.copyfile(benchmark / "receipt.json", receipts / "latency@here.json")
    shutil.copyfile(benchmark / "figures.json", receipts / "quality@here.json")
    shutil.copyfile(inputs.artifacts["export-student"].path / "evidence" / "parity.json", receipts / "parity@here.json")
    shutil.copyfile(out / "verdict.json", receipts / "verdict@here.json")
    return bundle


def _evidence(inputs: "Inputs", verdict: "Verdict", bundle: Path) -> "Evidence":
    from pipeline.tracking import Evidence
    from serving.bundle import read_bundle
    from serving.registry import DIGEST_TAG

    manifests = {label: artifact.manifest for label, artifact in inputs.artifacts.items()}
    git = manifests["benchmark"].git
    measured = manifests["benchmark"].facts
    metric = measured["metric"]
    return Evidence(
        folders={
            "bundle": bundle,
            **{f"manifests/{label}": artifact.path / "evidence" for label, artifact in inputs.artifacts.items()},
        },
        params={label: manifest.config for label, manifest in manifests.items()},
        metrics={
            f"{variant}/{name}": value
            for variant, figures in measured["figures"].items()
            for name, value in figures.items()
        },
        curves=[curve for label, artifact in inputs.artifacts.items() for curve in _curves(label, artifact)],
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


def _curves(label: str, artifact: "Artifact") -> "list[Curve]":
    import msgspec

    from pipeline.tracking import Curve

    path = artifact.path / "evidence" / "curve.jsonl"
    if not path.is_file():
        return []
    return [Curve(name=label, rows=[msgspec.json.decode(line) for line in path.read_bytes().splitlines()])]
