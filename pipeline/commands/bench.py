"""The command `retort bench`: it parses, calls what measures, and prints."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.commands.options import Json, echo, for_people
from pipeline.errors import BadRequest
from pipeline.progress import Console, summary_console

if TYPE_CHECKING:
    from benchmarks.receipt import Load
    from pipeline.bench import Asked, Benched
    from pipeline.bench_inputs import Given
    from serving.bundle import Bundle

CACHE = Path(".retort/cache")
OUT = Path(".retort/bench")

Bundles = Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folders, or NAME=FOLDER.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--target", metavar="KIND", help="ort-cpu, ort-cuda or openvino; settings as YAML. Repeatable."),
]
Labelled = Annotated[Path | None, typer.Option(help="Labelled examples: quality is judged on them.")]
Unlabelled = Annotated[Path | None, typer.Option(help="Texts without labels (a .txt, or a table's column).")]
TextColumn = Annotated[str | None, typer.Option(help="Column of the text; of pairs two, as in a,b.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label.")]
Rules = Annotated[
    list[str] | None, typer.Option("--gate", metavar="RULE", help="A rule to judge by; see docs/gates.md.")
]
Baseline = Annotated[str | None, typer.Option(help="Whom the others are compared with; default: the first.")]
Lengths = Annotated[str, typer.Option(help="Input lengths in tokens.")]
Samples = Annotated[int, typer.Option(min=10, help="Requests a length and process.")]
Real = Annotated[int, typer.Option(min=0, help="Texts as they come, a process.")]
Processes = Annotated[int, typer.Option(min=1, help="Processes of each bundle.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Default: what affinity and cgroup allow.")]
AgainS = Annotated[float, typer.Option(min=0, help="Seconds for measuring what noise disturbed again.")]
BoundMs = Annotated[
    float | None, typer.Option(help="Also find the highest rate of requests whose p99 keeps this bound.")
]
Scenario = Annotated[Literal["engine", "http"], typer.Option(help="Of that rate: in process, or the real server.")]
Out = Annotated[Path, typer.Option(help="Folder for receipt, report.html, outcome.md and junit.xml.")]


def bench(
    bundles: Bundles,
    target: Kinds = None,
    data: Labelled = None,
    texts: Unlabelled = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    gate: Rules = None,
    baseline: Baseline = None,
    lengths: Lengths = "16,64",
    samples: Samples = 125,
    real: Real = 125,
    processes: Processes = 8,
    threads: Threads = None,
    again_s: AgainS = 45.0,
    bound_ms: BoundMs = None,
    scenario: Scenario = "engine",
    out: Out = OUT,
    json_only: Json = False,
) -> None:
    """Measure bundles beside each other: quality, latency, memory, cold start, and the noise that was met.

    Example:  retort bench old=a/bundle new=b/bundle --data test.jsonl --gate 'p95_ms <= 1.02 * old with confidence'

    Ends with 0 when the gate passes or none is asked, 66 when it fails, 67 when noise or too few samples leave it open.
    """
    from pipeline.bench_inputs import read_bundles, read_targets

    found = read_bundles(bundles)
    _measure(
        bundles=found,
        targets=read_targets(target or ["ort-cpu"], threads=threads),
        given=_given(found, data=data, texts=texts, text=text, label=label),
        load=_load(lengths, n=samples, processes=processes, real=real, again_s=again_s),
        baseline=_known(baseline or next(iter(found)), found),
        out=out,
        rules=gate or (),
        serve=_serve(bound_ms, scenario),
        json_only=json_only,
    )


def _measure(*, rules: Sequence[str], json_only: bool, **asked_for: Any) -> None:
    """Hold the sessions, print what they found, and end by the gate's verdict."""
    from pipeline.bench import Asked
    from pipeline.bench import bench as measure
    from pipeline.gates import parse_rules, require_pass

    asked = Asked(rules=parse_rules(rules) if rules else (), **asked_for)
    benched = measure(asked, Console())
    with for_people(unless=json_only):
        _show(asked, benched)
    echo(benched.told(asked))
    if benched.verdict is not None:
        require_pass(benched.verdict)


def _given(
    bundles: "dict[str, Bundle]", *, data: Path | None, texts: Path | None, text: str | None, label: str | None
) -> "Given":
    from pipeline.bench_inputs import golden_items, read_labelled, read_unlabelled

    if data is not None and texts is not None:
        raise BadRequest("--data and --texts are both given: the items come from one of them")
    if data is not None:
        return read_labelled(data, next(iter(bundles.values())).spec, text=text, label=label, cache=CACHE)
    if texts is not None:
        return read_unlabelled(texts, text=text, cache=CACHE)
    return golden_items(bundles)


def _load(lengths: str, **counts: Any) -> "Load":
    from benchmarks.receipt import Load

    return Load(_lengths(lengths), **counts)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise BadRequest(f"--lengths {text}: expected whole numbers apart by commas, as in 16,64") from error
    if len(set(found)) < len(found) or min(found) < 1:
        raise BadRequest(f"--lengths {text}: lengths must be above 0 and differ")
    return found


def _known(baseline: str, bundles: "dict[str, Bundle]") -> str:
    if baseline not in bundles:
        raise BadRequest(f"--baseline {baseline}: no bundle is called so; there are {', '.join(bundles)}")
    return baseline


def _serve(bound_ms: float | None, scenario: Literal["engine", "http"]) -> Any:
    from pipeline.measuring import ServerConfig

    if bound_ms is None:
        return None
    return ServerConfig(scenario=scenario, bound_ms=require_bound(bound_ms)).serve()


def require_bound(bound_ms: float, *, option: str = "--bound-ms") -> float:
    """The bound on p99 that a user gave; BadRequest where it is none."""
    if not 0 < bound_ms < math.inf:
        raise BadRequest(f"{option} {bound_ms:g}: give a number above 0")
    return bound_ms


def _show(asked: "Asked", benched: "Benched") -> None:
    """A table a target, what disturbed it, the verdict, and where the rest is."""
    from rich import box
    from rich.table import Table

    from benchmarks.shown import circumstances, unknown_rates, variants_table
    from pipeline.bench import folder_of, outcomes
    from pipeline.telling import PAGE

    console = summary_console()
    for kind, receipt in benched.receipts.items():
        headings, rows = variants_table(outcomes(asked, benched, kind))
        table = Table(headings[0], title=kind, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:  # a column each: there are more figures than variants
            table.add_column(row[0], justify="right", overflow="fold")
        for cells in zip(headings[1:], *(row[1:] for row in rows), strict=True):
            table.add_row(*cells)
        console.print(table)
        console.print(circumstances(receipt), soft_wrap=True)
        console.print(f"noise:      {receipt.disturbed or 'none was found'}", soft_wrap=True)
        for why in unknown_rates(receipt):
            console.print(f"rate:       {why}", soft_wrap=True, markup=False)
        console.print(f"report:     {folder_of(asked, kind) / PAGE}", soft_wrap=True)
    if benched.verdict is not None:
        console.print(f"gate:       {benched.verdict.verdict}: {benched.verdict.reason}", soft_wrap=True)
