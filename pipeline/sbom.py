"""The bill of materials of a version: CycloneDX 1.6 as JSON, the same bytes for the same facts.

    metadata.component   the model with its files' hashes, and what the card says of it
    components           its teacher, its text and data, and the packages that the server is locked to
    formulation          the packages that the pipeline is locked to, and the steps with what they were made with

The document is written here, since the library that checks it knows neither model cards nor formulation.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any, Final

from pipeline.licences import NOT_STATED, Licence, package_licence
from pipeline.locks import PIPELINE, SERVING, Locked, read_lock
from pipeline.origins import NOT_RECORDED, Origin
from pipeline.version_records import Figure, Session, VersionFacts

SBOM: Final = "sbom.cdx.json"
MODEL: Final = "model"
_SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_SPACE: Final = uuid.uuid5(uuid.NAMESPACE_OID, "retort.sbom")
_Json = dict[str, Any]


def bill_of_materials(facts: VersionFacts, core: Mapping[str, str]) -> str:
    """The document's text; `core` are the bundle's sealed files by name, with their sha256.

    Raises:
        BadRequest: the checkout has no locked requirements.
    """
    runtime = [each for each in read_lock(PIPELINE) if each.name == facts.spec.runtime]  # some bundles bring their own
    needed = {each.name: each for each in (*runtime, *read_lock(SERVING))}
    shipped = [_package(each, f"serves:{name}") for name, each in sorted(needed.items())]
    origins = [_origin(each) for each in facts.origins]
    told = {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, _identity(facts))}",
        "version": 1,
        "metadata": {
            "timestamp": facts.made_at,
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [_retort(facts)]},
            "component": _model(facts, core),
        },
        "components": [*origins, *shipped],
        "dependencies": _dependencies([*origins, *shipped]),
        "formulation": [_formula(facts)],
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def _identity(facts: VersionFacts) -> str:
    return "\n".join((facts.name, facts.digest, *(f"{step.label} {step.digest}" for step in facts.steps)))


def _model(facts: VersionFacts, core: Mapping[str, str]) -> _Json:
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": facts.name,
        "version": facts.digest,
        "description": f"{facts.variant}: {facts.spec.task}, {facts.spec.parameters} parameters",
        "hashes": [_sha256(facts.model_sha256)],
        **_licensed(facts.licence),
        "components": [_file(name, sha256) for name, sha256 in sorted(core.items())],
        "externalReferences": [{"type": "model-card", "url": "README.md"}],
        "modelCard": _card(facts),
        "properties": _properties(
            {
                "variant": facts.variant,
                "bundle-digest": facts.digest,
                "runtime": facts.spec.runtime,
                "cpu-features": ", ".join(facts.spec.cpu_features),
                "verdict": facts.verdict.verdict,
            }
        ),
    }


def _card(facts: VersionFacts) -> _Json:
    data = [{"ref": _reference(each)} for each in facts.origins if _is_data(each)]
    quality = [_metric(facts.first.figures[name], "test") for name in facts.metrics if name in facts.first.figures]
    return {
        "modelParameters": {
            "task": facts.spec.task,
            "architectureFamily": "Transformer encoder",
            "datasets": data,
            "inputs": [{"format": "pairs of texts" if facts.spec.texts_per_item > 1 else "texts"}],
            "outputs": [{"format": "JSON"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [*quality, *(each for session in facts.sessions for each in _latency(session))]
        },
        "considerations": {
            "technicalLimitations": [
                facts.spec.long_texts.told(reads=facts.spec.max_length),
                "measured on the reported split and on the machines named alone",
            ]
        },
    }


def _latency(session: Session) -> Iterable[_Json]:
    """Milliseconds."""
    for times in session.times:
        where = f"{session.target}, {session.cpu_model}, {times.what}, n {times.n}, batch 1"
        yield from (_metric(figure, where, name=f"{name}_ms") for name, figure in times.percentiles.items())


def _metric(figure: Figure, where: str, *, name: str = "") -> _Json:
    told: _Json = {"type": name or figure.name, "value": repr(figure.value), "slice": where}
    if figure.low is not None and figure.high is not None:
        told["confidenceInterval"] = {"lowerBound": repr(figure.low), "upperBound": repr(figure.high)}
    return told


def _origin(origin: Origin) -> _Json:
    told: _Json = {
        "type": "data" if _is_data(origin) else "machine-learning-model",
        "bom-ref": _reference(origin),
        "name": origin.name,
        **({"version": origin.version} if origin.version else {}),
        "description": origin.role,
        **_licensed(origin.licence),
        **({"purl": purl} if (purl := _purl_of(origin)) else {}),
        "properties": _properties(
            {
                "digest": origin.digest,
                "kind": origin.kind,
                "licence-stated-by": origin.licence.said_by,
                "languages": ", ".join(origin.languages),
                **{f"part:{part}": name for part, name in origin.parts.items()},
                **{f"digest:{split}": digest for split, digest in origin.digests.items()},
            }
        ),
    }
    return told | ({"data": [{"type": "dataset", "name": origin.name}]} if _is_data(origin) else {})


def _is_data(origin: Origin) -> bool:
    return not origin.role.startswith("teacher")


def _reference(origin: Origin) -> str:
    return f"source:{origin.role.replace(' ', '-')}"


def _package(locked: Locked, reference: str) -> _Json:
    return {
        "type": "library",
        "bom-ref": reference,
        "name": locked.name,
        "version": locked.version,
        **({"hashes": [_sha256(each) for each in locked.sha256]} if locked.sha256 else {}),
        **_licensed(_licence_at(locked.name, locked.version)),
        "purl": _purl("pypi", locked.name, locked.version),
    }


def _retort(facts: VersionFacts) -> _Json:
    return {
        "type": "application",
        "bom-ref": "retort",
        "name": "retort",
        "version": _installed("retort") or "unknown",
        **_licensed(facts.code),
        "properties": _properties({"git-commits": ", ".join(facts.commits), "git-dirty": str(facts.dirty).lower()}),
    }


def _formula(facts: VersionFacts) -> _Json:
    """The locked packages, and where a step was made with another version of one, that too."""
    locked = read_lock(PIPELINE)
    known = {(each.name, each.version) for each in locked}
    used = {(name, version) for step in facts.steps for name, version in step.versions.items() if version != "absent"}
    others = [Locked(name, version, ()) for name, version in sorted(used - known)]
    return {
        "bom-ref": "formula",
        "components": [_package(each, f"makes:{each.name}@{each.version}") for each in (*locked, *others)],
        "properties": _properties(
            {f"step:{step.label}": f"{step.key} {step.digest} {step.commit}" for step in facts.steps}
        ),
    }


def _dependencies(components: Iterable[_Json]) -> list[_Json]:
    references = [each["bom-ref"] for each in components]
    return [{"ref": MODEL, "dependsOn": references}, *({"ref": each} for each in references)]


def _file(name: str, sha256: str) -> _Json:
    return {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_sha256(sha256)]}


def _sha256(digest: str) -> _Json:
    return {"alg": "SHA-256", "content": digest}


def _properties(values: Mapping[str, str]) -> list[_Json]:
    return [{"name": f"retort:{name}", "value": value} for name, value in values.items() if value]


def _licensed(licence: Licence) -> _Json:
    """Where nobody says, nothing: an empty list would say that there is none."""
    from cyclonedx.spdx import is_expression, is_supported_id

    if licence == NOT_STATED:
        return {}
    if is_supported_id(licence.name):
        return {"licenses": [{"license": {"id": licence.name}}]}
    if is_expression(licence.name):
        return {"licenses": [{"expression": licence.name}]}
    return {"licenses": [{"license": {"name": licence.name}}]}


@cache
def _licence_at(name: str, version: str) -> Licence:
    """Of a package that is installed here at that very version."""
    return package_licence(name) if _installed(name) == version else NOT_STATED


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _purl_of(origin: Origin) -> str | None:
    """Where others know it by, if they do."""
    if not origin.version or origin.name == NOT_RECORDED:
        return None
    kinds = {"hub": "huggingface", "package": "pypi"}
    return _purl(kinds[origin.kind], origin.name, origin.version) if origin.kind in kinds else None


def _purl(kind: str, name: str, version: str) -> str:
    from packageurl import PackageURL

    namespace, _, plain = name.rpartition("/")
    told: str = PackageURL(type=kind, namespace=namespace or None, name=plain, version=version).to_string()
    return told
