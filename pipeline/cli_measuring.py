"""The commands `retort bench`, `compare` and `tune`: they parse, call what measures or compares, and print."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from pipeline.errors import BadRequest

if TYPE_CHECKING:
    from pipeline.bench import Asked, Benched
    from pipeline.bench_inputs import Given
    from serving.bundle import Bundle

CACHE = Path(".retort/cache")
OUT = Path(".retort/bench")
WIDTH = 150  # where there is no terminal to fit into


def add_measuring(app: typer.Typer) -> None:
    """Make them commands of `retort`."""
    app.command()(bench)
    app.command()(compare)
    app.command()(tune)


def bench(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folders, or NAME=FOLDER.")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="KIND", help="ort-cpu, ort-cuda or openvino; settings as YAML. Repeatable."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled examples: quality is judged on them.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Texts without labels (a .txt, or a table's column).")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text; of pairs two, as in a,b.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    gate: Annotated[
        list[str] | None, typer.Option("--gate", metavar="RULE", help="A rule to judge by; see docs/gates.md.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Whom the others are compared with; default: the first.")] = None,
    lengths: Annotated[str, typer.Option(help="Input lengths in tokens.")] = "16,64",
    samples: Annotated[int, typer.Option(min=10, help="Requests a length and process.")] = 125,
    real: Annotated[int, typer.Option(min=0, help="Texts as they come, a process.")] = 125,
    processes: Annotated[int, typer.Option(min=1, help="Processes of each bundle.")] = 8,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: what affinity and cgroup allow.")] = None,
    again_s: Annotated[float, typer.Option(min=0, help="Seconds for measuring what noise disturbed again.")] = 60.0,
    bound_ms: Annotated[
        float | None, typer.Option(help="Also find the highest rate of requests whose p99 keeps this bound.")
    ] = None,
    scenario: Annotated[
        Literal["engine", "http"], typer.Option(help="Of that rate: in process, or the real server.")
    ] = "engine",
    out: Annotated[Path, typer.Option(help="Folder for receipt, report.html, outcome.md and junit.xml.")] = OUT,
) -> None:
    """Measure bundles beside each other: quality, latency, memory, cold start, and the noise that was met.

    Examples:

      retort bench old/bundle new/bundle --data test.jsonl --gate 'p95_ms <= 1.02 * old with confidence'

      retort bench old=a/bundle new=b/bundle --texts texts.txt --target ort-cpu --target openvino

    Ends with 0 when the gate passes or none is asked, 66 when it fails, 67 when noise or too few samples leave it open.
    """
    from benchmarks.receipt import Load
    from pipeline.bench import Asked
    from pipeline.bench import bench as measure
    from pipeline.bench_inputs import read_bundles, read_targets
    from pipeline.gates import parse_rules, require_pass
    from pipeline.progress import Console

    found = read_bundles(bundles)
    asked = Asked(
        bundles=found,
        targets=read_targets(target or ["ort-cpu"], threads=threads),
        given=_given(found, data=data, texts=texts, text=text, label=label),
        load=Load(_lengths(lengths), n=samples, processes=processes, real=real, again_s=again_s),
        baseline=_known(baseline or next(iter(found)), found),
        out=out,
        rules=parse_rules(gate) if gate else (),
        serve=_serve(bound_ms, scenario),
    )
    benched = measure(asked, Console())
    _show(asked, benched)
    typer.echo(msgspec.json.encode(benched.told(asked)).decode())
    if benched.verdict is not None:
        require_pass(benched.verdict)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="receipt.json, its folder, or runs/NAME: its first target.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is held against A.")],
    pair: Annotated[
        list[str] | None, typer.Option("--pair", metavar="A_NAME=B_NAME", help="Variants of other names. Repeatable.")
    ] = None,
    across_machines: Annotated[bool, typer.Option("--across-machines", help="Compare other machines' times.")] = False,
) -> None:
    """Say in plain sentences how B differs from A: times with their intervals, and quality.

    Example:  retort compare .retort/bench-monday .retort/bench
    """
    from benchmarks.comparison import build_table
    from pipeline.comparing import compare_places

    comparison = compare_places(a, b, pairs=[_pair(each) for each in pair or ()], across_machines=across_machines)
    console = _console()
    console.print(build_table(comparison))
    for told in (*comparison.sentences, *comparison.notes):
        console.print(told, soft_wrap=True, markup=False)
    typer.echo(msgspec.json.encode(comparison).decode())


def tune(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    texts: Annotated[
        Path, typer.Option(help="A text a line, as requests hold them; of pairs two, with a tab between.")
    ],
    bound_ms: Annotated[float | None, typer.Option(help="What p99 must keep; default: 25.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Texts in each request.")] = 1,
    target: Annotated[str, typer.Option(help="What this kind of machine is called.")] = "here",
    out: Annotated[Path | None, typer.Option(help="Folder for the tuning; default: the bundle's.")] = None,
) -> None:
    """Find how a server here runs a bundle to answer most requests: sessions, threads, executors, items together.

    Every setting is loaded in a process of its own with requests that arrive at random, at rising rates, until p99
    breaks the bound: minutes, in which the machine should do nothing else. The winner is kept as tuning@TARGET.json
    beside the bundle, whose digest stays as it is; a server on this kind of machine follows it, and calibrates for two
    seconds where there is none.

    Example:  retort tune path/to/bundle --texts texts.txt --bound-ms 20
    """
    from benchmarks.tune import PLAN, build_table, read_requests, told, told_left_out
    from benchmarks.tune import tune as find
    from pipeline.progress import Console
    from serving.tuning import tuning_file

    reporter = Console()
    found = find(
        bundle,
        read_requests(texts, items=items),
        plan=PLAN if bound_ms is None else msgspec.structs.replace(PLAN, bound_ms=_above_nothing(bound_ms)),
        target=target,
        out=out,
        tell=lambda earned: reporter.line(told(earned)),
        left_out=lambda setting, why: reporter.line(told_left_out(setting, why)),
    )
    console = _console()
    console.print(build_table(found))
    console.print(f"server:     {found.setting.told()} ({found.told()})", soft_wrap=True, markup=False)
    console.print(f"tuning:     {(out or bundle) / tuning_file(target)}", soft_wrap=True, markup=False)
    typer.echo(msgspec.json.encode(found).decode())


def _pair(text: str) -> tuple[str, str]:
    one, equals, other = text.partition("=")
    if not (one and equals and other):
        raise BadRequest(f"--pair {text}: expected A_NAME=B_NAME, a variant of A and one of B")
    return one, other


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
    return ServerConfig(scenario=scenario, bound_ms=_above_nothing(bound_ms)).serve()


def _above_nothing(bound_ms: float) -> float:
    if not 0 < bound_ms < math.inf:
        raise BadRequest(f"--bound-ms {bound_ms:g}: give a number above 0")
    return bound_ms


def _show(asked: "Asked", benched: "Benched") -> None:
    """A table a target, what disturbed it, the verdict, and where the rest is."""
    from rich import box
    from rich.table import Table

    from benchmarks.shown import circumstances, variants_table
    from pipeline.bench import folder_of, outcomes
    from pipeline.telling import PAGE

    console = _console()
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
        console.print(f"report:     {folder_of(asked, kind) / PAGE}", soft_wrap=True)
    if benched.verdict is not None:
        console.print(f"gate:       {benched.verdict.verdict}: {benched.verdict.reason}", soft_wrap=True)


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)
