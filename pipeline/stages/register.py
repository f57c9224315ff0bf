"""register: the gate first; of the variants that pass it, the fastest is logged to MLflow, registered, and given the
alias."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from pipeline.build import git_state
from pipeline.errors import BadRequest
from pipeline.gates import parse_rules
from pipeline.naming import BENCHMARK, CHAMPION
from pipeline.records import Record

if TYPE_CHECKING:
    from pipeline.artifact import Artifact
    from pipeline.gates import Verdict
    from pipeline.graph import Inputs, Tools


class RegisterConfig(Record):
    """Under which name and alias, by which rules, in which MLflow (its sqlite default lives in the workspace)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
    alias: str = Field(default="champion", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    gate: tuple[str, ...] = Field(min_length=1)
    tracking_uri: str | None = None
    allow_dirty: bool = Field(
        default=False, description="register from a checkout with uncommitted changes; it is recorded"
    )

    @field_validator("tracking_uri")
    @classmethod
    def _keeps_no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and re.match(r"[a-z+]+://[^/@]*@", uri):
            raise ValueError(
                "a user or password in tracking_uri would be sealed into manifests; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in the environment (for a database, its driver's own variables)"
            )
        return uri

    @field_validator("alias")
    @classmethod
    def _is_free(cls, alias: str) -> str:
        if re.fullmatch(r"v\d+|latest", alias, re.IGNORECASE):
            raise ValueError(f"MLflow keeps {alias!r} for itself; choose another name, like champion")
        return alias

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

    from pipeline import evidence, tracking
    from pipeline.artifact import write_json
    from pipeline.champion import Champion
    from serving.bundle import read_bundle

    candidates = _candidates(inputs.artifacts)
    sessions = evidence.sessions_in(inputs.artifacts)
    verdict = _judge(config, inputs.artifacts, candidates, sessions)
    write_json(out / "verdict.json", verdict)
    facts: dict[str, Any] = {"verdict": msgspec.to_builtins(verdict), "registered": None}
    if verdict.chosen is None:
        return facts
    champion = inputs.artifacts[BENCHMARK].manifest.facts["champion"]
    if champion is not None:
        Champion(config.name, config.alias, config.tracking_uri).require_unmoved(champion, tools.cache)
    bundle = evidence.bundle_with_receipts(inputs.artifacts, candidates[verdict.chosen], out)
    with tools.reporter.bar("register", total=None, unit="version") as bar:
        registered = tracking.register(
            evidence.gather(inputs.artifacts, verdict, bundle),
            uri=config.tracking_uri or tracking.default_uri(tools.workspace),
            workspace=tools.workspace,
            experiment=config.name,
            name=config.name,
            alias=config.alias,
            key=tools.key,
        )
        bar.advance()
    told = asdict(registered) | {"model_uri": registered.model_uri, "digest": read_bundle(bundle).digest}
    return facts | {"registered": told}


def _candidates(artifacts: "Mapping[str, Artifact]") -> dict[str, str]:
    """The variants that may be registered (every student's), by the name in their bundle, and the step each comes
    from."""
    from serving.bundle import read_bundle

    students = [label.removeprefix("quantize-") for label in artifacts if label.startswith("quantize-")]
    labels = [f"{step}-{name}" for name in students for step in ("export", "quantize")]
    return {read_bundle(artifacts[label].path / "bundle").spec.name: label for label in labels}


def _judge(
    config: RegisterConfig,
    artifacts: "Mapping[str, Artifact]",
    candidates: "Mapping[str, str]",
    sessions: "Mapping[str, Artifact]",
) -> "Verdict":
    from pipeline.champion import NOBODY
    from pipeline.gates import judge
    from serving.bundle import read_bundle

    facts = artifacts[BENCHMARK].manifest.facts
    measured = {target: session.manifest.facts for target, session in sessions.items()}
    digests = {name: read_bundle(artifacts[label].path / "bundle").digest for name, label in candidates.items()}
    return judge(
        parse_rules(config.gate),
        facts["figures"],
        tuple(candidates),
        figures_by_target={target: each["figures"] for target, each in measured.items()},
        absent=(CHAMPION,) if facts["champion"] == NOBODY else (),
        reigning=[name for name, digest in digests.items() if digest == facts["champion"]],
        disturbed={target: why for each in measured.values() for target, why in each["disturbed"].items()},
    )
