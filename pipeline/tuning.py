"""Tuning within a run: how a server on the target's kind of machine should run each variant that may be registered."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from pipeline.errors import BadArtifact, Failure
from pipeline.naming import TUNING
from pipeline.records import Record

if TYPE_CHECKING:
    from benchmarks.targets import Target
    from pipeline.artifact import Artifact
    from pipeline.progress import Reporter
    from serving.bundle import Item

MOST_REQUESTS: Final = 1000  # their lengths are what matters, and these have them all
NO_CANDIDATES: Final = ("teacher-torch-fp32", "teacher-onnx-fp32")


class TuneConfig(Record):
    """Sweep sessions, threads, executors and items together under this bound on p99, as `retort tune` does: some
    minutes a variant. Requests are the test split's texts, `items` in each."""

    bound_ms: float = Field(gt=0)
    items: int = Field(default=1, ge=1)


def tune_candidates(
    config: TuneConfig | None,
    artifacts: "Mapping[str, Artifact]",
    target: "Target",
    name: str,
    *,
    texts: "Sequence[Item]",
    out: Path,
    reporter: "Reporter",
) -> dict[str, Any]:
    """Leave `tuning/VARIANT/tuning@NAME.json` in `out` for each variant at the target called `name`; the facts of it.

    Where no setting keeps the bound, noise leaves nothing to choose by, or every setting's process died, there is none
    and the reason is said: a server without one calibrates, and what was measured before is not lost for it.
    """
    if config is None:
        return {}
    from msgspec.structs import replace

    from benchmarks.tune import PLAN, told, told_left_out, tune

    plan, requests = replace(PLAN, bound_ms=config.bound_ms), _requests(texts, items=config.items)

    def tuned(variant: str) -> str:
        with reporter.bar(f"tune {variant}", total=None, unit="settings") as bar:
            found = tune(
                artifacts[variant].path / "bundle",
                requests,
                plan=plan,
                target=name,
                threads=target.threads,
                out=out / TUNING / variant,
                tell=lambda earned: bar.advance(note=told(earned)),
                left_out=lambda setting, why: reporter.line(told_left_out(setting, why)),
            )
        return f"{found.setting.told()} ({found.told()})"

    return {TUNING: _said(tuned, [each for each in artifacts if each not in NO_CANDIDATES], reporter)}


def _said(tuned: Callable[[str], str], variants: "Sequence[str]", reporter: "Reporter") -> dict[str, str]:
    """What was found of each, or why nothing was."""
    said = {}
    for variant in variants:
        try:
            said[variant] = tuned(variant)
        except BadArtifact:
            raise
        except Failure as why:
            said[variant] = f"not tuned: {why}"
        reporter.line(f"{variant}: {said[variant]}")
    return said


def _requests(texts: "Sequence[Item]", *, items: int) -> "list[Sequence[Item]]":
    """As many whole requests as there are texts for, up to MOST_REQUESTS; of too few texts one short request."""
    whole = [texts[at : at + items] for at in range(0, len(texts) - items + 1, items)]
    return whole[:MOST_REQUESTS] or [texts]
