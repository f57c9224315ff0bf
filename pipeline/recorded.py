"""What a run's record says of its steps and of itself: the events of each, told from configs and manifests."""

import hashlib
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from pathlib import Path, PurePosixPath
from platform import node
from typing import TYPE_CHECKING, Any, Final

from pipeline.artifact import EVIDENCE, MANIFEST, Artifact
from pipeline.build import ROOT, git_state
from pipeline.events import PARENT, Closed, Data, Event, Files, Metrics, Opened, Params, Read, Tags
from pipeline.naming import BENCHMARK
from pipeline.origins import without_secrets
from pipeline.sharing import shareable

if TYPE_CHECKING:
    from pipeline.graph import Step

LOCK: Final = ROOT / "requirements" / "pipeline.txt"
LINEAGE: Final = "retort.lineage."
SHOWN_AT_TOP: Final = (MANIFEST, "receipt.json", "figures.json", "verdict.json")
SIZES: Final = {"train_texts": "train", "dev_texts": "dev", "test_texts": "test"}


def begun(step: "Step", key: str, digests: Mapping[str, str]) -> Iterator[Event]:
    """A step begins."""
    yield Opened(of=step.label, name=step.label, key=key, tags=step_tags(step, key, digests))
    yield Params(of=step.label, values=shareable(step.config.model_dump(mode="json")))


def sealed(
    step: "Step",
    artifact: Artifact,
    digests: Mapping[str, str],
    *,
    keep: Callable[[Mapping[str, Path]], str | None],
    first: str,
) -> Iterator[Event]:
    """A step is done: what people look at (in a folder that `keep` makes, where there is room), what it read, its
    figures, and the tags that announce them. The run itself has the data and figures too; those of the `first` target
    need no name."""
    facts, label = artifact.manifest.facts, step.label
    if folder := keep(shown_files(artifact)):
        yield Files(of=label, folder=folder, to="")
    if data := data_of(step, digests, facts):
        yield Read(of=label, data=data)
        yield Read(of=PARENT, data=data)
    if figures := figures_of(facts):
        target = str(facts.get("target", ""))
        yield metrics(label, figures)
        yield metrics(PARENT, figures_of(facts, target="" if target == first else target))
    verdict = shareable(verdict_tags(facts))
    yield Tags(of=label, values=sealed_tags(artifact) | verdict)
    if verdict:
        yield Tags(of=PARENT, values=verdict)
    yield Closed(of=label, status="FINISHED")


def metrics(of: str, values: Mapping[str, float], *, step: int = 0) -> Metrics:
    """Numbers as an event; what is not finite becomes a word."""
    return Metrics(of=of, step=step, values={n: float(v) if isfinite(v) else str(v) for n, v in values.items()})


def origin_tags() -> dict[str, str]:
    """Which source this is, on which machine, and who runs it; MLflow's pages know some of these names."""
    git = git_state()
    return {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "retort",
        "mlflow.source.git.commit": str(git["commit"]),
        "mlflow.user": _user(),
        "retort.git_commit": str(git["commit"]),
        "retort.git_dirty": str(git["dirty"]).lower(),
        "retort.lock": hashlib.sha256(LOCK.read_bytes()).hexdigest() if LOCK.is_file() else "unknown",
        "retort.host": node(),
    }


def step_tags(step: "Step", key: str, digests: Mapping[str, str]) -> dict[str, str]:
    """What a step is, and the digests of what it reads."""
    return {
        "retort.label": step.label,
        "retort.stage": step.stage,
        "retort.key": key,
        **{f"{LINEAGE}{role}": digest for role, digest in digests.items()},
    }


def sealed_tags(artifact: Artifact) -> dict[str, str]:
    """What came of a step."""
    return {"retort.digest": artifact.digest, "retort.seconds": f"{artifact.manifest.seconds:g}"}


def verdict_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """The gate's verdict, why, and the version that was registered."""
    verdict, registered = facts.get("verdict"), facts.get("registered")
    tags = {} if not verdict else {"retort.verdict": str(verdict["verdict"]), "retort.reason": str(verdict["reason"])}
    if registered:
        tags |= {"retort.model": str(registered["name"]), "retort.version": str(registered["version"])}
    return tags


def figures_of(facts: Mapping[str, Any], *, target: str = "") -> dict[str, float]:
    """VARIANT/FIGURE, and TARGET/VARIANT/FIGURE where a target is named. Ratios are left out: they follow from the
    others, and the slash in their names would make a group of each in MLflow's pages."""
    place = f"{target}/" if target else ""
    return {
        f"{place}{variant}/{name}": float(value)
        for variant, figures in facts.get("figures", {}).items()
        for name, value in figures.items()
        if "/" not in name and value is not None  # JSON knows no NaN: it is not known
    }


def shown_files(artifact: Artifact) -> dict[str, Path]:
    """The files of an artifact that people look at, by their place beside the run: its evidence (curves, reports,
    pictures), receipts and manifest, and nothing of what a version is made of."""
    names = [name for name in artifact.manifest.files if name.startswith(f"{EVIDENCE}/") or name in SHOWN_AT_TOP]
    found = {str(PurePosixPath(name)): artifact.path / name for name in (MANIFEST, *names)}
    return {name: path for name, path in found.items() if path.is_file()}


def data_of(step: "Step", digests: Mapping[str, str], facts: Mapping[str, Any]) -> list[Data]:
    """The data sets that a step read: the task's, with as many texts as the step says its splits have, and the text."""
    found = []
    if "task" in step.sources:
        source: Any = step.sources["task"]
        sizes = {split: int(facts[name]) for name, split in SIZES.items() if name in facts}
        context = "evaluation" if step.stage == BENCHMARK else "training"
        found.append(_data(source.task.data, digests["task"], sizes, name=_name(source.task.data), context=context))
    if "text" in step.sources:
        source = step.sources["text"]
        found.append(_data(source, digests["text"], {}, name=f"{_name(source)} (text)", context="training"))
    return found


def _data(source: Any, digest: str, splits: dict[str, int], *, name: str, context: str) -> Data:
    written = shareable(source.model_dump(mode="json"))
    return Data(name=name, digest=digest, kind=source.kind, context=context, source=written, splits=splits)


def _name(source: Any) -> str:
    """A data set of the hub by its id, files by the first one's name, others by their kind."""
    if source.kind == "hub":
        return without_secrets(str(source.id))
    if source.kind == "files":
        files = source.train if hasattr(source, "train") else source.files
        return PurePosixPath(without_secrets(files if isinstance(files, str) else files[0])).name
    return str(source.kind)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return str(os.getuid())
