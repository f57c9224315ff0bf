"""What a run ends with: the table, the verdict and its reason, what was registered and promoted, and where to look."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipeline.artifact import EVIDENCE, Artifact
from pipeline.config import RunConfig
from pipeline.graph import sessions_of
from pipeline.naming import BENCHMARK, CHAMPION, TUNING
from pipeline.progress import summary_console
from pipeline.registration import Given, Outcome, read_outcome
from pipeline.runner import Planned
from pipeline.telling import write_told
from pipeline.workspace import Workspace


def plan_table(name: str, planned: Sequence[Planned]) -> None:
    """What `run` would do, a row a step."""
    from rich.table import Table

    table = Table(title=f"plan of {name}", title_justify="left")
    for heading in ("step", "state", "key"):
        table.add_column(heading)
    for one in planned:
        state = f"waits for {', '.join(one.waits_for)}" if one.waits_for else one.state
        table.add_row(one.step.label, state, one.key or "")
    summary_console().print(table)


def show_run(config: RunConfig, workspace: Workspace, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """Print the summary of what is finished; return the same for machines."""
    console = summary_console()
    folder = workspace.run_folder(config.name)
    evidence = _collect_evidence(artifacts, folder)
    result: dict[str, Any] = {"run": config.name, "verdict": None, "model_uri": None, "variants": []}
    sessions = {target: artifacts[label] for target, label in sessions_of(config).items() if label in artifacts}
    if sessions:
        result |= _show_sessions(config, sessions, console)
        evidence += _tell_sessions(config, sessions, artifacts.get("register"), folder)
    else:
        _show_steps(config.name, artifacts, console)
    result |= _show_searches(artifacts, console)
    if "register" in artifacts:
        result |= _show_verdict(config, artifacts["register"], folder, console)
    for path in evidence:
        console.print(f"{'curve' if path.suffix == '.png' else 'report'}:".ljust(12) + str(path), soft_wrap=True)
    console.print(f"again:      retort show, with the same config and settings; run folder {folder}", soft_wrap=True)
    return result


def _show_sessions(config: RunConfig, sessions: Mapping[str, Artifact], console: Any) -> dict[str, Any]:
    """A table for each target; the first one's figures are the run's own, and of several each is told by name."""
    several = len(config.benchmark.targets) > 1
    told: dict[str, dict[str, Any]] = {}
    for target, session in sessions.items():
        if why := session.manifest.facts.get("skipped"):
            console.print(f"{target} is skipped: {why}", soft_wrap=True, markup=False)
            told[target] = {"skipped": why}
            continue
        if several:
            console.print(f"target {target}:", soft_wrap=True)
        told[target] = _show_figures(session, console)
    return told.get(config.benchmark.first, {}) | ({"targets": told} if several else {})


def _tell_sessions(
    config: RunConfig, sessions: Mapping[str, Artifact], register: Artifact | None, folder: Path
) -> list[Path]:
    """The page, the comment and the test results of every session: of several, each in its own folder."""
    several = len(config.benchmark.targets) > 1
    written: list[Path] = []
    for target, session in sessions.items():
        if not session.manifest.facts.get("skipped"):
            title = f"{config.name} at {target}" if several else config.name
            place = folder / f"{BENCHMARK}-{target}" if several else folder
            written += write_told(title, session, register, place)
    return written


def _show_figures(benchmark: Artifact, console: Any) -> dict[str, Any]:
    from benchmarks.receipt import read_receipt
    from benchmarks.report import Row, build_scores_table, build_table
    from benchmarks.shown import unknown_rates

    facts = benchmark.manifest.facts
    rows = msgspec.convert(facts["rows"], list[Row])
    console.print(build_table(rows, metric=facts["metric"], lengths=facts["lengths"], threads=facts["threads"]))
    if any(facts["also"].values()):
        console.print(build_scores_table(facts["also"]))
    beside = _show_beside(facts, console)
    for variant, told in facts.get(TUNING, {}).items():
        console.print(f"tuning of {variant}: {told}", soft_wrap=True, markup=False)
    receipt = read_receipt(benchmark.path)
    machine = receipt.machine
    console.print(
        f"{machine.cpu_model}, {machine.cores} cores; {facts['test_texts']:,} test texts "
        f"({facts['test_texts_also_in_train']} of them also in train); {facts['samples']} samples a length; "
        f"{benchmark.manifest.finished_at}",
        soft_wrap=True,
    )
    console.print(f"noise:      {facts['noise'] or 'none was found'}", soft_wrap=True, markup=False)
    for why in unknown_rates(receipt):
        console.print(f"rate:       {why}", soft_wrap=True, markup=False)
    return {
        "variants": [msgspec.to_builtins(row) for row in rows],
        "against_fp32": beside,
        "noise": facts["noise"],
    }


def _show_beside(facts: Mapping[str, Any], console: Any) -> list[dict[str, Any]]:
    """Nothing where the benchmark is of a time that did not compare variants with their fp32."""
    from benchmarks.beside import build_beside, build_beside_table

    beside = build_beside(facts["figures"], facts["against_fp32"]) if "against_fp32" in facts else ()
    if beside:
        console.print(build_beside_table(beside, metric=facts["metric"]))
    return [msgspec.to_builtins(each) for each in beside]


def _show_searches(artifacts: Mapping[str, Artifact], console: Any) -> dict[str, Any]:
    """What each search tried, and why its winner won."""
    from pipeline.quantizing.search_report import build_table

    found = {
        label: each.manifest.facts["search"] for label, each in artifacts.items() if "search" in each.manifest.facts
    }
    for label, facts in found.items():
        console.print(build_table(facts))
        console.print(f"{label}: {facts['reason']}", soft_wrap=True)
    return {"searches": found} if found else {}


def _show_verdict(config: RunConfig, register: Artifact, folder: Path, console: Any) -> dict[str, Any]:
    """The gate's two answers, what became of the version, and what to type next."""
    came = read_outcome(register)
    verdict, given = came.verdict, came.registered
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(register.path / "verdict.json", folder / "verdict.json")
    lines = {"gate": f"{verdict.verdict}: {verdict.reason}"}
    if given is not None:
        lines |= registered_lines(came, given, alias=config.register.alias)
    for heading, text in lines.items():
        console.print(f"{heading}:".ljust(12) + text, soft_wrap=True, markup=False)
    if given is None:
        return {"verdict": verdict.verdict, "model_uri": None}
    told = {"model_uri": given.model_uri, "aliases": given.aliases, "promoted": came.promoted, "why": came.why}
    return {"verdict": verdict.verdict, **told}


