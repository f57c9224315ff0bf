"""All that a version's card and bill of materials say, gathered once from manifests and receipts.

A number is here because a receipt or a manifest holds it; nothing is computed but by choosing and naming.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from benchmarks.measure import TOTAL, Latency
from benchmarks.receipt import Receipt, read_receipt
from benchmarks.report import BASELINE
from pipeline.artifact import Artifact, Manifest, file_sha256
from pipeline.data.docstring_sets import Split
from pipeline.errors import BadArtifact
from pipeline.gates import Verdict
from pipeline.licences import NOT_STATED, Licence, code_licence, folder_licence
from pipeline.naming import BENCHMARK
from pipeline.origins import Origin, origin_of, shown_place, unknown_origin
from pipeline.tasking.base import ALL, TUNING
from pipeline.version_records import Figure, Parity, Session, StepFacts, Times, VersionFacts
from serving.bundle import Bundle, read_bundle

__all__ = ["VersionFacts", "facts_of"]

RECEIPTS: Final = "receipts"
PARITY: Final = "parity@here.json"
_PERCENTS: Final = ("p50", "p95", "p99")
_T = TypeVar("_T")


def facts_of(
    artifacts: Mapping[str, Artifact],
    verdict: Verdict,
    bundle: Path,
    *,
    name: str,
    digest: str,
    alias: str = "champion",
    licence: str | None = None,
    sources: Mapping[str, Any] | None = None,
    cache: Path | None = None,
) -> VersionFacts:
    """The facts of the version of model `name` that `bundle`, with its receipts beside the core, becomes.

    `artifacts` are what the register stage reads, `alias` is of the version in service, `licence` the model's own as
    its maker says; `sources` are the run's by name (teacher, text, task), only their digests are told where they are
    not given; `cache` the workspace's.

    Raises:
        BadArtifact: the bundle is not the one of this digest, a receipt is missing or altered, or a source is not what
            the steps read.
        Transient: a source is elsewhere and cannot be reached.
    """
    found = _chosen(bundle, digest=digest)
    manifests = {label: artifact.manifest for label, artifact in artifacts.items()}
    return VersionFacts(
        name=name,
        alias=alias,
        **_shipped(found),
        verdict=verdict,
        licence=Licence(licence, "whoever registered it") if licence else NOT_STATED,
        code=code_licence(),
        **_taught(manifests, found.spec.name, sources or {}, cache or Path()),
        parity=_decoded(bundle / RECEIPTS / PARITY, Parity),
        sessions=tuple(_sessions(manifests, found)),
        steps=tuple(_step(manifest) for manifest in manifests.values()),
    )


def _chosen(bundle: Path, *, digest: str) -> Bundle:
    found = read_bundle(bundle)
    if found.digest != digest:
        raise BadArtifact(f"{bundle} is {found.digest[:12]}, not the {digest[:12]} that was chosen; run again")
    return found


def _taught(manifests: Mapping[str, Manifest], variant: str, sources: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """What the variant learned from, and what it was judged by."""
    student, measured = _student(variant, manifests), manifests[BENCHMARK].facts
    distilled, tuned = manifests.get(f"distill-{student}") or manifests["distill"], manifests[f"finetune-{student}"]
    origins = tuple(_origins(manifests, distilled, tuned, sources, cache))
    _require_read(manifests, sources, origins, cache)
    metrics = (measured["metric"], *measured["also"][variant])
    return {"origins": origins, "metrics": metrics} | _learned(distilled.facts, tuned.facts, measured)


def _student(variant: str, manifests: Mapping[str, Manifest]) -> str:
    """Whose variant it is: the student whose name it begins with."""
    names = [label.removeprefix("finetune-") for label in manifests if label.startswith("finetune-")]
    mine = [name for name in names if variant.startswith(f"{name}-")]
    if not mine:
        raise BadArtifact(f"variant {variant} is of none of the students {', '.join(names)}; run again")
    return max(mine, key=len)


def _origins(
    manifests: Mapping[str, Manifest],
    distilled: Manifest,
    tuned: Manifest,
    sources: Mapping[str, Any],
    cache: Path,
) -> Iterator[Origin]:
    """The teacher, the text, the labelled data, and what else a task reads or is taught by."""
    first = manifests.get("pretrain", distilled)
    task = _task_in(sources)
    named = {role: sources.get(role) for role in ("teacher", "text")} | {"data": getattr(task, "data", None)}
    digests = {"teacher": first.inputs, "text": first.inputs, "data": {"data": tuned.inputs["task"]}}
    for role, source in named.items():
        digest = digests[role].get(role, "")
        yield origin_of(role, source, cache=cache) if source is not None else unknown_origin(role, digest)
    more = {"texts of the task": getattr(task, "texts", None)}
    more["texts out of scope"] = getattr(getattr(task, "refusal", None), "data", None)
    for role, source in more.items():
        if source is not None:
            yield origin_of(role, source, cache=cache)
    if (taught_by := tuned.config.get("distill_from")) not in (None, "teacher"):
        digest, folder = tuned.inputs["teacher"], Path(taught_by)
        yield Origin("teacher of the task", "folder", shown_place(taught_by), "", digest, folder_licence(folder))


def _require_read(
    manifests: Mapping[str, Manifest], sources: Mapping[str, Any], origins: Iterable[Origin], cache: Path
) -> None:
    """Refuse a source that was changed after a step had read it: the card would tell of what nobody learned from.

    It is looked at after the origins were told, so that no change between the two goes unseen.
    """
    names = {origin.role: origin.name for origin in origins}
    for (role, splits), digests in _read_by(manifests).items():
        source = _task_in(sources) if role == "data" else sources.get(role)
        if source is None:
            continue
        now = source.identity(cache, splits) if role == "data" else source.identity(cache)
        for label, read in digests.items():
            if read != now:
                raise BadArtifact(
                    f"the {role} ({names[role]}) was changed after {label} read it: its digest was {read} and is {now} "
                    "now; put back what was there, or run again: the steps that read it are made anew"
                )


def _read_by(manifests: Mapping[str, Manifest]) -> dict[tuple[str, tuple[Split, ...]], dict[str, str]]:
    """By source of the run and the splits of it (what chooses reads fewer than what reports), the steps that read it
    with the digest that it had then. What was pretrained is a teacher that the run made, and no source."""
    found: dict[tuple[str, tuple[Split, ...]], dict[str, str]] = {}
    for label, manifest in manifests.items():
        roles = {"task": "data", "text": "text"}
        if manifest.stage == "pretrain" or (manifest.stage == "distill" and "pretrain" not in manifests):
            roles["teacher"] = "teacher"
        if label == "finetune-teacher" and "pretrain" not in manifests:
            roles["model"] = "teacher"
        for name in roles.keys() & manifest.inputs.keys():
            splits = () if name != "task" else tuple(ALL if manifest.stage == BENCHMARK else TUNING)
            found.setdefault((roles[name], splits), {})[label] = manifest.inputs[name]
    return found


def _task_in(sources: Mapping[str, Any]) -> Any:
    """The task itself, whichever of its splits are meant."""
    return getattr(sources.get("task"), "task", sources.get("task"))


def _shipped(bundle: Bundle) -> dict[str, Any]:
    """What the bundle is."""
    graph = bundle.path / "model.onnx"
    told = {"variant": bundle.spec.name, "digest": bundle.digest, "spec": bundle.spec}
    return told | {"size_bytes": graph.stat().st_size, "model_sha256": file_sha256(graph)}


def _learned(distilled: Mapping[str, Any], tuned: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """How much of what there was to learn from, and to be judged by."""
    return {
        "teacher_parameters": distilled["teacher_parameters"],
        "distilled_tokens": int(distilled["tokens"]),
        "sizes": {"train": tuned["train_texts"], "dev": tuned["dev_texts"], "test": measured["test_texts"]},
        "also_in_train": measured["test_texts_also_in_train"],
        "cut": {split: each["cut_share"] for split, each in tuned["data"]["splits"].items()},
    }


def _sessions(manifests: Mapping[str, Manifest], bundle: Bundle) -> Iterator[Session]:
    """Those that the bundle has receipts of, the first target first."""
    measured = (manifest for manifest in manifests.values() if manifest.stage == BENCHMARK)
    targets = dict.fromkeys(each.facts["target"] for each in (manifests[BENCHMARK], *measured))
    for target in targets:
        place = bundle.path / RECEIPTS / f"latency@{target}.json"
        if place.is_file():  # a target that this machine was not has none
            figures = _decoded(place.with_name(f"quality@{target}.json"), dict[str, dict[str, float]])
            yield _session(read_receipt(place), figures, bundle.spec.name)


def _session(receipt: Receipt, figures: Mapping[str, Mapping[str, float]], variant: str) -> Session:
    machine, mine = receipt.machine, receipt.variant(variant)
    series = {f"{length} tokens": mine.latency[length][TOTAL] for length in sorted(mine.latency, reverse=True)}
    series |= {"texts as they come": mine.real[TOTAL]} if mine.real else {}
    return Session(
        target=receipt.target,
        started=receipt.started,
        cpu_model=machine.cpu_model,
        cores=machine.cores,
        quota_cores=machine.quota_cores,
        memory_mb=machine.memory_mb,
        threads=receipt.how.threads,
        providers=mine.facts.providers,
        libraries=machine.libraries,
        python=machine.python,
        noise=receipt.disturbed,
        receipt=receipt.digest,
        times=tuple(_times(what, latency) for what, latency in series.items()),
        figures=_named(figures[variant]),
        teacher=_named(figures.get(BASELINE, {})),
    )


def _times(what: str, latency: Latency) -> Times:
    ends = {each: tuple(getattr(latency, f"{each}{end}_ms") for end in ("", "_low", "_high")) for each in _PERCENTS}
    known = {each: Figure(each, *three) for each, three in ends.items() if three[0] is not None}
    return Times(what, latency.n, latency.processes, known)


def _named(figures: Mapping[str, float]) -> dict[str, Figure]:
    """Without the ratios to other variants, which follow from the others' figures."""
    plain = {name: value for name, value in figures.items() if "/" not in name}
    return {
        name: Figure(name, value, plain.get(f"{name}_low"), plain.get(f"{name}_high"))
        for name, value in plain.items()
        if not name.endswith(("_low", "_high"))
    }


def _step(manifest: Manifest) -> StepFacts:
    told = {field: getattr(manifest, field) for field in ("label", "stage", "key", "digest", "finished_at", "seconds")}
    commit, dirty = str(manifest.git["commit"]), bool(manifest.git["dirty"])
    return StepFacts(**told, commit=commit, dirty=dirty, versions=manifest.versions)


def _decoded(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path} is no receipt that can be read: {error}; run the benchmark again") from error
