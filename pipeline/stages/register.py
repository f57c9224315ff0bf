"""register: the gate first; of the variants that pass it, one becomes a version of the registered model and challenger;
where it passes against the champion, or there is none, the champion too."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_serializer, field_validator

from pipeline.build import git_state
from pipeline.challenge import CHALLENGER
from pipeline.errors import BadRequest
from pipeline.gates import parse_rules, questions_of
from pipeline.kept_ledger import MAX_NAME, is_ledger
from pipeline.moves import MAX_ALIAS
from pipeline.naming import BENCHMARK, CHAMPION
from pipeline.records import Record
from serving.redaction import redacted

if TYPE_CHECKING:
    from pipeline.artifact import Artifact
    from pipeline.gates import Verdict
    from pipeline.graph import Inputs, Tools


class RegisterConfig(Record):
    """Under which name and alias, by which rules, in which MLflow (its sqlite default lives in the workspace). With
    `sign_key`, a private key in PEM, versions are signed; `license` is the model's own, as SPDX calls it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$", max_length=MAX_NAME)
    alias: str = Field(default="champion", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=MAX_ALIAS)
    gate: tuple[str, ...] = Field(min_length=1)
    tracking_uri: str | None = None
    sign_key: Path | None = None
    license: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.+() -]*$")
    allow_dirty: bool = Field(
        default=False, description="register from a checkout with uncommitted changes; it is recorded"
    )

    @field_validator("name")
    @classmethod
    def _is_no_ledger(cls, name: str) -> str:
        if is_ledger(name):
            raise ValueError(f"{name!r} is the name of a ledger, where another model keeps its moves; choose another")
        return name

    @field_validator("tracking_uri")
    @classmethod
    def _keeps_no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and redacted(uri) != uri:
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
        if alias == CHALLENGER:
            raise ValueError(
                f"every version that passes its own rules is given the alias {CHALLENGER!r}; choose another name for "
                "what is in service, like champion"
            )
        return alias

    @field_validator("gate")
    @classmethod
    def _parses(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        try:
            parse_rules(rules)
        except BadRequest as error:
            raise ValueError(str(error)) from error
        return rules

    @field_serializer("sign_key", when_used="json")
    def _says_that_it_signs(self, key: Path | None) -> str | None:
        """Where a key lies is nobody's affair: a step's key and manifest know only that there is one."""
        return None if key is None else "signed"


def check(config: RegisterConfig) -> None:
    """Refuse what could not be registered in the end: from a checkout whose source nobody could name afterwards, unless
    told so; signed by a key that is not there."""
    git = git_state()
    if git["dirty"] and not config.allow_dirty:
        raise BadRequest(
            f"the checkout differs from its commit ({str(git['commit'])[:12]}), so a registered model could not be "
            "traced to its source; commit first, or set register.allow_dirty=true (it is recorded)"
        )
    if config.sign_key is not None:
        from pipeline.signing import check_key

        check_key(config.sign_key)


def run(config: RegisterConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Judge, keep the verdict, and register the chosen bundle when there is one."""
    import msgspec

    from pipeline import evidence, registration
    from pipeline.artifact import write_json

    candidates = _candidates(inputs.artifacts)
    verdict = _judge(config, inputs.artifacts, candidates, evidence.sessions_in(inputs.artifacts))
    write_json(out / "verdict.json", verdict)
    came = registration.Outcome(verdict, None, promoted=False, why="no variant passed its own rules")
    if verdict.chosen is not None:
        label = candidates[verdict.chosen]
        came = registration.register_chosen(config, inputs, verdict, label=label, out=out, tools=tools)
    return dict(msgspec.to_builtins(came))


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
    questions = questions_of(parse_rules(config.gate))
    return judge(
        questions.own,
        facts["figures"],
        tuple(candidates),
        against=questions.against,
        figures_by_target={target: each["figures"] for target, each in measured.items()},
        absent=(CHAMPION,) if facts["champion"] == NOBODY else (),
        reigning=[name for name, digest in digests.items() if digest == facts["champion"]],
        disturbed={target: why for each in measured.values() for target, why in each["disturbed"].items()},
    )