def registered_lines(came: Outcome, given: Given, *, alias: str) -> dict[str, str]:
    """By heading: which version it is and whether it became the champion, why, and the commands that come next."""
    aliases = " and ".join(given.aliases) or "no alias"
    version = f"{given.model_uri}, made {aliases}" if given.new else f"{given.model_uri} already, which is {aliases}"
    where = f"--tracking-uri {shlex.quote(given.tracking_uri)}"
    source = shlex.quote(f"models:/{given.name}@{alias}")
    name = shlex.quote(given.name)
    challenges = not came.promoted and alias not in given.aliases
    to = f" --to {alias}" if alias != CHAMPION else ""
    step = f"promote {name} --version {given.version}{to} --why '...'" if challenges else f"history {name}"
    uri = given.tracking_uri
    return {
        "registered": version,
        "promoted": f"{'yes' if came.promoted else 'no'}: {came.why}" if given.new else came.why,
        "registry": uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}",
        "serve": f"retort serve {source} {where}",
        "next": f"retort {step} {where}",
    }


def _show_steps(name: str, artifacts: Mapping[str, Artifact], console: Any) -> None:
    from rich.table import Table

    table = Table(title=f"finished steps of {name}", title_justify="left")
    for heading in ("step", "seconds", "folder"):
        table.add_column(heading, overflow="fold")
    for label, artifact in artifacts.items():
        table.add_row(label, f"{artifact.manifest.seconds:.1f}", str(artifact.path))
    console.print(table)


def _collect_evidence(artifacts: Mapping[str, Artifact], folder: Path) -> list[Path]:
    """Copies of the loss curves and training reports in the run folder, where one would look for them."""
    copies = []
    for label, artifact in artifacts.items():
        for name, suffix in (("curve.png", ".png"), ("report.html", ".html")):
            source = artifact.path / EVIDENCE / name
            if source.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                copies.append(Path(shutil.copyfile(source, folder / f"{label}{suffix}")))
    return copies
